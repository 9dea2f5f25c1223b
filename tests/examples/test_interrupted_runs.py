"""A run that is stopped, killed, or short of disk or data goes on, and ends bit for bit as one that was left alone."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.gta5_to_cityscapes.atomic_io import UnwritableError
from examples.gta5_to_cityscapes.checkpoint import load_checkpoint
from examples.gta5_to_cityscapes.cli.app import EXPECTED
from examples.gta5_to_cityscapes.data import DatasetError
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.recipes import Recipe, compose_recipe
from examples.gta5_to_cityscapes.run_dir import Event, Result, RunFolder, RunFolderError, Watch, unwatched
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training.loop import train

from .killed_runs import PRELOADED, train_here
from .test_checkpoints import assert_same

OFTEN = ["schedule.save_every=2", "schedule.log_every=1", "runtime.cache=false"]


def trained(
    recipe: Recipe, folders: Folders, out: Path, watch: Watch = unwatched, stop_after: int | None = None
) -> Result:
    data = open_training_data(recipe, folders)
    return train(recipe, RunFolder(out), data, device=torch.device("cpu"), watch=watch, stop_after=stop_after)


def measured(run: RunFolder) -> dict[tuple[str, int], dict[str, Any]]:
    """What was measured, without the clock; of several lines on one step the later one."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    clocked = {(line["kind"], line["step"]): {**line, "seconds": None} for line in lines}
    return {key: dict.fromkeys(line) if key[0] == "cost" else line for key, line in clocked.items()}


def assert_same_runs(first: RunFolder, second: RunFolder) -> None:
    """The same results, checkpoints and metrics, whatever the clock showed."""
    clock = ("seconds_total", "peak_memory_bytes", "seconds_per_step", "images_per_second", "data_share")
    results = [{**vars(run.result()), **dict.fromkeys(clock)} for run in (first, second)]
    assert results[0] == results[1]
    checkpoints = [sorted(path.name for path in run.checkpoint.parent.iterdir()) for run in (first, second)]
    assert checkpoints[0] == checkpoints[1]
    for name in checkpoints[0]:
        saved = [load_checkpoint(run.checkpoint.with_name(name)) for run in (first, second)]
        for each in saved:
            assert each.pop("seconds") >= each.pop("cost")["seconds"] > 0
            assert each.pop("peak_memory_bytes") > 0
        assert_same(*saved, name)
    assert measured(first) == measured(second)
    assert not [*first.path.rglob("*.part"), *second.path.rglob("*.part")]


@pytest.mark.parametrize(("name", "kept"), [("aa+it+sim", "sim"), ("bcon+rcon+ffd", "region_contrast")])
def test_resuming_equals_never_having_stopped(
    name: str, kept: str, streets: Folders, tmp_path: Path, quiet: list[str]
) -> None:
    recipe = compose_recipe(name, "smoke", overrides=[*quiet, *OFTEN, "runtime.num_workers=1"])
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    trained(recipe, streets, whole.path)
    for step in (3, 8):
        with pytest.raises(Stopped, match=f"stopped at step {step} of 12"):
            trained(recipe, streets, parts.path, stop_after=step)
        random.seed(99)
        np.random.seed(99)
        torch.manual_seed(99)
        with parts.metrics.open("a") as file:  # lines past the checkpoint, and half a one
            file.write(f'{{"step": {step + 1}, "kind": "train", "loss/segmentation": 1.0}}\n{{"step": 7, "ki')
    trained(recipe, streets, parts.path)
    assert_same_runs(whole, parts)
    assert load_checkpoint(parts.checkpoint)[kept]["stuff_bank.written"].sum() > 0


@pytest.mark.parametrize(
    ("before", "signals"),
    [
        (signal.default_int_handler, {4: signal.SIGINT}),
        (signal.SIG_IGN, {2: signal.SIGINT, 6: signal.SIGTERM}),  # as a shell starts what runs in the background
    ],
)
def test_the_first_signal_that_is_not_ignored_saves_and_says_how_to_go_on(
    streets: Folders, tmp_path: Path, quiet: list[str], before: Any, signals: dict[int, int]
) -> None:
    recipe = compose_recipe("source", "smoke", overrides=quiet)
    kinds: list[str] = []

    def interrupt(event: Event) -> None:
        kinds.append(event.kind)
        if event.done in signals and event.kind == "progress":
            os.kill(os.getpid(), signals[event.done])

    outside = signal.signal(signal.SIGINT, before)
    try:
        with pytest.raises(Stopped, match="same command again"):
            trained(recipe, streets, tmp_path / "run", interrupt)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, outside)
    assert max(signals) <= load_checkpoint(RunFolder(tmp_path / "run").checkpoint)["step"] < 12
    assert kinds.count("stopping") == 1
    assert trained(recipe, streets, tmp_path / "run").step == 12


