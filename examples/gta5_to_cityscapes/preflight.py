"""What a look at an experiment before it runs has found."""

from __future__ import annotations

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
    PUBLISHED_PICTURES,
    DatasetError,
    Layout,
    SegmentationDataset,
    describe,
    mismatched_pairs,
    require_labels,
    unreadable_files,
)
from .data.style_transfer import TransferredImages, transferred_folder
from .data.training_data import Folders, open_labeled, open_target, open_validation
from .experiments.experiment import Job, refuse_another_run
from .experiments.runner import threads_of_a_run
from .methods.matching import MatchingConfig
from .methods.pseudo_labels import PseudoLabelConfig
from .methods.style_transfer import StyleTransferConfig
from .metrics_log import time_of_a_step
from .models import WeightsError
from .recipes import Recipe
from .run_dir import ExperimentRecord, RunFolderError, free_memory_bytes
from .training.recipe_network import start_network
from .training.timed_steps import TimedSteps, time_steps_apart

Found = TypeVar("Found")
REFUSALS = (CheckpointError, DamagedFileError, DatasetError, OSError, RunFolderError, WeightsError)


class Finding(NamedTuple):
    """One line: ``ok``, a ``note`` that is in nobody's way, or ``missing``, without which the experiment cannot run."""

    kind: Literal["ok", "note", "missing"]
    what: str
    told: str


def attempted(what: str, call: Callable[[], Found], findings: list[Finding]) -> Found | None:
    """What ``call`` returns; where it refuses, its reason is a finding, and None comes back."""
    try:
        return call()
    except REFUSALS as error:
        findings.append(Finding("missing", what, str(error)))
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
    tell: Callable[[str], None],
) -> list[Finding]:
    """Everything that could end the experiment in its middle, and how long it will take. Writes nothing.

    Args:
        jobs: The plan.
        folders: The data.
        record: What is asked for.
        out: The experiment's folder.
        device: Where it will run.
        steps: How many to time; 0 times none, and then says nothing of time and memory.
        processes: Runs at a time.
        tell: Called with the name of a run whose steps are about to be timed.
    """
    recipes = [job.recipe for job in jobs]
    findings = [*check_data(recipes, folders), *check_style_transfer(recipes, folders), *check_weights(recipes)]
    findings += check_folders(jobs, folders, record, out)
    left = left_of(jobs)
    measured = None
    if left and steps:
        if any(finding.kind == "missing" for finding in findings):
            findings.append(Finding("note", "timed steps", "none, as long as something is missing"))
        else:
            measured = measure(left, folders, device, steps, processes, findings, tell)
    findings.append(check_disk(left, folders, out, measured))
    if measured is not None:
        findings += check_memory(measured, device, min(processes, len(left)))
        findings += check_time(left, folders, measured, processes)
    return findings


def check_data(recipes: Sequence[Recipe], folders: Folders, sample: int = 20) -> list[Finding]:
    """Every set that a recipe reads: folders, counts, all headers, pairs of unequal size, ``sample`` of them whole."""
    findings: list[Finding] = []
    for what, (opened, layout, split) in _sets(recipes, folders).items():
        dataset = attempted(what, opened, findings)
        if dataset is None:
            continue
        findings.append(_count(what, len(dataset), PUBLISHED_PICTURES.get((layout, split))))
        attempted(what, partial(_look_into, what, dataset, sample, findings), findings)
    return findings


def _sets(
    recipes: Sequence[Recipe], folders: Folders
) -> dict[str, tuple[Callable[[], SegmentationDataset], Layout, str]]:
    """How to open each set, its layout and its split, by what it is for."""
    sets: dict[str, tuple[Callable[[], SegmentationDataset], Layout, str]] = {}
    for recipe in recipes:
        layouts = recipe.layouts
        if recipe.labeled == "source":
            sets.setdefault("source", (partial(open_labeled, recipe, folders), layouts.source, "train"))
        else:
            labeled = partial(open_labeled, recipe, folders)
            sets.setdefault("target, training labels", (labeled, layouts.target, "train"))
        if recipe.needs_target:
            sets.setdefault("target, training", (partial(open_target, recipe, folders), layouts.target, "train"))
        sets.setdefault("target, validation", (partial(open_validation, recipe, folders), layouts.target, "val"))
    return sets


def _count(what: str, images: int, published: int | None) -> Finding:
    if published is None or images == published:
        return Finding("ok", what, f"{images:,} images")
    return Finding("note", what, f"{images:,} images, {published:,} were published")


def _look_into(what: str, dataset: SegmentationDataset, sample: int, findings: list[Finding]) -> None:
    labeled = dataset.files[0].labels is not None
    unreadable = unreadable_files(dataset)
    dataset.leave_out([each.name for each in unreadable])
    misfits = mismatched_pairs(dataset)
    if misfits:
        more = f" and {len(misfits) - 5} more" if len(misfits) > 5 else ""
        text = f"image and label map differ in size: {', '.join(misfits[:5])}{more}; replace one file of each pair"
        findings.append(Finding("missing", what, text))
        dataset.leave_out(misfits)
    found = describe(dataset, sample) if len(dataset) else None
    unreadable += found.unreadable if found else []
    if unreadable:
        files = "1 file" if len(unreadable) == 1 else f"{len(unreadable)} files"
        text = f"{files} cannot be read, the first: {unreadable[0].reason}"
        findings.append(Finding("missing", what, text))
    if not labeled or found is None or not found.sampled:
        return
    if found.unknown_ids:
        first, file = next(iter(found.unknown_in.items()))
        text = f"ids that the layout does not define, ignored (id: pixels): {found.unknown_ids}; {first} in {file}"
        findings.append(Finding("note", f"{what}, labels", text))
    refused = len(findings)
    attempted(f"{what}, labels", partial(require_labels, what, dataset), findings)
    if len(findings) > refused:
        return
    absent = [name for name, pixels in found.pixels.items() if not pixels]
    seen = f"{len(found.pixels) - len(absent)} of {len(found.pixels)} classes in {found.sampled} images"
    if absent:
        findings.append(Finding("note", f"{what}, labels", f"{seen}; not seen: {', '.join(absent)}"))
    else:
        findings.append(Finding("ok", f"{what}, labels", seen))


