"""Run the jobs of an experiment, each in a process of the command `train`, one after the other or several at a time.

A process of its own makes a run's peak memory its own, and keeps its failure from the others. Small networks
gain little from a second thread, so on few cores several runs of one thread each finish sooner than one run
of several threads. Where ``torchrun`` has started several processes for each run, they carry out one run after the
other themselves.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..data.training_data import Folders
from ..distributed import world_size
from ..metrics_log import time_of_a_step
from ..run_dir import Event, RunFolder, Watch
from ..signals import STOPPING, Stopped, StopRequest, ignores_sigint
from .experiment import Job, carry_out, check_same_run

ROOT = Path(__file__).parents[3]  # where `examples` can be imported
LOG = "log.txt"
LOOK_EVERY = 0.2  # seconds
LAST_LINES = 8192  # bytes at the end of metrics.jsonl, more than the lines of one step need


class RunsFailed(RuntimeError):
    """One or more runs of an experiment ended in an error."""


def run_experiment(
    jobs: Sequence[Job],
    folders: Folders,
    device: torch.device,
    watch: Watch,
    *,
    processes: int = 1,
    begin: Callable[[], None] | None = None,
) -> None:
    """Carry out every job that has no result yet, ``processes`` at a time.

    Ranks of a process group carry them out together, one at a time; there the first error ends it all. ``begin`` is
    called once no folder is in the way, before anything is written.

    Raises:
        Stopped: After Ctrl-C, once every run that was going on has saved its state.
        RunsFailed: If a run failed; the others are carried out nevertheless.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}.")
    for job in jobs:
        check_same_run(job, folders)
    if begin is not None:
        begin()
    left = [job for job in jobs if job.run.result() is None]
    for job in jobs:
        if job not in left:
            steps = job.recipe.schedule.max_steps
            watch(Event(job.name, steps, steps, "ended earlier", "finished"))
    if world_size() > 1:
        for job in jobs:  # the same for every rank; a finished run returns immediately
            carry_out(job, folders, device, watch)
    elif left:
        threads = threads_of_a_run(processes)
        _Runs(left, watch, processes, lambda job: train_command(job, folders, device, threads)).carry_out()


