"""Runs in processes of their own: each ends with a result or a reason."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.gta5_to_cityscapes.experiments import runner as processes
from examples.gta5_to_cityscapes.experiments.experiment import Job, plan
from examples.gta5_to_cityscapes.experiments.runner import RunsFailed, run_experiment
from examples.gta5_to_cityscapes.run_dir import Event, Watch, unwatched
from examples.gta5_to_cityscapes.signals import Stopped, StopRequest

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


# What a process does in place of training; spawned processes find these by their names.
def says_much_and_fails(job: Job, folders: Folders, device: torch.device, events, threads: int) -> None:  # type: ignore[no-untyped-def]
    for step in range(2000):
        events.send(Event(job.name, step, 2000))
    events.send(Event(job.name, 0, 1, "the very last word", "failed"))


def says_nothing(job: Job, folders: Folders, device: torch.device, events, threads: int) -> None:  # type: ignore[no-untyped-def]
    pass


def is_killed(job: Job, folders: Folders, device: torch.device, events, threads: int) -> None:  # type: ignore[no-untyped-def]
    os.kill(os.getpid(), signal.SIGKILL)


def is_slow_to_begin(job: Job, folders: Folders, device: torch.device, events, threads: int) -> None:  # type: ignore[no-untyped-def]
    events.send(Event(job.name, 0, 1, "here"))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as where signals cannot be held back while it imports
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    time.sleep(60)


def imports_for_long(job: Job, folders: Folders, device: torch.device, events, threads: int) -> None:  # type: ignore[no-untyped-def]
    events.send(Event(job.name, 0, 1, "imports"))
    time.sleep(2)
    events.send(Event(job.name, 0, 1, "has imported"))
    processes._child(job, folders, device, events, threads)


def waits_to_be_stopped(job: Job, folders: Folders, device: torch.device, events, threads: int) -> None:  # type: ignore[no-untyped-def]
    with StopRequest() as request:
        events.send(Event(job.name, 0, 1, "here"))
        while not request.asked:
            time.sleep(0.05)
    events.send(Event(job.name, 0, 1, "saved by the run", "stopped"))


def run_with(
    child: object, streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch = unwatched
) -> None:
    monkeypatch.setattr(processes, "_child", child)
    run_experiment(plan(["source"], [0], "smoke", tmp_path), streets, CPU, watch)


def test_the_last_word_of_a_process_is_heard(streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    with pytest.raises(RunsFailed, match="source seed 0: the very last word"):
        run_with(says_much_and_fails, streets, tmp_path, monkeypatch, events.append)
    assert len(events) == 2001


@pytest.mark.parametrize(
    ("child", "said"),
    [
        (says_nothing, "code 0, without a result, and said nothing. Give"),
        (is_killed, "code -9, without a result, and said nothing; out of memory, perhaps. Give"),
    ],
)
def test_a_run_without_a_result_is_a_failure(
    child: object, said: str, streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunsFailed, match=said):
        run_with(child, streets, tmp_path, monkeypatch)


@pytest.mark.usefixtures("sigint_heard")
def test_interrupting_a_process_that_has_not_begun_is_not_a_failure(
    streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []

    def interrupt(event: Event) -> None:
        events.append(event)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match="source seed 0: interrupted before it could save"):
        run_with(is_slow_to_begin, streets, tmp_path, monkeypatch, interrupt)
    (captured,) = (event for event in events if event.kind == "stopping")
    assert (captured.task, captured.note[:9]) == ("source seed 0", "stopping:")


@pytest.mark.usefixtures("sigint_ignored")
def test_runs_of_an_experiment_in_the_background_are_stopped_by_sigterm(
    streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(event: Event) -> None:
        if event.note == "here":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="saved by the run"):
        run_with(waits_to_be_stopped, streets, tmp_path, monkeypatch, interrupt)


@pytest.mark.usefixtures("sigint_heard")
def test_ctrl_c_is_held_back_while_a_process_imports(
    streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []

    def interrupt(event: Event) -> None:
        events.append(event)
        if event.note == "imports":
            os.kill(os.getpid(), signal.SIGINT)  # passed on to it

    with pytest.raises(Stopped, match=r"source seed 0: interrupted\. Give the same command again; what has"):
        run_with(imports_for_long, streets, tmp_path, monkeypatch, interrupt)
    assert [event.note for event in events if event.kind == "progress"][:2] == ["imports", "has imported"]


@pytest.mark.usefixtures("sigint_heard")
def test_a_signal_that_comes_twice_does_not_cut_the_last_word_short(
    streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Event] = []

    class Pipe:
        def send(self, event: Event) -> None:
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # a terminal's, after the parent's
            said.append(event)

        def close(self) -> None:
            pass

    def stop(*args: object) -> None:
        raise Stopped("saved")

    monkeypatch.setattr(processes, "carry_out", stop)
    (job,) = plan(["source"], [0], "smoke", tmp_path)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        processes._child(job, streets, CPU, Pipe(), 1)  # type: ignore[arg-type]
    finally:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, handler)
    assert [event.note for event in said] == ["saved"]


def test_a_listener_that_fails_leaves_no_process_behind(
    streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("no terminal")

    started = time.monotonic()
    with pytest.raises(RuntimeError, match="no terminal"):
        run_with(is_slow_to_begin, streets, tmp_path, monkeypatch, fail)
    assert time.monotonic() - started < 50
