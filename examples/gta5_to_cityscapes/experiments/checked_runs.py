"""Look at the folder of an experiment, and at what its runs will take: disk, memory, time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ..batches.training_data import Folders, open_target, open_validation
from ..records.environment import free_memory_bytes
from ..records.experiment_record import ExperimentRecord
from ..records.step_cost import time_of_a_step
from ..training.timed_steps import TimedSteps, time_steps_apart
from .carrying_out import refuse_another_run
from .findings import Finding, attempted
from .jobs import Job
from .processes import threads_of_a_run

LINE_BYTES = 600  # of metrics.jsonl and of TensorBoard's file together, about


def check_folders(jobs: Sequence[Job], folders: Folders, record: ExperimentRecord, out: Path) -> list[Finding]:
    """What the folder holds already: another experiment or other runs are in the way, finished runs are kept."""
    findings: list[Finding] = []
    attempted("experiment folder", partial(_try_to_write, out), findings)
    attempted("experiment folder", partial(record.check, out), findings)
    if findings:
        return findings
    for job in jobs:
        attempted(job.name, partial(refuse_another_run, job, folders), findings)
    finished = sum(attempted(job.name, job.run.result, []) is not None for job in jobs)
    begun = sum(job.run.recipe_file.is_file() for job in jobs) - finished
    findings.append(Finding("ok", "runs", f"{len(jobs)}: {finished} finished, {begun} begun"))
    return findings


def _place_of(out: Path) -> Path:
    """The folder itself, or what is there already of those that it will lie in."""
    return next(place for place in (out.absolute(), *out.absolute().parents) if os.path.lexists(place))


def _try_to_write(out: Path) -> None:
    """A file without a name where the runs will write; nothing is left of it."""
    with tempfile.TemporaryFile(dir=_place_of(out)):
        pass


def left_of(jobs: Sequence[Job]) -> list[Job]:
    """Those without a result."""
    return [job for job in jobs if attempted(job.name, job.run.result, []) is None]


@dataclass(frozen=True)
class Measured:
    """Timed steps of the costliest run that is left and, where one costs less, of the cheapest."""

    most: TimedSteps
    costliest: Job
    least: TimedSteps
    cheapest: Job

    def seconds_a_step(self, job: Job) -> float:
        """Between the two by what a run's parts cost."""
        span = self.costliest.cost - self.cheapest.cost
        share = min(1.0, max(0.0, (job.cost - self.cheapest.cost) / span)) if span else 1.0
        return self.least.seconds_a_step + share * (self.most.seconds_a_step - self.least.seconds_a_step)


def measure(
    jobs: Sequence[Job],
    folders: Folders,
    device: torch.device,
    steps: int,
    processes: int,
    findings: list[Finding],
    tell: Callable[[str], None],
) -> Measured | None:
    """Time steps of the runs that are left; None, and a finding that says why, where that is not possible.

    A second step on pseudo-labels takes about as long as the first and needs labels that are not there yet: it is not
    timed itself.
    """
    timed = sorted((job for job in jobs if not job.recipe.labelled_by), key=_cost)
    if not timed:
        findings.append(Finding("note", "timed steps", "every run that is left needs labels of another; none timed"))
        return None
    threads = threads_of_a_run(processes)
    cheapest, costliest = timed[0], timed[-1]
    found: list[TimedSteps] = []
    for job in (costliest, cheapest) if cheapest.cost < costliest.cost else (costliest,):
        tell(job.name)
        try:
            found.append(time_steps_apart(job.recipe, folders, device, steps, threads))
        except (BrokenProcessPool, MemoryError, torch.OutOfMemoryError) as error:
            text = f"{job.name}: no memory for a step ({error or type(error).__name__}); lower pictures.batch or sizes"
            findings.append(Finding("missing", "memory", text))
            return None
        except Exception as error:  # whatever ends a step here would end the run
            findings.append(Finding("missing", "timed steps", f"{job.name}: {type(error).__name__}: {error}"))
            return None
    return Measured(found[0], costliest, found[-1], cheapest if len(found) > 1 else costliest)


def _cost(job: Job) -> tuple[float, int]:
    return job.cost, job.recipe.matching.capacity if job.recipe.matching else 0


def check_memory(measured: Measured, device: torch.device, processes: int) -> list[Finding]:
    """The costliest run's peak, as many times as runs go on at once, against what is free."""
    cpu = torch.device("cpu")
    findings = [_memory("memory", measured.most.process_bytes, cpu, measured, processes)]
    if device.type == "cuda":
        findings.append(_memory("memory of the GPU", measured.most.memory_bytes, device, measured, processes))
    return findings


