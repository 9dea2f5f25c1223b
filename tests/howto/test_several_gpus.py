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


def torchrun(code: str, folder: Path, epochs: int = 2) -> subprocess.CompletedProcess[str]:
    """``code`` as a file that two processes run."""
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(code, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launch, "-m", "tests.howto.under_torchrun", str(folder / "train.py"), str(folder), str(epochs)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def left_by_ranks(done: subprocess.CompletedProcess[str], folder: Path) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_ranks_train_one_network_and_fill_the_same_banks(tmp_path: Path) -> None:
    PAGE.check_count()
    first, second = left_by_ranks(torchrun(PAGE.trainer, tmp_path), tmp_path)
    assert torch.equal(first["weights"], second["weights"])
    torch.testing.assert_close(first["banks"], second["banks"], rtol=0, atol=0)
    written = first["banks"]["stuff_bank.written"]
    assert bool((written > 50).any()), written
    assert bool((first["banks"]["instance_bank.written"] > 0).all())
    assert all(bool(buffer.isfinite().all()) for buffer in first["banks"].values())

    without, _ = left_by_ranks(torchrun(PAGE.trainer_before, tmp_path / "before"), tmp_path / "before")
    assert not torch.equal(first["weights"], weights(given()["network"]))
    assert not torch.equal(first["weights"], without["weights"])

    (resume,) = PAGE.further
    resumed = PAGE.trainer.replace("for epoch in range(epochs):", f"{resume}\nfor epoch in range(epochs):")
    for left in left_by_ranks(torchrun(resumed, tmp_path, epochs=0), tmp_path):
        torch.testing.assert_close(left["banks"], first["banks"], rtol=0, atol=0)
        assert torch.equal(left["weights"], first["weights"])
