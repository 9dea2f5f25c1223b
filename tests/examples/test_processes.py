"""Runs in processes of their own: each ends with a result or a reason."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from examples.gta5_to_cityscapes.cli.app import app
from examples.gta5_to_cityscapes.data import DatasetError, open_dataset
from examples.gta5_to_cityscapes.data.loader import BatchStream
from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.gta5_to_cityscapes.experiments import runner
from examples.gta5_to_cityscapes.experiments.experiment import Job, carry_out, plan
from examples.gta5_to_cityscapes.experiments.runner import RunsFailed, progress, run_experiment, train_command
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import Event, Watch, unwatched
from examples.gta5_to_cityscapes.signals import Stopped

from .commands import data, in_its_own_group, settings

CPU = torch.device("cpu")

# What a process does in place of training; RESULT is where a run's result belongs.
A_RESULT = {"recipe": "r", "seed": 0, "step": 1, "miou": 0.5, "iou": {}, "seconds_total": 1.0, "peak_memory_bytes": 1}
ENDS_WELL = f"open(RESULT, 'w').write({json.dumps(A_RESULT)!r})"
FAILS = "import sys; print('x\\n' * 9999, 'error: a reason', 'in two lines', sep='\\n'); sys.exit(1)"
RAISES = "raise ValueError('crop does not fit')"
IS_KILLED = "import os; os.kill(os.getpid(), 9)"
SAVES = "import sys; print('begun', flush=True); sys.stdin.read(); print('saved by the run'); sys.exit(130)"
IS_SLOW_TO_BEGIN = "import sys; print('begun', flush=True); sys.stdin.read()"

Run = Callable[..., list[Event]]


@pytest.fixture
def run(streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Carry out jobs of which each does what is given by its recipe's name; returns their events."""

    def run(programs: dict[str, str], watch: Watch = unwatched, processes: int = 1) -> list[Event]:
        events: list[Event] = []

        def command(job: Job, *args: object) -> list[str]:
            place = repr(str(job.run.path / "result.json"))
            return [sys.executable, "-c", programs[job.recipe.name].replace("RESULT", place)]

        def heard(event: Event) -> None:
            events.append(event)
            watch(event)

        monkeypatch.setattr(runner, "train_command", command)
        monkeypatch.setattr(runner, "LOOK_EVERY", 0.02)
        run_experiment(plan(list(programs), [0], "smoke", tmp_path), streets, CPU, heard, processes=processes)
        return events

    return run


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (FAILS, "aa seed 0: a reason\nin two lines (all that it printed is in"),
        (RAISES, "aa seed 0: ValueError: crop does not fit (all that it printed is in"),
        ("", "aa seed 0: its process ended with code 0, without a result (all"),
        (IS_KILLED, "aa seed 0: its process ended with code -9, without a result; out of memory, perhaps: give"),
    ],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_without_a_result_is_a_failure_that_spares_the_others(
    program: str, said: str, processes: int, run: Run, tmp_path: Path
) -> None:
    events: list[Event] = []
    with pytest.raises(RunsFailed) as failure:
        run({"aa": program, "source": ENDS_WELL}, events.append, processes)
    assert said in str(failure.value)
    assert [event.kind for event in events if event.task == "aa seed 0"][-1] == "failed"
    assert Event("source seed 0", 12, 12, "mIoU 50.0", "finished") in events


def test_a_run_whose_first_stage_failed_is_not_begun(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunsFailed, match=r"ssl seed 0: the run it depends on, in .*source.seed0, has no result"):
        run({"source": FAILS, "ssl": ENDS_WELL})
    assert not (tmp_path / "ssl").exists()


