"""Checks before anything is trained: data sets, start weights, folders, memory, disk and time."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import torch

from .atomic_io import DamagedFileError
from .checkpoint import CheckpointError
from .data import (
    PUBLISHED_IMAGES,
    DatasetError,
    DatasetSummary,
    SegmentationDataset,
    UnreadableFile,
    describe,
    mismatched_pairs,
    require_labels,
    unreadable_files,
)
from .data.training_data import Folders, open_labeled, open_target, open_validation
from .data.transforms import TransferredImages, transferred_folder
from .experiments.experiment import Job, check_same_run
from .experiments.runner import threads_of_a_run
from .methods.matching import MatchingConfig
from .methods.pseudo_labels import PseudoLabelConfig
from .methods.style_transfer import StyleTransferConfig
from .metrics_log import free_memory_bytes, time_of_a_step
from .models import WeightsError
from .recipes import Recipe
from .run_dir import ExperimentRecord, RunFolderError
from .training.recipe_network import start_network
from .training.timed_steps import TimedSteps, time_steps_apart

Returned = TypeVar("Returned")
Kind = Literal["ok", "note", "missing"]
ERRORS = (CheckpointError, DamagedFileError, DatasetError, OSError, RunFolderError, WeightsError)
NAMED = 5  # of the images with a fault, so many are named


class Finding(NamedTuple):
    """One line: ``ok``, a ``note`` that changes nothing, or ``missing``, without which the experiment cannot run."""

    kind: Kind
    what: str
    text: str


class Findings(list[Finding]):
    """The lines of a check."""

    def add(self, kind: Kind, what: str, text: str) -> None:
        self.append(Finding(kind, what, text))

    def attempt(self, what: str, call: Callable[[], Returned]) -> Returned | None:
        """What ``call`` returns; None where it raises one of the pipeline's errors, which is added as missing."""
        try:
            return call()
        except ERRORS as error:
            self.add("missing", what, str(error))
            return None


def check_plan(
    jobs: Sequence[Job],
    folders: Folders,
    record: ExperimentRecord,
    out: Path,
    device: torch.device,
    *,
    steps: int,
    processes: int,
    announce: Callable[[str], None],
) -> Findings:
    """Everything that could end an experiment before its last run, and how long it will take. Writes nothing.

    With 0 ``steps`` to time, time and memory are not checked; ``announce`` is called with the name of a run whose steps
    are about to be timed.
    """

    def timed_steps(job: Job) -> TimedSteps:
        announce(job.name)
        return time_steps_apart(job.recipe, folders, device, steps, threads_of_a_run(processes))

    recipes, findings, measured = [job.recipe for job in jobs], Findings(), None
    check_data(findings, recipes, folders)
    check_style_transfer(findings, recipes, folders)
    check_weights(findings, recipes)
    check_folders(findings, jobs, folders, record, out)
    left = [job for job in jobs if Findings().attempt(job.name, job.run.result) is None]
    if left and steps and any(finding.kind == "missing" for finding in findings):
        findings.add("note", "timed steps", "none, as long as something is missing")
    elif left and steps:
        measured = measure(findings, left, timed_steps)
    check_disk(findings, left, folders, out, measured)
    if measured is not None:
        findings += check_memory(measured, device, min(processes, len(left)))
        check_time(findings, left, folders, measured, processes)
    return findings


class Inspection(NamedTuple):
    """What the files of a data set hold; images with a fault have been dropped from the data set."""

    unreadable: list[UnreadableFile]  # by their headers
    misfits: list[str]  # images whose label map has another size
    summary: DatasetSummary | None  # of a sample of the others; None where all have a fault


def inspect(dataset: SegmentationDataset, sample: int = 20) -> Inspection:
    """Read the headers of all files, and ``sample`` images whole."""
    unreadable = unreadable_files(dataset)
    dataset.exclude([each.name for each in unreadable])
    misfits = mismatched_pairs(dataset)
    dataset.exclude(misfits)
    return Inspection(unreadable, misfits, describe(dataset, sample) if len(dataset) else None)


def check_data(findings: Findings, recipes: Sequence[Recipe], folders: Folders) -> None:
    """Every data set that a recipe reads, each once: its folders, the number of its images and its files."""
    checked = set()
    for recipe in recipes:
        layouts, of_source = recipe.layouts, recipe.labeled == "source"
        labeled = ("source", layouts.source) if of_source else ("target, training labels", layouts.target)
        sets = [
            (*labeled, "train", open_labeled),
            *([("target, training", layouts.target, "train", open_target)] if recipe.needs_target else []),
            ("target, validation", layouts.target, "val", open_validation),
        ]
        for what, layout, split, opened in sets:
            if what in checked:
                continue
            checked.add(what)
            if (dataset := findings.attempt(what, partial(opened, recipe, folders))) is None:
                continue
            count, published = len(dataset), PUBLISHED_IMAGES.get((layout, split), len(dataset))
            others = f", {published:,} were published" if published != count else ""
            findings.add("note" if others else "ok", what, f"{count:,} images{others}")
            findings.attempt(what, partial(_check_files, findings, what, dataset))


