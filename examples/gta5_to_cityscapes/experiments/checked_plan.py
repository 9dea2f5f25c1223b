"""Walk a whole plan before anything of it is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..batches.training_data import Folders
from ..records.experiment_record import ExperimentRecord
from .checked_data import check_data, check_restyling, check_weights
from .checked_runs import check_disk, check_folders, check_memory, check_time, left_of, measure
from .findings import Finding
from .jobs import Job


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
    findings = [*check_data(recipes, folders), *check_restyling(recipes, folders), *check_weights(recipes)]
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