@pytest.fixture(scope="module")
def short(quiet: list[str]) -> Recipe:
    """A run of five steps."""
    return compose_recipe("source", "smoke", overrides=[*quiet, *OFTEN, "schedule.max_steps=5"])


@pytest.fixture(scope="module")
def whole(short: Recipe, streets: Folders, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Its folder, as it is where nothing happens."""
    run = RunFolder(tmp_path_factory.mktemp("whole"))
    trained(short, streets, run.path)
    return run


def test_a_run_whose_newest_checkpoint_is_damaged_ends_the_same(
    short: Recipe, whole: RunFolder, streets: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(Stopped):
        trained(short, streets, run.path, stop_after=4)
    flip_a_weight = bytearray(run.checkpoint.read_bytes())
    flip_a_weight[len(flip_a_weight) // 2] ^= 255
    run.checkpoint.write_bytes(flip_a_weight)
    (run.path / ".metrics.jsonl.123.part").touch()  # of a process that was killed
    events: list[Event] = []
    trained(short, streets, run.path, events.append)
    assert events[0].done == 2
    assert "of step 2" in caplog.text
    run.checkpoint.with_name("last.pt.damaged").unlink()
    assert_same_runs(run, whole)


class FullDisk:
    """A file on a disk that fills up: from then on nothing more can be written."""

    def __init__(self, file: Any, full: Callable[[], bool], code: int) -> None:
        self.file, self.full, self.code = file, full, code

    def write(self, data: Any) -> int:
        if self.full():
            raise OSError(self.code, os.strerror(self.code))
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *args: object) -> None:
        self.file.close()


@pytest.mark.parametrize(
    ("what", "kept", "code"),
    [("last.pt", 2, errno.ENOSPC), ("metrics.jsonl", 2, errno.EDQUOT), ("result.json", 5, errno.ENOSPC)],
)
def test_a_full_disk_keeps_what_is_there(
    short: Recipe,
    whole: RunFolder,
    streets: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    kept: int,
    code: int,
) -> None:
    run = RunFolder(tmp_path / "run")
    reached, open_file = 0, Path.open

    def watch(event: Event) -> None:
        nonlocal reached
        reached = event.done

    def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = open_file(path, mode, *args, **kwargs)
        return FullDisk(file, lambda: reached > 2, code) if what in path.name and mode[0] in "wa" else file

    def written(path: Path, text: str, encoding: str) -> None:
        with opened(path, "w", encoding=encoding) as file:
            file.write(text)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        patch.setattr(Path, "write_text", written)
        with pytest.raises(EXPECTED, match=rf"{what}: expected room .*\({os.strerror(code)}\)") as said:
            trained(short, streets, run.path, watch)
    assert said.type is UnwritableError
    assert f"The checkpoint of step {kept} is kept in {run.checkpoint}" in str(said.value)
    assert load_checkpoint(run.checkpoint)["step"] == kept
    assert not list(run.path.rglob("*.part"))
    trained(short, streets, run.path)
    assert_same_runs(run, whole)


@pytest.mark.parametrize(("domain", "workers"), [("source", 1), ("target", 0)])
def test_a_vanished_folder_or_a_corrupt_image_stops_a_run_that_then_goes_on(
    own: Folders, tmp_path: Path, quiet: list[str], domain: str, workers: int
) -> None:
    recipe = compose_recipe("aa", "smoke", overrides=[*quiet, *OFTEN, f"runtime.num_workers={workers}"])
    run, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    folder = own.source / "images" if domain == "source" else own.target / "leftImg8bit" / "train"
    hidden = folder.with_name("hidden")

    def vanish(event: Event) -> None:
        if event.done == 2:
            folder.rename(hidden)

    with pytest.raises(DatasetError, match=r"found no file. Check the data set folder. .*same command goes on") as said:
        trained(recipe, own, run.path, vanish)
    assert not multiprocessing.active_children()  # though the error is kept
    assert str(folder) in str(said.value)
    hidden.rename(folder)
    kept = load_checkpoint(run.checkpoint)["step"]
    assert kept >= 2
    assert f"The checkpoint of step {kept} is kept" in str(said.value)

    images = {path: path.read_bytes() for path in folder.rglob("*.png")}

    def corrupt(event: Event) -> None:
        if event.note.startswith("going on"):
            for path, whole_file in images.items():
                path.write_bytes(whole_file[: len(whole_file) // 2])

    with pytest.raises(DatasetError, match=r"\.png: expected a complete image.*copy it again.*same command goes on"):
        trained(recipe, own, run.path, corrupt)
    with pytest.raises(RunFolderError, match="put the files back as they were"):
        trained(recipe, own, run.path)
    for path, whole_file in images.items():
        path.write_bytes(whole_file)
    trained(recipe, own, run.path)
    trained(recipe, own, whole.path)
    assert_same_runs(run, whole)


KILLS_BY_CLOCK = 10
DEATHS: list[tuple[Any, ...]] = [
    ("while_beginning", 1),  # recipe.json is there, data.json is not
    ("while_saving", 1, 0.0),
    ("while_saving", 2, 0.5),
    ("while_renaming", "last.pt", 1, False),
    ("while_renaming", "last.pt", 2, True),  # before an older one goes
    ("while_saving", 1, 0.99),
    ("while_renaming", "metrics.jsonl", 1, False),
    ("while_renaming", "metrics.jsonl", 1, True),
    ("while_saving", 3, 0.5),
    ("while_renaming", "last.pt", 3, True),
]


class Runs:
    """Trains one recipe in processes of their own."""

    def __init__(self, recipe: Recipe, folders: Folders, out: Path) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.arguments = (recipe, folders, out)

    def once(self, death: Sequence[Any] = (), events_to_live: int | None = None, seconds: float = 0.0) -> int | None:
        """The exit code of a process that trains to the end, or is killed ``seconds`` after so many events."""
        here, there = self.context.Pipe(duplex=False)
        process = self.context.Process(target=train_here, args=(*self.arguments, there, death))
        process.start()
        there.close()
        heard = 0
        while True:
            if heard == events_to_live:
                time.sleep(seconds)
                process.kill()
            try:
                here.recv()
            except (EOFError, OSError):  # it has ended, perhaps in the middle of a word
                break
            heard += 1
        process.join()
        here.close()
        return process.exitcode


@pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="processes are forked, to have 20 in seconds"
)
@pytest.mark.timeout(900)  # two dozen processes, one after the other, on a machine that may be busy
def test_killed_at_twenty_moments_a_run_ends_with_the_same_bytes(
    streets: Folders, tmp_path: Path, quiet: list[str]
) -> None:
    steps = ["schedule.max_steps=50", "schedule.decay_steps=50", "schedule.evaluate_every=15", "matching.capacity=2"]
    sizes = ["data.source_size=[32,64]", "data.target_size=[32,64]"]
    recipe = compose_recipe("aa+it+rcs+cw+sim+mask", "smoke", overrides=[*quiet, *OFTEN, *steps, *sizes])
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    assert Runs(recipe, streets, whole.path).once() == 0

    runs, moments = Runs(recipe, streets, parts.path), random.Random(0)
    reached = []
    plans: list[dict[str, Any]] = [{"death": death} for death in DEATHS]
    plans += [
        {"events_to_live": moments.randint(1, 4), "seconds": moments.uniform(0, 0.03)} for _ in range(KILLS_BY_CLOCK)
    ]
    first, *others = plans
    moments.shuffle(others)
    for plan in (first, *others):
        assert runs.once(**plan) == -signal.SIGKILL, plan
        reached.append(load_checkpoint(parts.checkpoint)["step"] if parts.checkpoint.is_file() else 0)
        assert parts.result() is None
    assert len(reached) >= 20
    assert reached == sorted(reached)
    assert len(set(reached)) > 5
    assert runs.once() == 0
    assert_same_runs(whole, parts)
    saved = load_checkpoint(parts.checkpoint)
    assert {
        "network",
        "sim",
        "teacher",
        "class_pixels",
        "discriminator",
        "optimizers",
        "scaler",
        "random",
        "positions",
    } <= set(saved)
