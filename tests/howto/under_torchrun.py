"""Run trainers of a page one after the other in this process of ``torchrun``; leave weights and banks of this rank.

Arguments: files with code, each followed by the number of its epochs. What they save lies beside them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.distributed.process_groups import ending_the_group
from tests.howto.trainer_page import banks, run, weights
from tests.howto.two_cities import given

if __name__ == "__main__":
    with ending_the_group():
        for name, epochs in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
            file = Path(name)
            names = run(file.read_text(encoding="utf-8"), {**given(), "folder": file.parent, "epochs": int(epochs)})
            left = {"weights": weights(names["network"]), "banks": banks(names["sim"]) if "sim" in names else {}}
            torch.save(left, file.with_suffix(f".rank{dist.get_rank()}.pt"))
            dist.barrier()
            dist.init_process_group = lambda backend: None  # which is there from the first trainer on
            del names  # which hold the group