def check_style_transfer(recipes: Sequence[Recipe], folders: Folders) -> list[Finding]:
    """The folder of style-transferred source images, where recipes use style transfer."""
    transferring = [recipe for recipe in recipes if recipe.config(StyleTransferConfig)]
    if not transferring:
        return []
    recipe, what = transferring[0], "style-transferred images"
    transfer = recipe.config(StyleTransferConfig)
    assert transfer is not None
    if transfer.in_step:
        text = f"{transfer.method}, within a step; the paper's were translated by a CycleGAN (--style-transfer FOLDER)"
        return [Finding("note", what, text)]
    findings: list[Finding] = []
    folder = attempted(what, partial(transferred_folder, transfer), findings)
    if folder is None:
        return findings
    source = attempted(what, partial(open_labeled, recipe, folders), [])  # a source that is not there is told above
    if source is None:
        return [Finding("note", what, f"{folder}: not compared, since the source cannot be opened")]
    if attempted(what, partial(TransferredImages, source, folder), findings) is not None:
        findings.append(Finding("ok", what, f"one for each of {len(source):,}"))
    return findings


def check_weights(recipes: Sequence[Recipe]) -> list[Finding]:
    """The start weights of each network that the recipes have: are they there, and do they fit?"""
    findings: list[Finding] = []
    for recipe in {recipe.network.model_dump_json(): recipe for recipe in recipes}.values():
        what = "start weights"
        if recipe.network.weights is None:
            findings.append(
                Finding("note", what, "random; the paper began with ImageNet's (--set network.weights=FILE)")
            )
        elif (network := attempted(what, partial(start_network, recipe, torch.device("cpu")), findings)) is not None:
            text = f"{network.weights_report}; pixels are normalized in the style of {network.style}"
            findings.append(Finding("ok", what, text))
    return findings


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

    A second stage on pseudo-labels takes about as long as the first and needs labels that are not there yet: it is not
    timed itself.
    """
    timed = sorted((job for job in jobs if not job.recipe.labeled_by), key=_cost)
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
            text = f"{job.name}: no memory for a step ({error or type(error).__name__}); lower data.batch or sizes"
            findings.append(Finding("missing", "memory", text))
            return None
        except Exception as error:  # whatever ends a step here would end the run
            findings.append(Finding("missing", "timed steps", f"{job.name}: {type(error).__name__}: {error}"))
            return None
    return Measured(found[0], costliest, found[-1], cheapest if len(found) > 1 else costliest)


def _cost(job: Job) -> tuple[float, int]:
    matching = job.recipe.config(MatchingConfig)
    return job.cost, matching.capacity if matching else 0


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
    if device.type == "cpu" and measured.costliest.recipe.runtime.cache:
        told += ", and the decoded images as they are kept"
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
    checkpoints = sum(measured.most.checkpoint_bytes * (job.recipe.runtime.save_total_limit + 1) for job in jobs)
    needed = checkpoints + labels + logs
    parts = f"checkpoints {size(checkpoints)}, pseudo-labels {size(labels)}, logs {size(logs)}"
    return Finding(
        "ok" if needed <= free else "missing", "disk", f"at most {size(needed)} ({parts}); free {size(free)}"
    )


def _label_bytes(job: Job, folders: Folders) -> int:
    if job.recipe.config(PseudoLabelConfig) is None:
        return 0
    height, width = job.recipe.data.target_size
    target = attempted(job.name, partial(open_target, job.recipe, folders), [])
    return height * width * (len(target) if target else 0)


def _log_bytes(job: Job) -> int:
    schedule, evaluation = job.recipe.schedule, job.recipe.evaluation
    height, width = job.recipe.data.target_size
    lines = schedule.max_steps // schedule.log_every + 3 * schedule.max_steps // schedule.evaluate_every
    return LINE_BYTES * lines + evaluation.previews * 5 * height * width  # three channels and two label maps


def check_time(jobs: Sequence[Job], folders: Folders, measured: Measured, processes: int) -> list[Finding]:
    """How long a step took, and how long all that is left will take."""
    findings = [
        Finding("ok", "time a step", f"{time_of_a_step(timed.seconds_a_step)}, {job.name}")
        for job, timed in _measured_runs(measured)
    ]
    validation = attempted("", partial(open_validation, measured.costliest.recipe, folders), [])
    target = attempted("", partial(open_target, measured.costliest.recipe, folders), [])
    image = measured.most.seconds_a_image
    training = sum(job.recipe.schedule.max_steps * measured.seconds_a_step(job) for job in jobs)
    tests = sum(-(-job.recipe.schedule.max_steps // job.recipe.schedule.evaluate_every) for job in jobs)
    scoring = tests * image * (len(validation) if validation else 0)
    labeling = sum(bool(job.recipe.labeled_by) for job in jobs) * 2 * image * (len(target) if target else 0)
    together = (training + scoring + labeling) / min(processes, max(1, len(jobs)))
    parts = f"training {duration(training)}, scoring {duration(scoring)}, labeling {duration(labeling)}"
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
