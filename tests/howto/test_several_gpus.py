"""The page about several GPUs: its loop under torchrun, on two processes of a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.howto.trainer_page import TrainerPage, weights
from tests.howto.two_cities import given

ROOT = Path(__file__).parents[2]
PAGE = TrainerPage("several_gpus")


def torchrun(folder: Path, **trainers: tuple[str, int]) -> dict[str, list[dict[str, Any]]]:
    """What trainers and their epochs leave on two processes, which run one after the other."""
    words = []
    for name, (code, epochs) in trainers.items():
        (folder / name).write_text(code, encoding="utf-8")
        words += [str(folder / name), str(epochs)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "tests.howto.under_torchrun", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {
        name: [torch.load(folder / f"{name}.rank{rank}.pt", weights_only=True) for rank in range(2)]
        for name in trainers
    }


def test_ranks_train_one_network_and_fill_the_same_banks(tmp_path: Path) -> None:
    PAGE.check_count()
    (resume,) = PAGE.further
    resumed = PAGE.trainer.replace("for epoch in range(epochs):", f"{resume}\nfor epoch in range(epochs):")
    left = torchrun(tmp_path, before=(PAGE.trainer_before, 2), whole=(PAGE.trainer, 2), resumed=(resumed, 0))
    first, second = left["whole"]
    assert torch.equal(first["weights"], second["weights"])
    torch.testing.assert_close(first["banks"], second["banks"], rtol=0, atol=0)
    written = first["banks"]["stuff_bank.written"]
    assert bool((written > 50).any()), written
    assert bool((first["banks"]["instance_bank.written"] > 0).all())
    assert all(bool(buffer.isfinite().all()) for buffer in first["banks"].values())
    assert not torch.equal(first["weights"], weights(given()["network"]))
    assert not torch.equal(first["weights"], left["before"][0]["weights"])
    for rank in left["resumed"]:
        torch.testing.assert_close(rank["banks"], first["banks"], rtol=0, atol=0)
        assert torch.equal(rank["weights"], first["weights"])