def _memory(what: str, peak: int, device: torch.device, measured: Measured, processes: int) -> Finding:
    needed, free = processes * peak, free_memory_bytes(device)
    told = f"{size(peak)} a run ({measured.costliest.name})"
    if processes > 1:
        told += f", {processes} at a time: {size(needed)}"
    if device.type == "cpu" and measured.costliest.recipe.running.cache:
        told += ", and the decoded pictures as they are kept"
    if free is None:
        return Finding("note", what, f"{told}; how much is free cannot be told here")
    return Finding("ok" if needed <= free else "missing", what, f"{told}; free {size(free)}")


def check_disk(jobs: Sequence[Job], folders: Folders, out: Path, measured: Measured | None) -> Finding:
    """Room for checkpoints, pseudo-labels and logs of the runs that are left, against what is free."""
    free = shutil.disk_usage(_place_of(out)).free
    labels = sum(_label_bytes(job, folders) for job in jobs)
    logs = sum(_log_bytes(job) for job in jobs)
    if measured is None:
        told = (
            f"at most {size(labels)} of pseudo-labels, logs {size(logs)}, checkpoints not measured; free {size(free)}"
        )
        return Finding("note" if labels + logs <= free else "missing", "disk", told)
    # One more than is kept is there while it is written.
    checkpoints = sum(measured.most.checkpoint_bytes * (job.recipe.running.keep_checkpoints + 1) for job in jobs)
    needed = checkpoints + labels + logs
    parts = f"checkpoints {size(checkpoints)}, pseudo-labels {size(labels)}, logs {size(logs)}"
    return Finding(
        "ok" if needed <= free else "missing", "disk", f"at most {size(needed)} ({parts}); free {size(free)}"
    )


def _label_bytes(job: Job, folders: Folders) -> int:
    if job.recipe.pseudo_labels is None:
        return 0
    height, width = job.recipe.pictures.target_size
    target = attempted(job.name, partial(open_target, job.recipe, folders), [])
    return height * width * (len(target) if target else 0)


def _log_bytes(job: Job) -> int:
    schedule, evaluation = job.recipe.schedule, job.recipe.evaluation
    height, width = job.recipe.pictures.target_size
    lines = schedule.steps // schedule.log_every + 3 * schedule.steps // schedule.evaluate_every
    return LINE_BYTES * lines + evaluation.previews * 5 * height * width  # three channels and two label maps


def check_time(jobs: Sequence[Job], folders: Folders, measured: Measured, processes: int) -> list[Finding]:
    """How long a step took, and how long all that is left will take."""
    findings = [
        Finding("ok", "time a step", f"{time_of_a_step(timed.seconds_a_step)}, {job.name}")
        for job, timed in _measured_runs(measured)
    ]
    validation = attempted("", partial(open_validation, measured.costliest.recipe, folders), [])
    target = attempted("", partial(open_target, measured.costliest.recipe, folders), [])
    picture = measured.most.seconds_a_picture
    training = sum(job.recipe.schedule.steps * measured.seconds_a_step(job) for job in jobs)
    tests = sum(-(-job.recipe.schedule.steps // job.recipe.schedule.evaluate_every) for job in jobs)
    scoring = tests * picture * (len(validation) if validation else 0)
    labelling = sum(bool(job.recipe.labelled_by) for job in jobs) * 2 * picture * (len(target) if target else 0)
    together = (training + scoring + labelling) / min(processes, max(1, len(jobs)))
    parts = f"training {duration(training)}, scoring {duration(scoring)}, labelling {duration(labelling)}"
    at_once = f", {processes} at a time without slowing each other" if processes > 1 else ""
    runs = f"{len(jobs)} run{'s' if len(jobs) > 1 else ''}"
    told = f"{duration(together)} for {runs} ({parts}){at_once}; each run's start comes on top, a few seconds"
    return [*findings, Finding("ok", "time in all", told)]


def _measured_runs(measured: Measured) -> list[tuple[Job, TimedSteps]]:
    both = [(measured.costliest, measured.most), (measured.cheapest, measured.least)]
    return both[:1] if measured.cheapest is measured.costliest else both


def size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**29 else f"{count / 2**20:,.0f} MiB"


def duration(seconds: float) -> str:
    """Days, hours, minutes or seconds, two at most."""
    minutes, hours, days = round(seconds / 60), round(seconds / 3600), seconds / 86400
    if days >= 2:
        return f"{days:.1f} days"
    if hours >= 2:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes >= 2 else f"{seconds:.0f} s"