def _check_files(findings: Findings, what: str, dataset: SegmentationDataset) -> None:
    labeled, found = dataset.files[0].labels is not None, inspect(dataset)
    if found.misfits:
        names = f"{', '.join(found.misfits[:NAMED])}{and_more(found.misfits, NAMED)}; replace one file of each pair"
        findings.add("missing", what, f"image and label map differ in size: {names}")
    summary = found.summary
    if unreadable := [*found.unreadable, *(summary.unreadable if summary else [])]:
        files = f"{len(unreadable)} file{'s' * (len(unreadable) > 1)}"
        findings.add("missing", what, f"{files} cannot be read, the first: {unreadable[0].reason}")
    if not labeled or summary is None or not summary.sampled:
        return
    what = f"{what}, labels"
    if summary.unknown_ids:
        first, file = next(iter(summary.unknown_in.items()))
        text = f"ids without a row in the class file, ignored (id: pixels): {summary.unknown_ids}; {first} in {file}"
        findings.add("note", what, text)
    before = len(findings)
    findings.attempt(what, partial(require_labels, what.removesuffix(", labels"), dataset))
    if len(findings) > before:
        return
    absent = [name for name, pixels in summary.pixels.items() if not pixels]
    seen = f"{len(summary.pixels) - len(absent)} of {len(summary.pixels)} classes in {summary.sampled} images"
    findings.add("note" if absent else "ok", what, f"{seen}; not seen: {', '.join(absent)}" if absent else seen)


def check_style_transfer(findings: Findings, recipes: Sequence[Recipe], folders: Folders) -> None:
    """The folder of transferred source images, where recipes take one."""
    what, users = "style-transferred images", [each for each in recipes if each.config(StyleTransferConfig)]
    transfer = users[0].config(StyleTransferConfig) if users else None
    if transfer is None:
        return
    if transfer.in_step:
        text = f"{transfer.method}, within a step; the paper's were translated by a CycleGAN (--style-transfer FOLDER)"
        findings.add("note", what, text)
    elif (folder := findings.attempt(what, partial(transferred_folder, transfer))) is not None:
        source = Findings().attempt(what, partial(open_labeled, users[0], folders))  # an error has its own line
        if source is None:
            findings.add("note", what, f"{folder}: not compared, since the source cannot be opened")
        elif findings.attempt(what, partial(TransferredImages, source, folder)) is not None:
            findings.add("ok", what, f"one for each of {len(source):,}")


def check_weights(findings: Findings, recipes: Sequence[Recipe]) -> None:
    """The start weights of each network that the recipes have: are they there, and do they fit?"""
    what = "start weights"
    for recipe in {recipe.network.model_dump_json(): recipe for recipe in recipes}.values():
        if recipe.network.weights is None:
            findings.add("note", what, "random; the paper began with ImageNet's (--set network.weights=FILE)")
        elif (network := findings.attempt(what, partial(start_network, recipe, torch.device("cpu")))) is not None:
            style = f"pixels are normalized in the style of {network.style}"
            findings.add("ok", what, f"{network.weights_report}; {style}")


def check_folders(
    findings: Findings, jobs: Sequence[Job], folders: Folders, record: ExperimentRecord, out: Path
) -> None:
    """What the folder holds already: another experiment or another run is an error, finished runs are kept."""
    before = len(findings)
    findings.attempt("experiment folder", lambda: tempfile.TemporaryFile(dir=_existing(out)).close())
    findings.attempt("experiment folder", partial(record.check, out))
    if len(findings) > before:
        return
    for job in jobs:
        findings.attempt(job.name, partial(check_same_run, job, folders))
    finished = sum(Findings().attempt(job.name, job.run.result) is not None for job in jobs)
    begun = sum(job.run.recipe_file.is_file() for job in jobs) - finished
    findings.add("ok", "runs", f"{len(jobs)}: {finished} finished, {begun} begun")


