"""Checks before anything is trained: data sets, start weights, folders, memory, disk and time."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from .atomic_io import DamagedFileError
from .checkpoint import CheckpointError
from .data import (
    PUBLISHED_IMAGES,
    DatasetError,
    SegmentationDataset,
    UnreadableFile,
    describe,
    mismatched_pairs,
    require_labels,
    unreadable_files,
)
from .data.style_transfer import TransferredImages, transferred_folder
from .data.training_data import Folders, open_labeled, open_target, open_validation
from .experiments.experiment import Job, check_same_run
from .experiments.runner import threads_of_a_run
from .methods.foundation_distance import FoundationDistanceConfig, foundation_model
from .methods.matching import MatchingConfig
from .methods.pseudo_labels import PseudoLabelConfig
from .methods.style_transfer import StyleTransferConfig, TargetStyleTransferConfig
from .metrics_log import free_memory_bytes, time_of_a_step
from .models import WeightsError
from .recipes import Recipe
from .run_dir import ExperimentRecord, RunFolderError
from .training.recipe_network import start_network
from .training.timed_steps import TimedSteps, time_steps_apart

Kind = Literal["ok", "note", "missing"]
CPU = torch.device("cpu")
ERRORS = (CheckpointError, DamagedFileError, DatasetError, OSError, RunFolderError, WeightsError)


class Finding(NamedTuple):
    """One line: ``ok``, a ``note`` that changes nothing, or ``missing``, without which nothing can run."""

    kind: Kind
    what: str
    text: str


class Findings(list[Finding]):
    """The lines of a check."""

    def add(self, kind: Kind, what: str, text: str) -> None:
        self.append(Finding(kind, what, text))

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """One of the pipeline's errors within the block is added as missing; some name the data set themselves."""
        try:
            yield
        except ERRORS as error:
            self.add("missing", what, str(error).removeprefix(f"{what}: "))