def threads_of_a_run(processes: int) -> int:
    """The threads that this process is set to for one run at a time, for several an equal share of the cores."""
    return torch.get_num_threads() if processes == 1 else max(1, (os.cpu_count() or 1) // processes)


def train_command(job: Job, folders: Folders, device: torch.device, threads: int) -> list[str]:
    """The command that carries out a job."""
    recipe = job.recipe
    options = {
        "--source": folders.source,
        "--target": folders.target,
        "--source-list": folders.source_list,
        "--target-list": folders.target_list,
        "--source-layout": recipe.layouts.source,
        "--target-layout": recipe.layouts.target,
        "--preset": recipe.preset,
        "--seed": recipe.seed,
        "--classes": ",".join(recipe.classes),
        "--class-file": job.class_file,
        "--device": device,
        "--threads": threads,
        "--out": job.run.path.parents[1],
    }
    words = [str(word) for option, value in options.items() if value is not None for word in (option, value)]
    words += [word for each in job.overrides for word in ("--set", each)]
    return [sys.executable, "-m", "examples.gta5_to_cityscapes", "train", recipe.name, *words, "--stop-with-stdin"]


def stop_with_stdin() -> None:
    """Stop this process as Ctrl-C does once its standard input ends: its parent asks for it so, or has died."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM if ignores_sigint() else signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


class _Running(NamedTuple):
    """A job that has been started."""

    job: Job
    process: subprocess.Popen[bytes]
    log: Path


class _Runs:
    """Jobs of which some are being carried out, each by its ``command``."""

    def __init__(
        self, jobs: Sequence[Job], watch: Watch, processes: int, command: Callable[[Job], Sequence[str]]
    ) -> None:
        self.waiting, self.running = list(jobs), list[_Running]()
        self.watch, self.processes, self.command = watch, processes, command
        self.failures: dict[str, str] = {}
        self.stopped: dict[str, str] = {}

    def carry_out(self) -> None:
        """Start runs, report their progress and collect those that have ended, until nothing is left."""
        with StopRequest() as request:
            stopping = False
            try:
                while self.waiting or self.running:
                    if request.asked and not stopping:
                        self._stop()
                        stopping = True
                    self._start_what_can()
                    time.sleep(LOOK_EVERY)
                    for each in list(self.running):
                        if each.process.poll() is None:
                            self.watch(progress(each.job))
                        else:
                            self.running.remove(each)
                            self._account_for(each, stopping=stopping)
            finally:
                for each in self.running:  # after an error in this process, or a second Ctrl-C
                    _end_stdin(each.process)
                    each.process.terminate()
                for each in self.running:
                    each.process.wait()
        if self.failures:
            raise RunsFailed("\n".join(f"{name}: {text}" for name, text in self.failures.items()))
        if request.asked or self.stopped:
            raise Stopped("\n".join(self.stopped.values()) or "Stopped. Give the same command again to go on.")

    def _start_what_can(self) -> None:
        for job in list(self.waiting):
            if len(self.running) >= self.processes:
                return
            missing = [run for run in job.needs if run.result() is None]
            if not missing:
                self.waiting.remove(job)
                self._start(job)
            elif lost := [run for run in missing if not self._is_coming(run)]:
                self.waiting.remove(job)
                self._failed(job, f"the run it depends on, in {lost[0].path}, has no result.")

    def _is_coming(self, run: RunFolder) -> bool:
        return any(job.run == run for job in (*self.waiting, *(each.job for each in self.running)))

    def _start(self, job: Job) -> None:
        log = job.run.path / LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(job),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,  # Ctrl-C reaches it once, through its standard input
            )
        self.running.append(_Running(job, process, log))

    def _account_for(self, each: _Running, *, stopping: bool) -> None:
        """Every job has a result, or a reason why not."""
        _end_stdin(each.process)
        job, code = each.job, each.process.returncode
        steps = job.recipe.schedule.max_steps
        if (result := job.run.result()) is not None:
            self.watch(Event(job.name, steps, steps, f"mIoU {100 * result.miou:.1f}", "finished"))
        elif code == 130:
            self.stopped[job.name] = last_words(each.log)
        elif stopping:
            self.stopped[job.name] = (
                f"{job.name}: interrupted before it could save. Give the same command again; "
                "it goes on from its last checkpoint, or begins where it has none."
            )
        else:
            ended = f"its process ended with code {code}, without a result"
            memory = "; out of memory, perhaps: give the same command again, with fewer --jobs" if code < 0 else ""
            text = last_words(each.log) if code == 1 else ended + memory
            self._failed(job, f"{text} (all that it printed is in {each.log})")

    def _failed(self, job: Job, text: str) -> None:
        self.failures[job.name] = text
        self.watch(Event(job.name, 0, 1, text, "failed"))

    def _stop(self) -> None:
        self.waiting.clear()
        for each in self.running:
            self.watch(Event(each.job.name, 0, 1, STOPPING, "stopping"))
            _end_stdin(each.process)


def _end_stdin(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def progress(job: Job) -> Event:
    """How far a run is, from what it has logged last, or from how many pseudo-labels it has written."""
    total = job.recipe.schedule.max_steps
    logged = _logged_last(job.run.metrics)
    if not logged:
        labels = sum(1 for _ in job.run.pseudo_labels.glob("*.png"))
        return Event(job.name, 0, total, f"labels {labels}" if labels else "preparing")
    notes = []
    if "loss/segmentation" in logged:
        notes.append(f"loss {logged['loss/segmentation']:.2f}")
    if "seconds_per_step" in logged:
        notes.append(f"{time_of_a_step(logged['seconds_per_step'])} a step")
    if "miou" in logged:
        notes.append(f"mIoU {100 * logged['miou']:.1f}")
    return Event(job.name, logged["step"], total, ", ".join(notes))


def _logged_last(metrics: Path) -> dict[str, Any]:
    """The lines of the last step, as one; empty before the first."""
    found: dict[str, Any] = {}
    if not metrics.is_file():
        return found
    with metrics.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_LINES))
        for text in file.read().splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # half a line, at either end
                continue
            found = {**found, **line} if line["step"] == found.get("step") else line
    return found


def last_words(log: Path) -> str:
    """The error that ended a process, or else the last line that it printed."""
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    _, error, reason = f"\n{text}".rpartition("\nerror: ")
    return reason if error else text.rpartition("\n")[2]
