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
SETTINGS = ["runtime.tensorboard=false", "network.options.width=8", "network.options.feature_dim=8"]


LEAVE = """
from pathlib import Path
import torch
from examples.gta5_to_cityscapes.distributed import all_gather_object, process_group, sum_gradients

with process_group():
    network = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(torch.ones(1, 3)).sum().backward()
    sum_gradients([*network.parameters()])
    optimizer.step()
    all_gather_object(None)
left = {(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()}
assert not [name for name in left if "gloo" in name], left
"""


def on_two_processes(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    settings = [word for each in SETTINGS for word in ("--set", each)]
    options = ["--preset", "smoke", "--device", "cpu", *settings]
    return on_two_processes("-m", "examples.gta5_to_cityscapes", *arguments, *options)


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


def test_too_few_images_for_all_are_rejected_once(folders: list[str], tmp_path: Path) -> None:
    done = torchrun("train", "source", *folders, "--set", "data.batch=1")
    assert done.returncode == 1
    assert done.stderr.count("expected at least 2 (processes: 2, runtime.accumulate_grad_batches: 1), got 1") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    """Such a thread can end the process with SIGABRT when all its work is done and written."""
    script = tmp_path / "leave.py"
    script.write_text(LEAVE)
    done = on_two_processes(str(script))
    assert done.returncode == 0, done.stderr
