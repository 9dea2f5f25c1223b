"""Tiny streets on disk, drawn once for all tests that train."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.gta5_to_cityscapes.cli.app import main
from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.gta5_to_cityscapes.experiments import experiment, runner
from examples.gta5_to_cityscapes.experiments.experiment import Job
from examples.gta5_to_cityscapes.run_dir import Result

from .drawn_streets import write_streets


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Six source, four target training and three validation images, 96 wide and 48 high."""
    root = tmp_path_factory.mktemp("streets")
    write_streets(root)
    return Folders(root / "gta5", root / "cityscapes")


@pytest.fixture
def own(streets: Folders, tmp_path: Path) -> Folders:
    """A copy of the streets that a test may change."""
    root = shutil.copytree(streets.source.parent, tmp_path / "data")
    return Folders(root / "gta5", root / "cityscapes")


@pytest.fixture
def sigint_heard() -> Iterator[None]:
    """Ctrl-C as in a terminal: what started the tests may have had them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def sigint_ignored() -> Iterator[None]:
    """Ctrl-C as for a process that a shell without job control started in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def quiet() -> list[str]:
    """Settings that make a smoke run as small as it can be."""
    return [
        "runtime.tensorboard=false",
        "network.options.width=8",
        "network.options.feature_dim=8",
        "schedule.warmup=0",
        "evaluation.previews=0",
    ]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs of an experiment take place in this process, as on ranks; the names of those that were carried out."""
    names: list[str] = []

    def carry_out(job: Job, *args: Any) -> Result:
        names.append(job.recipe.name)
        return experiment.carry_out(job, *args)

    monkeypatch.setattr(runner, "world_size", lambda: 2)
    monkeypatch.setattr(runner, "carry_out", carry_out)
    return names


@pytest.fixture
def failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Call a program that ends with an exit code; returns its output and its errors, without a traceback."""

    def call(*words: object, code: int = 1) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["program", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        assert left.value.code == code
        assert "Traceback" not in captured.err
        return captured.out, captured.err

    return call
