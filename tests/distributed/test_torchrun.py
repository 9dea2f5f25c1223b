"""The command line under torchrun: what a person types, and what they see of several processes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.gta5_to_cityscapes.cli.app import main
from tests.distributed.ranks import on_ranks
from tests.examples.drawn_streets import write_streets

ROOT = Path(__file__).parents[2]
SETTINGS = ["runtime.tensorboard=false", "network.options.width=8", "network.options.feature_dim=8"]
OPTIONS = ["--preset", "smoke", "--device", "cpu", *(word for each in SETTINGS for word in ("--set", each))]
# A thread that outlives the group can end the process with SIGABRT when all its work is done and written.
TRAIN = """
import pathlib
from examples.gta5_to_cityscapes.cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
if pathlib.Path("/proc/self/task").is_dir():
    left = {(thread / "comm").read_text().strip() for thread in pathlib.Path("/proc/self/task").iterdir()}
    assert not [name for name in left if "gloo" in name], left
"""


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


def test_two_processes_train_one_run_speak_once_and_leave_no_thread(folders: list[str], tmp_path: Path) -> None:
    (tmp_path / "training.py").write_text(TRAIN)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(tmp_path / "training.py"), "train", "aa+sim", *folders, *OPTIONS],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mean") == 1
    assert done.stderr.count("12/12  mIoU") == 1
    run = tmp_path / "out/aa+sim/seed0"
    assert json.loads((run / "result.json").read_text())["step"] == 12
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [2, 4, 6, 8, 10, 12]


def said(rank: int, words: list[str]) -> tuple[object, str]:
    """The exit code of a command, and what it wrote to standard error."""
    sys.argv = ["gta5_to_cityscapes", *words]
    with contextlib.redirect_stderr(io.StringIO()) as stderr, pytest.raises(SystemExit) as left:
        main()
    return left.value.code, stderr.getvalue()


def test_too_few_images_for_all_are_rejected_once(folders: list[str], tmp_path: Path) -> None:
    words = ["train", "source", *folders, *OPTIONS, "--set", "data.batch=1"]
    codes, texts = zip(*on_ranks(2, said, tmp_path, words), strict=True)
    assert codes == (1, 1)
    assert "".join(texts).count("at least 2 (processes: 2, runtime.accumulate_grad_batches: 1), got 1") == 1
    assert not (tmp_path / "out").exists()