def _existing(out: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(place for place in (out.absolute(), *out.absolute().parents) if os.path.lexists(place))


def check_disk(findings: Findings, jobs: Sequence[Job], folders: Folders, out: Path, measured: Measured | None) -> None:
    """Room for checkpoints and pseudo-labels of the runs that are left, against what is free."""
    free = shutil.disk_usage(_existing(out)).free
    labeled = [job for job in jobs if job.recipe.config(PseudoLabelConfig)]
    labels = sum(math.prod(job.recipe.data.target_size) * _count(open_target, job, folders) for job in labeled)
    # One more than is kept is there while it is written.
    kept = sum(job.recipe.runtime.save_total_limit + 1 for job in jobs)
    checkpoints = measured.most.checkpoint_bytes * kept if measured else 0
    parts = f"checkpoints {size(checkpoints) if measured else 'not measured'}, pseudo-labels {size(labels)}"
    text = f"at most {size(checkpoints + labels)} ({parts}) and some MiB of logs; free {size(free)}"
    enough: Kind = "ok" if measured else "note"
    findings.add(enough if checkpoints + labels <= free else "missing", "disk", text)


def _count(opened: Callable[[Recipe, Folders], SegmentationDataset], job: Job, folders: Folders) -> int:
    """The images of a data set; 0 where it cannot be opened, which has its own line."""
    dataset = Findings().attempt(job.name, partial(opened, job.recipe, folders))
    return len(dataset) if dataset else 0


@dataclass(frozen=True)
class Measured:
    """Timed steps of the costliest run that is left and, where one costs less, of the cheapest."""

    most: TimedSteps
    costliest: Job
    least: TimedSteps
    cheapest: Job

    def seconds_per_step(self, job: Job) -> float:
        """Interpolated between the two by the cost of a run's parts."""
        span = self.costliest.cost - self.cheapest.cost
        share = min(1.0, max(0.0, (job.cost - self.cheapest.cost) / span)) if span else 1.0
        return self.least.seconds_per_step + share * (self.most.seconds_per_step - self.least.seconds_per_step)


def measure(findings: Findings, jobs: Sequence[Job], timed_steps: Callable[[Job], TimedSteps]) -> Measured | None:
    """Time steps of the runs that are left; None, with a finding that says why, where that is not possible.

    A second stage needs labels that are not there yet and takes about as long as the first: it is not timed itself.
    """

    def cost(job: Job) -> tuple[float, int]:
        matching = job.recipe.config(MatchingConfig)
        return job.cost, matching.capacity if matching else 0

    timed = sorted((job for job in jobs if not job.recipe.labeled_by), key=cost)
    if not timed:
        findings.add("note", "timed steps", "every run that is left needs labels of another; none timed")
        return None
    cheapest, costliest = timed[0], timed[-1]
    found: list[TimedSteps] = []
    for job in (costliest, cheapest) if cheapest.cost < costliest.cost else (costliest,):
        try:
            found.append(timed_steps(job))
        except (BrokenProcessPool, MemoryError, torch.OutOfMemoryError) as error:
            text = f"{job.name}: no memory for a step ({error or type(error).__name__}); lower data.batch or sizes"
            findings.add("missing", "memory", text)
            return None
        except Exception as error:  # whatever ends a step here would end the run
            findings.add("missing", "timed steps", f"{job.name}: {type(error).__name__}: {error}")
            return None
    return Measured(found[0], costliest, found[-1], cheapest if len(found) > 1 else costliest)


def check_memory(measured: Measured, device: torch.device, processes: int) -> Findings:
    """The costliest run's peak, as many times as runs take place at a time, against what is free."""
    findings, of_machine = Findings(), torch.device("cpu")
    peaks = [("memory", measured.most.process_bytes, of_machine)]
    if device.type == "cuda":
        peaks.append(("memory of the GPU", measured.most.memory_bytes, device))
    for what, peak, where in peaks:
        needed, free = processes * peak, free_memory_bytes(where)
        text = f"{size(peak)} a run ({measured.costliest.name})"
        if processes > 1:
            text += f", {processes} at a time: {size(needed)}"
        if where.type == "cpu" and measured.costliest.recipe.runtime.cache:
            text += ", and the decoded images as they are kept"
        if free is None:
            findings.add("note", what, f"{text}; how much is free is not known here")
        else:
            findings.add("ok" if needed <= free else "missing", what, f"{text}; free {size(free)}")
    return findings


def check_time(findings: Findings, jobs: Sequence[Job], folders: Folders, measured: Measured, processes: int) -> None:
    """How long a step took, and how long all that is left will take."""
    both = {measured.costliest.name: measured.most, measured.cheapest.name: measured.least}
    for name, timed in both.items():
        findings.add("ok", "time a step", f"{time_of_a_step(timed.seconds_per_step)}, {name}")
    validation, target = (_count(opened, measured.costliest, folders) for opened in (open_validation, open_target))
    image = measured.most.seconds_per_image
    training = sum(job.recipe.schedule.max_steps * measured.seconds_per_step(job) for job in jobs)
    tests = sum(-(-job.recipe.schedule.max_steps // job.recipe.schedule.evaluate_every) for job in jobs)
    scoring = tests * image * validation
    labeling = sum(bool(job.recipe.labeled_by) for job in jobs) * 2 * image * target
    together = duration((training + scoring + labeling) / min(processes, max(1, len(jobs))))
    parts = f"training {duration(training)}, scoring {duration(scoring)}, labeling {duration(labeling)}"
    beside = f", {processes} at a time without slowing each other" if processes > 1 else ""
    text = (
        f"{together} for {len(jobs)} run{'s' * (len(jobs) > 1)} ({parts}){beside}; each run's start adds a few seconds"
    )
    findings.add("ok", "time in all", text)


def and_more(found: Sequence[object], named: int) -> str:
    """How many there are besides those that are named."""
    return f" and {len(found) - named} more" if len(found) > named else ""


def size(count: int) -> str:
    """Bytes in GiB or MiB."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**29 else f"{count / 2**20:,.0f} MiB"


def duration(seconds: float) -> str:
    """Days, hours, minutes or seconds, two at most."""
    minutes, hours, days = round(seconds / 60), round(seconds / 3600), seconds / 86400
    if days >= 2:
        return f"{days:.1f} days"
    if hours >= 2:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes >= 2 else f"{seconds:.0f} s"