def check_plan(
    jobs: Sequence[Job],
    folders: Folders,
    record: ExperimentRecord | None,
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
    left = [job for job in jobs if not _finished(job)]
    if left and steps and any(finding.kind == "missing" for finding in findings):
        findings.add("note", "timed steps", "none, as long as something is missing")
    elif left and steps:
        measured = measure(findings, left, timed_steps)
    check_disk(findings, left, folders, out, measured)
    if measured is not None:
        check_memory(findings, measured, device, min(processes, len(left)))
        check_time(findings, left, folders, measured, processes)
    return findings


def _finished(job: Job) -> bool:
    with Findings().attempt(job.name):  # an error is reported where the folders are checked
        return job.run.result() is not None
    return False


def check_data(
    findings: Findings, recipes: Sequence[Recipe], folders: Folders, *, sample: int = 20, named: int = 5
) -> None:
    """Every data set that a recipe reads, each once: its folders, the number of its images and its files.

    ``sample`` images of each are read whole, and of the files with a fault ``named`` are named.
    """
    sets: dict[str, Callable[[], None]] = {}
    for recipe in recipes:
        layouts, check = recipe.layouts, partial(_check_set, findings, recipe, folders, sample, named)
        if recipe.labeled == "source":
            sets["source"] = partial(check, open_labeled, (layouts.source, "train"))
        else:
            sets["target, training labels"] = partial(check, open_labeled, (layouts.target, "train"))
        if recipe.needs_target:
            sets["target, training"] = partial(check, open_target, (layouts.target, "train"))
        sets["target, validation"] = partial(check, open_validation, (layouts.target, "val"))
    for what, check_set in sets.items():
        with findings.attempt(what):
            check_set(what)


def _check_set(
    findings: Findings,
    recipe: Recipe,
    folders: Folders,
    sample: int,
    named: int,
    opened: Callable[[Recipe, Folders], SegmentationDataset],
    published: tuple[str, str],
    what: str,
) -> None:
    """Headers of all files, then a sample read whole; images with a fault are dropped from the data set."""
    dataset = opened(recipe, folders)
    total, labeled = len(dataset), dataset.files[0].labels is not None
    dataset.size = None  # pixels are counted as they are stored

    def cannot_be_read(what: str, files: Sequence[UnreadableFile]) -> None:
        if files:
            reasons = "\n  ".join(each.reason for each in files[:named])
            text = f"{len(files)} cannot be read; replace them, or move the images and their label maps away."
            findings.add("missing", what, f"{text}\n  {reasons}{_and_more(files, named)}")

    unreadable = unreadable_files(dataset)
    cannot_be_read(what, unreadable)
    dataset.exclude([each.name for each in unreadable])
    if misfits := mismatched_pairs(dataset):
        names = f"{', '.join(misfits[:named])}{_and_more(misfits, named)}"
        findings.add("missing", what, f"image and label map differ in size: {names}; replace one file of each pair")
        dataset.exclude(misfits)
    text, sampled = f"{total:,} images", 0
    if len(dataset):
        summary = describe(dataset, sample)
        sampled = summary.sampled if labeled else 0
        cannot_be_read(f"{what}, of {summary.sampled + len(summary.unreadable)} decoded", summary.unreadable)
    if sampled:
        sizes = ", ".join(f"{height}x{width}" for height, width in summary.sizes)
        text += f" ({sizes}, height x width), {sampled} of them read"
    count = PUBLISHED_IMAGES.get(published, total)
    findings.add(*("note", what, f"{text}; {count:,} were published") if count != total else ("ok", what, text))
    if not sampled:
        return
    if summary.unknown_ids:
        first, file = next(iter(summary.unknown_in.items()))
        text = f"ids without a row in the class file, ignored (id: pixels): {summary.unknown_ids}; {first} in {file}"
        findings.add("note", f"{what}, labels", text)
    require_labels(what, dataset)
    space, absent = recipe.label_space, [name for name, pixels in summary.pixels.items() if not pixels]
    shares = ", ".join(f"{name} {summary.share(name):.2%}" for name in summary.pixels if name not in absent)
    text = f"{len(summary.pixels) - len(absent)} of {len(summary.pixels)} classes, of the labeled pixels {shares}"
    unseen = f"; not seen: {', '.join(absent)}" if absent else ""
    if unmatched := [name for i, name in enumerate(space.names) if i not in (*space.stuff, *space.things)]:
        unseen += f"; neither stuff nor things, so never matched: {', '.join(unmatched)}"
    findings.add("note" if absent else "ok", f"{what}, labels", text + unseen)


def _and_more(found: Sequence[object], named: int) -> str:
    return f" and {len(found) - named} more" if len(found) > named else ""


def check_style_transfer(findings: Findings, recipes: Sequence[Recipe], folders: Folders) -> None:
    """The folders of transferred images, where recipes take some."""
    transfer = next(filter(None, (each.config(StyleTransferConfig) for each in recipes)), None)
    if transfer is not None and transfer.in_step:
        text = f"{transfer.method}, within a step; the paper's were translated by a CycleGAN (--style-transfer FOLDER)"
        findings.add("note", "style-transferred images", text)
    for what, kind, opens in (
        ("style-transferred images", StyleTransferConfig, (open_labeled,)),
        ("style-transferred target", TargetStyleTransferConfig, (open_target, open_validation)),
    ):
        user = next((each for each in recipes if each.config(kind)), None)
        with findings.attempt(what):
            if user is not None and (folder := transferred_folder(user.config(kind))) is not None:
                total = sum(len(TransferredImages(opened(user, folders), folder)) for opened in opens)
                findings.add("ok", what, f"one for each of {total:,}")


def check_weights(findings: Findings, recipes: Sequence[Recipe]) -> None:
    """The start weights and foundation models of the recipes: are they there, and do they fit?"""
    for model in {config.model for each in recipes if (config := each.config(FoundationDistanceConfig)) is not None}:
        if model is not None:
            with findings.attempt("foundation model"):
                findings.add("ok", "foundation model", str(foundation_model(model).network.weights_report))
    what = "start weights"
    for recipe in {recipe.network.model_dump_json(): recipe for recipe in recipes}.values():
        if recipe.network.weights is None:
            findings.add("note", what, "random; the paper began with ImageNet's (--set network.weights=FILE)")
            continue
        with findings.attempt(what):
            network = start_network(recipe, CPU)
            style = f"pixels are normalized in the style of {network.style}"
            findings.add("ok", what, f"{network.weights_report}; {style}")


def check_folders(
    findings: Findings, jobs: Sequence[Job], folders: Folders, record: ExperimentRecord | None, out: Path
) -> None:
    """What the folder holds already: another experiment or another run is an error, finished runs are kept."""
    with findings.attempt("experiment folder"):
        tempfile.TemporaryFile(dir=_existing(out)).close()
        if record is not None:
            record.check(out)
        for job in jobs:
            with findings.attempt(job.name):
                check_same_run(job, folders)
        finished = sum(map(_finished, jobs))
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
    checkpoints = measured.steps.checkpoint_bytes * kept if measured else 0
    parts = f"checkpoints {size(checkpoints) if measured else 'not measured'}, pseudo-labels {size(labels)}"
    text = f"at most {size(checkpoints + labels)} ({parts}) and some MiB of logs; free {size(free)}"
    enough: Kind = "ok" if measured else "note"
    findings.add(enough if checkpoints + labels <= free else "missing", "disk", text)


def _count(opened: Callable[[Recipe, Folders], SegmentationDataset], job: Job, folders: Folders) -> int:
    """The images of a data set; 0 where it cannot be opened, which is reported with the data."""
    with Findings().attempt(job.name):
        return len(opened(job.recipe, folders))
    return 0


class Measured(NamedTuple):
    """Timed steps of the costliest run that is left."""

    job: Job
    steps: TimedSteps


def measure(findings: Findings, jobs: Sequence[Job], timed_steps: Callable[[Job], TimedSteps]) -> Measured | None:
    """Time steps of the costliest run that is left; None, with a finding that says why, where that is not possible.

    A second stage needs labels that are not there yet and takes about as long as the first: it is not timed itself.
    """

    def cost(job: Job) -> tuple[float, int]:
        matching = job.recipe.config(MatchingConfig)
        return job.cost, matching.capacity if matching else 0

    job = max((job for job in jobs if not job.recipe.labeled_by), key=cost, default=None)
    if job is None:
        findings.add("note", "timed steps", "every run that is left needs labels of another; none timed")
        return None
    try:
        return Measured(job, timed_steps(job))
    except (BrokenProcessPool, MemoryError, torch.OutOfMemoryError) as error:
        text = f"{job.name}: no memory for a step ({error or type(error).__name__}); lower data.batch or sizes"
        findings.add("missing", "memory", text)
    except Exception as error:  # whatever ends a step here would end the run
        findings.add("missing", "timed steps", f"{job.name}: {type(error).__name__}: {error}")
    return None


def check_memory(findings: Findings, measured: Measured, device: torch.device, processes: int) -> None:
    """The costliest run's peak, as many times as runs take place at a time, against what is free."""
    peaks = [("memory", measured.steps.process_bytes, CPU)]
    if device.type == "cuda":
        peaks.append(("memory of the GPU", measured.steps.memory_bytes, device))
    for what, peak, where in peaks:
        needed, free = processes * peak, free_memory_bytes(where)
        text = f"{size(peak)} a run ({measured.job.name})"
        if processes > 1:
            text += f", {processes} at a time: {size(needed)}"
        if where.type == "cpu" and measured.job.recipe.runtime.cache:
            text += ", and the decoded images as they are kept"
        text += "; how much is free is not known here" if free is None else f"; free {size(free)}"
        findings.add("missing" if free is not None and needed > free else "ok", what, text)


def check_time(findings: Findings, jobs: Sequence[Job], folders: Folders, measured: Measured, processes: int) -> None:
    """How long a step took, and how long all that is left will take: other runs by the cost of their parts."""
    findings.add("ok", "time a step", f"{time_of_a_step(measured.steps.seconds_per_step)}, {measured.job.name}")
    validation, target = (_count(opened, measured.job, folders) for opened in (open_validation, open_target))
    image, of_cost_one = measured.steps.seconds_per_image, measured.steps.seconds_per_step / measured.job.cost
    training = sum(job.recipe.schedule.max_steps * of_cost_one * job.cost for job in jobs)
    tests = sum(-(-job.recipe.schedule.max_steps // job.recipe.schedule.evaluate_every) for job in jobs)
    scoring = tests * image * validation
    labeling = sum(bool(job.recipe.labeled_by) for job in jobs) * 2 * image * target
    together = duration((training + scoring + labeling) / min(processes, max(1, len(jobs))))
    parts = f"training {duration(training)}, scoring {duration(scoring)}, labeling {duration(labeling)}"
    beside = f", {processes} at a time without slowing each other" if processes > 1 else ""
    runs = f"{len(jobs)} run{'s' * (len(jobs) > 1)}"
    findings.add("ok", "time in all", f"{together} for {runs} ({parts}){beside}; each start adds a few seconds")


def size(count: int) -> str:
    """Bytes in GiB or MiB."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**29 else f"{count / 2**20:,.0f} MiB"


def duration(seconds: float) -> str:
    """Days, hours, minutes and seconds, such as 2:30:00."""
    return str(timedelta(seconds=round(seconds)))
