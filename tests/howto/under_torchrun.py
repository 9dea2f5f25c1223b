"""Run one trainer of a page in this process of ``torchrun``, and leave weights and banks of this rank behind.

Arguments: the file with the code, the folder to write to, and how many epochs.
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
    torch.set_num_threads(1)
    code, folder, epochs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    with ending_the_group():
        names = run(code.read_text(encoding="utf-8"), {**given(), "folder": folder, "epochs": epochs})
        left = {"weights": weights(names["network"]), "banks": banks(names["sim"]) if "sim" in names else {}}
        torch.save(left, folder / f"rank{dist.get_rank()}.pt")
        del names  # which hold the group
