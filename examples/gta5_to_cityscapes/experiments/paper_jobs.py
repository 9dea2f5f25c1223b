"""The runs of an experiment of the paper: those of each row, seed by seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..records.experiment_record import ExperimentRecord
from .jobs import Job, plan


def plan_paper_experiment(record: ExperimentRecord, out: Path) -> list[Job]:
    """Every row with every seed, and what they stand on: all rows of a seed before the next seed.

    So an experiment that is looked at early compares whole rows. Rows that share their settings share a folder, and
    the runs that several of them stand on.

    Args:
        record: What is asked for.
        out: The experiment's folder; runs go to ``out/<recipe>/seed<k>/``, or ``out/<variant>/<recipe>/seed<k>/`` where
            the experiment varies a setting.
    """
    paper = record.paper
    settings = paper.settings(record.size, record.settings)
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for variant in record.variants:
        groups.setdefault((variant.folder, variant.overrides), []).append(variant.recipe)
    return [
        replace(job, variant=folder)
        for seed in record.seeds
        for (folder, own), recipes in groups.items()
        for job in plan(
            recipes,
            [seed],
            record.size,
            out / folder,
            layouts=paper.layouts,
            classes=paper.classes,
            overrides=[*settings, *own],
        )
    ]
