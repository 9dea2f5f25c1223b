"""Carry out the runs of an experiment, here one after the other or in processes beside each other.

Small networks gain little from a second thread, so on few cores several runs of one thread each finish
sooner than one run of several threads.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
import traceback
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from ..batches.training_data import Folders
from ..records.progress import Event, Watch
from ..records.run_folder import RunFolder
from ..records.stopping import Stopped, StopRequest
from .jobs import Job, carry_out, refuse_another_run


class RunsFailed(RuntimeError):
    """One or more runs of an experiment ended in an error."""


def run_experiment(
    jobs: Sequence[Job], folders: Folders, device: torch.device, watch: Watch, *, processes: int = 1
) -> None:
    """Carry out every job that has no result yet.

    Raises:
        Stopped: After Ctrl-C, once every run that was going on has saved its state.
        RunsFailed: If a run failed; the others are carried out nevertheless.
    """
    for job in jobs:
        refuse_another_run(job, folders)
    left = [job for job in jobs if job.run.result() is None]
    for job in jobs:
        if job not in left:
            steps = job.recipe.schedule.steps
            watch(Event(job.name, steps, steps, "ended earlier", "finished"))
    if processes <= 1:
        for job in left:
            carry_out(job, folders, device, watch)
        return
    _Pool(left, folders, device, watch, processes).run()


class _Pool:
    """One fresh process for each run, so that its peak memory is its own."""

    def __init__(
        self, jobs: Sequence[Job], folders: Folders, device: torch.device, watch: Watch, processes: int
    ) -> None:
        self.waiting = list(jobs)
        self.folders, self.device, self.watch, self.processes = folders, device, watch, processes
        self.context = multiprocessing.get_context("spawn")
        self.events: Any = self.context.Queue()
        self.running: list[tuple[Job, BaseProcess]] = []
        self.failures: dict[str, str] = {}
        self.stopped: list[str] = []

    def run(self) -> None:
        """Start what can start, listen, collect what has ended, until nothing is left."""
        with StopRequest() as request:
            told = False
            while self.waiting or self.running:
                if request.asked and not told:
                    self.waiting.clear()
                    self._pass_on_the_signal()
                    told = True
                self._start_what_can()
                self._listen(0.2)
                self._collect()
        if self.failures:
            raise RunsFailed("\n".join(f"{name}: {text}" for name, text in self.failures.items()))
        if request.asked or self.stopped:
            raise Stopped("\n".join(self.stopped) or "Stopped. Give the same command again to go on.")

    def _start_what_can(self) -> None:
        for job in list(self.waiting):
            if len(self.running) >= self.processes:
                return
            if job.first_step is not None and job.first_step.result() is None:
                if not self._is_coming(job.first_step):
                    self.waiting.remove(job)
                    self.failures[job.name] = f"its first step in {job.first_step.path} has no result."
                continue
            self.waiting.remove(job)
            daemon = job.recipe.running.workers == 0  # only a process that is none may have workers
            arguments = (job, self.folders, self.device, self.events, self.processes)
            process = self.context.Process(target=_child, args=arguments, name=job.name, daemon=daemon)
            process.start()
            self.running.append((job, process))

    def _is_coming(self, run: RunFolder) -> bool:
        return any(job.run == run for job in (*self.waiting, *(job for job, _ in self.running)))

    def _listen(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                event: Event = self.events.get(timeout=left)
            except queue.Empty:
                return
            if event.kind == "failed":
                self.failures[event.task] = event.note
            elif event.kind == "stopped":
                self.stopped.append(event.note)
            self.watch(event)

    def _collect(self) -> None:
        for job, process in list(self.running):
            if process.is_alive():
                continue
            process.join()
            self._listen(0.1)
            self.running.remove((job, process))
            if process.exitcode and job.name not in self.failures:
                self.failures[job.name] = (
                    f"its process ended with code {process.exitcode} and said nothing; out of memory, perhaps. "
                    "Give the same command again to go on from its last checkpoint, with fewer --jobs."
                )

    def _pass_on_the_signal(self) -> None:
        for _, process in self.running:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGINT)


def _child(job: Job, folders: Folders, device: torch.device, events: Any, processes: int) -> None:
    """What a process does: one run, with its share of the cores."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    try:
        carry_out(job, folders, device, events.put)
    except Stopped as stop:
        events.put(Event(job.name, 0, 1, str(stop), "stopped"))
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        where = Path(job.run.path, "error.txt")
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(traceback.format_exc(), encoding="utf-8")
        events.put(Event(job.name, 0, 1, f"{text} (traceback in {where})", "failed"))
    events.close()
    events.join_thread()
