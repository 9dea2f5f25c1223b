"""The command line under torchrun: what a person types, and what they see of several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.drawn_streets import write_streets

ROOT = Path(__file__).parents[2]
SETTINGS = ["running.tensorboard=false", "network.options.width=8", "network.options.feature_dim=8"]


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    settings = [word for each in SETTINGS for word in ("--set", each)]
    return subprocess.run(
        [*command, "-m", "examples.gta5_to_cityscapes", *arguments, "--size", "smoke", "--device", "cpu", *settings],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    write_streets(tmp_path)
    return [
        "--source",
        str(tmp_path / "gta5"),
        "--target",
        str(tmp_path / "cityscapes"),
        "--out",
        str(tmp_path / "out"),
    ]


def test_two_processes_train_one_run_and_speak_once(folders: list[str], tmp_path: Path) -> None:
    done = torchrun("train", "aa+sim", *folders)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mean") == 1
    assert done.stderr.count("12/12  mIoU") == 1
    run = tmp_path / "out/aa+sim/seed0"
    assert json.loads((run / "result.json").read_text())["step"] == 12
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [2, 4, 6, 8, 10, 12]


def test_too_few_pictures_for_all_are_refused_once(folders: list[str], tmp_path: Path) -> None:
    done = torchrun("train", "source", *folders, "--set", "pictures.batch=1")
    assert done.returncode == 1
    assert done.stderr.count("expected at least 2 (processes: 2, running.accumulate: 1), got 1") == 1
    assert not (tmp_path / "out").exists()
