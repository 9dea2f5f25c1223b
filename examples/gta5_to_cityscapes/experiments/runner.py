"""Run the jobs of an experiment, each in a process of its own, one after the other or several at a time.

A process of its own makes a run's peak memory its own, and keeps its failure from the others. Small networks
gain little from a second thread, so on few cores several runs of one thread each finish sooner than one run
of several threads. Where ``torchrun`` has started several processes for each run, they carry out one run after the
other themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import torch

from ..atomic_io import written_beside
from ..data.training_data import Folders
from ..distributed import world_size
from ..run_dir import Event, RunFolder, Watch
from ..signals import STOPPING, Stopped, StopRequest, ignores_sigint
from .experiment import Job, carry_out, check_same_run

TRACEBACK = "error.txt"


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
        _Pool(left, folders, device, watch, processes).run()


def threads_of_a_run(processes: int) -> int:
    """The threads that this process is set to for one run at a time, for several an equal share of the cores."""
    return torch.get_num_threads() if processes == 1 else max(1, (os.cpu_count() or 1) // processes)


@dataclass(frozen=True)
class _Running:
    """A job that has been started: its process, and the end of the pipe that its events come from."""

    job: Job
    process: BaseProcess
    events: Connection


class _Pool:
    """One fresh process for each run."""

    def __init__(
        self, jobs: Sequence[Job], folders: Folders, device: torch.device, watch: Watch, processes: int
    ) -> None:
        self.waiting = list(jobs)
        self.folders, self.device, self.watch, self.processes = folders, device, watch, processes
        self.threads = threads_of_a_run(processes)
        self.context = multiprocessing.get_context("spawn")
        self.running: list[_Running] = []
        self.failures: dict[str, str] = {}
        self.stopped: dict[str, str] = {}

    def run(self) -> None:
        """Start runs, handle their events and collect those that have ended, until nothing is left."""
        with StopRequest() as request:
            stopping = False
            try:
                while self.waiting or self.running:
                    if request.asked and not stopping:
                        self._stop()
                        stopping = True
                    self._start_what_can()
                    self._listen(0.2)
                    self._collect(stopping=stopping)
            finally:
                self._end_what_still_runs()
        if self.failures:
            raise RunsFailed("\n".join(f"{name}: {text}" for name, text in self.failures.items()))
        if request.asked or self.stopped:
            raise Stopped("\n".join(self.stopped.values()) or "Stopped. Give the same command again to go on.")

    def _start_what_can(self) -> None:
        for job in list(self.waiting):
            if len(self.running) >= self.processes:
                return
            missing = [run for run in job.needs if run.result() is None]
            if missing:
                if lost := [run for run in missing if not self._is_coming(run)]:
                    self.waiting.remove(job)
                    self.failures[job.name] = f"the run it depends on, in {lost[0].path}, has no result."
                continue
            self.waiting.remove(job)
            self._start(job)

    def _start(self, job: Job) -> None:
        here, there = self.context.Pipe(duplex=False)
        process = self.context.Process(
            target=_child,
            args=(job, self.folders, self.device, there, self.threads),
            name=job.name,
            daemon=job.recipe.runtime.num_workers == 0,  # a daemon may not have workers
        )
        if os.name == "posix":
            resource_tracker.ensure_running()  # started within the block, it would let the signal through
        with _sigint("SIG_BLOCK"):  # a process that is started here holds it back too, while it imports
            process.start()
        there.close()
        self.running.append(_Running(job, process, here))

    def _is_coming(self, run: RunFolder) -> bool:
        return any(job.run == run for job in (*self.waiting, *(each.job for each in self.running)))

    def _listen(self, seconds: float) -> None:
        wait([source for each in self.running for source in (each.events, each.process.sentinel)], seconds)
        for each in self.running:
            self._hear(each)

    def _hear(self, each: _Running) -> None:
        """Handle all events of a run so far."""
        while (event := _next_event(each.events)) is not None:
            if event.kind == "failed":
                self.failures[event.task] = event.note
            elif event.kind == "stopped":
                self.stopped[event.task] = event.note
            self.watch(event)

    def _collect(self, *, stopping: bool) -> None:
        for each in list(self.running):
            if each.process.is_alive():
                continue
            each.process.join()
            self._hear(each)  # the process has ended: the pipe holds its last events
            each.events.close()
            self.running.remove(each)
            self._account_for(each.job, each.process.exitcode, stopping=stopping)

    def _account_for(self, job: Job, code: int | None, *, stopping: bool) -> None:
        """Every job has a result, or a reason why not."""
        if job.run.result() is not None or job.name in self.failures or job.name in self.stopped:
            return
        if stopping and code != -getattr(signal, "SIGKILL", 9):
            # Ctrl-C came while its process was still importing, or twice.
            self.stopped[job.name] = (
                f"{job.name}: interrupted before it could save. Give the same command again; "
                "it goes on from its last checkpoint, or begins where it has none."
            )
            return
        self.failures[job.name] = (
            f"its process ended with code {code}, without a result, and said nothing"
            f"{'; out of memory, perhaps' if code else ''}. "
            "Give the same command again to go on from its last checkpoint, with fewer --jobs."
        )

    def _stop(self) -> None:
        """Report that each run is stopping, and pass the signal on to its process."""
        kind = signal.SIGTERM if ignores_sigint() else signal.SIGINT  # which the runs then ignore as well
        self.waiting.clear()
        for each in self.running:
            self.watch(Event(each.job.name, 0, 1, STOPPING, "stopping"))
        for each in self.running:
            if each.process.pid is not None and each.process.is_alive():
                os.kill(each.process.pid, kind)

    def _end_what_still_runs(self) -> None:
        """After an error in this process: runs in training save their state and end."""
        for each in self.running:
            each.process.terminate()
        for each in self.running:
            each.process.join()
            each.events.close()


def _next_event(events: Connection) -> Event | None:
    """The next event of the pipe; None where it is empty, or its other end was closed, perhaps within an event."""
    try:
        return events.recv() if events.poll() else None
    except (EOFError, OSError):
        return None


@contextmanager
def _sigint(how: Literal["SIG_BLOCK", "SIG_UNBLOCK"]) -> Iterator[None]:
    """Hold Ctrl-C back, or let it through, within a block; Windows has no masks of signals."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(getattr(signal, how), {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child(job: Job, folders: Folders, device: torch.device, events: Connection, threads: int) -> None:
    """What a process does: one run, with its share of the cores."""
    torch.set_num_threads(threads)

    def send(event: Event) -> None:
        if event.kind != "stopping":  # the parent reports it; from another thread it would mix with this one's events
            events.send(event)

    try:
        with _sigint("SIG_UNBLOCK"):  # not while an event is sent below
            carry_out(job, folders, device, send)
            Path(job.run.path, TRACEBACK).unlink(missing_ok=True)  # of a try that failed
    except Stopped as stop:
        events.send(Event(job.name, 0, 1, str(stop), "stopped"))
    except KeyboardInterrupt:
        text = f"{job.name}: interrupted. Give the same command again; what has been written is kept."
        events.send(Event(job.name, 0, 1, text, "stopped"))
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        where = Path(job.run.path, TRACEBACK)
        with suppress(OSError):  # the disk may be full, which the text reports
            with written_beside(where) as beside:
                beside.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
            text += f" (traceback in {where})"
        events.send(Event(job.name, 0, 1, text, "failed"))
    events.close()
