"""A run that was killed again and again ends with the bytes of one that was left alone."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from examples.gta5_to_cityscapes.checkpoint import load_checkpoint
from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.gta5_to_cityscapes.recipes import Recipe, compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder

from .killed_runs import PRELOADED, train_here
from .test_checkpoints import assert_same
from .test_kept_checkpoints import measured

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="processes are forked, to have 20 in seconds"
)
KILLS_BY_CLOCK = 12
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


@pytest.mark.timeout(900)  # two dozen processes, one after the other, on a machine that may be busy
def test_killed_at_twenty_moments_a_run_ends_with_the_same_bytes(
    streets: Folders, tmp_path: Path, quiet: list[str]
) -> None:
    steps = ["schedule.max_steps=60", "schedule.decay_steps=60", "schedule.evaluate_every=15"]
    often = ["schedule.save_every=2", "schedule.log_every=1", "matching.capacity=2", "runtime.cache=false"]
    recipe = compose_recipe("aa+it+sim+mask", "smoke", overrides=[*quiet, *steps, *often])
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

    expected, result = whole.result(), parts.result()
    assert expected is not None
    assert result is not None
    means = ("seconds_per_step", "images_per_second", "data_share")
    clock = dict.fromkeys(("seconds_total", "peak_memory_bytes", *means))
    assert {**vars(result), **clock} == {**vars(expected), **clock}
    for name in ("last.pt", "step000058.pt"):
        saved = [load_checkpoint(run.path / "checkpoints" / name) for run in (whole, parts)]
        for each in saved:
            del each["seconds"], each["peak_memory_bytes"], each["cost"]
        assert_same(*saved, name)
        assert {"network", "sim", "teacher", "discriminator", "optimizers", "scaler", "random", "positions"} <= set(
            saved[0]
        )
    assert measured(parts) == measured(whole)
    for run in (whole, parts):
        assert sorted(path.name for path in run.checkpoint.parent.iterdir()) == ["last.pt", "step000058.pt"]
        assert not list(run.path.rglob("*.part"))