@pytest.mark.parametrize(("program", "said"), [(SAVES, "saved by the run"), (IS_SLOW_TO_BEGIN, "before it could save")])
@pytest.mark.parametrize(("heard", "kind"), [("sigint_heard", signal.SIGINT), ("sigint_ignored", signal.SIGTERM)])
def test_a_stop_is_passed_on_and_is_not_a_failure(
    program: str, said: str, heard: str, kind: signal.Signals, run: Run, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(heard)
    events: list[Event] = []

    def interrupt(event: Event) -> None:
        events.append(event)
        if event.note == "preparing":
            os.kill(os.getpid(), kind)

    with pytest.raises(Stopped, match=said):
        run({"source": program, "aa": ENDS_WELL}, interrupt)
    assert [event.task for event in events if event.kind == "stopping"] == ["source seed 0"]
    assert {event.task for event in events} == {"source seed 0"}  # nothing else is begun


def test_a_listener_that_fails_leaves_no_process_behind(run: Run) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("no terminal")

    started = time.monotonic()
    with pytest.raises(RuntimeError, match="no terminal"):
        run({"source": "import time; time.sleep(60)"}, fail)
    assert time.monotonic() - started < 50


def test_the_command_of_a_job_composes_its_recipe(
    streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["schedule.max_steps=3", "network.options.norm=group"]
    jobs = plan(["aa+ssl"], [2], "smoke", tmp_path, classes="13", overrides=overrides)
    composed = []

    def compose(name: str, *args: object, **given: object) -> object:
        composed.append(compose_recipe(name, *args, **given))  # type: ignore[arg-type]
        return composed[-1]

    monkeypatch.setattr("examples.gta5_to_cityscapes.experiments.experiment.compose_recipe", compose)
    monkeypatch.setattr("examples.gta5_to_cityscapes.cli.commands.check_same_run", lambda job, *args: jobs.append(job))
    monkeypatch.setattr("examples.gta5_to_cityscapes.cli.commands.run_experiment", lambda *args: sys.exit(0))
    words = train_command(jobs[-1], streets, CPU, 1)
    assert words[-1] == "--stop-with-stdin"
    with pytest.raises(SystemExit):
        app(words[3:-1], standalone_mode=False)
    assert composed[-1] == jobs[1].recipe
    assert jobs[-1].run == jobs[1].run


def test_progress_is_read_from_what_a_run_writes(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    (job,) = plan(["source"], [0], "smoke", tmp_path, overrides=[*quiet, "schedule.max_steps=2"])
    assert progress(job) == Event("source seed 0", 0, 2, "preparing")
    carry_out(job, streets, CPU)
    event = progress(job)
    assert event[:3] == ("source seed 0", 2, 2)
    assert [word in event.note for word in ("loss ", " a step, ", "mIoU ")] == [True] * 3
    with job.run.metrics.open("a") as file:
        file.write('{"step": 3, "kind": "tr')
    assert progress(job) == event


@pytest.mark.skipif(os.name == "nt", reason="a process group is sent a signal")
def test_runs_of_a_killed_command_save_and_stop(streets: Folders, quiet: list[str], tmp_path: Path) -> None:
    long = [*quiet, "schedule.log_every=1", "schedule.max_steps=5000", "schedule.decay_steps=5000"]
    words = ["ablation", "--recipes", "source", *data(streets), "--preset", "smoke", "--out", str(tmp_path)]
    folder = tmp_path / "source" / "seed0"
    with in_its_own_group(*words, *settings(long)) as command:
        wait_for(lambda: (folder / "metrics.jsonl").is_file() and (folder / "metrics.jsonl").stat().st_size > 0)
        command.kill()
    wait_for(lambda: "saved in" in (folder / "log.txt").read_text())
    assert (folder / "checkpoints" / "last.pt").is_file()


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_image_that_cannot_be_read_leaves_no_loader_behind(streets: Folders, tmp_path: Path) -> None:
    """A command whose loader is still there waits for its workers, which ignore signals, without end."""
    shutil.copytree(streets.source, tmp_path / "gta5")
    for file in (tmp_path / "gta5" / "images").iterdir():
        file.write_bytes(file.read_bytes()[:300])
    stream = BatchStream(open_dataset("gta5", tmp_path / "gta5", size=(8, 16)), 2, 0, workers=1)
    (worker,) = stream._batches._workers  # type: ignore[attr-defined]
    with suppress(DatasetError):  # pytest.raises would keep the traceback
        next(stream)
        pytest.fail("a damaged image was read")
    del stream
    worker.join(timeout=20)
    alive = worker.is_alive()
    worker.kill()
    assert not alive
