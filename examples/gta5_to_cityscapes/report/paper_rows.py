"""An experiment of the paper row by row: what came out here beside what was published.

Gains are paired, as in the ablation table: the seeds that both rows have, subtracted seed by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..recipes import PaperExperiment, Variant
from ..records.experiment_record import ExperimentRecord
from .ablation_table import Spread, minutes_in_all, steps_in_all
from .recipe_names import sum_of_parts, title
from .results import Experiment, Run, read_experiment


@dataclass(frozen=True)
class PaperRow:
    """One row; scores, gains and the paper's numbers in percent.

    Attributes:
        label: As the table names it.
        variant: What it is.
        runs: Those there are, finished or not, by seed.
        missing: Seeds without a result.
        gain: Over the row that it is compared with, from the seeds that both have.
        paper_gain: The same of the published numbers.
        steps: With those of all runs that it stands on, as are the minutes.
    """

    label: str
    variant: Variant
    runs: tuple[Run, ...]
    missing: tuple[int, ...]
    gain: Spread | None
    paper_gain: float | None
    steps: str
    minutes: Spread | None

    @property
    def scores(self) -> dict[int, float]:
        """Final mIoU by seed."""
        return final_scores(self.runs)

    @property
    def miou(self) -> Spread | None:
        """Over the seeds."""
        return Spread.over(list(self.scores.values()))

    @property
    def memory(self) -> Spread | None:
        """Peak of its own runs in GiB."""
        peaks = [run.cost.peak_memory_bytes for run in self.runs if run.finished and run.cost.peak_memory_bytes]
        return Spread.over([peak / 2**30 for peak in peaks])

    @property
    def seed_text(self) -> str:
        """How many seeds there are, and how many there should be."""
        count = len(self.scores)
        return f"{count} of {count + len(self.missing)}" if self.missing else str(count)


def final_scores(runs: Sequence[Run]) -> dict[int, float]:
    """mIoU in percent at the last checkpoint, by seed."""
    return {run.seed: 100 * run.result.miou for run in runs if run.result and run.result.miou is not None}


def read_rows(record: ExperimentRecord, folder: Path) -> tuple[PaperRow, ...]:
    """Every row of the experiment in ``folder``, run or not."""
    variants = record.variants
    experiments = {name: _experiment(folder / name) for name in {variant.folder for variant in variants}}
    runs = [_runs(experiments[variant.folder], variant.recipe) for variant in variants]
    rows = []
    for place, variant in enumerate(variants):
        other = _compared_with(record.paper, variants, place)
        experiment = experiments[variant.folder]
        scores = final_scores(runs[place])
        before = {} if other is None else final_scores(runs[other])
        published = None if other is None else variants[other].published
        rows.append(
            PaperRow(
                _label(record.paper, variant),
                variant,
                runs[place],
                tuple(seed for seed in record.seeds if seed not in scores),
                Spread.over([score - before[seed] for seed, score in scores.items() if seed in before]),
                None if published is None or variant.published is None else variant.published - published,
                steps_in_all(experiment, variant.recipe) if experiment else "–",
                minutes_in_all(experiment, variant.recipe) if experiment else None,
            )
        )
    return tuple(rows)


def _label(paper: PaperExperiment, variant: Variant) -> str:
    if variant.value is not None:
        return f"{variant.value:g}"
    return sum_of_parts(variant.recipe) if paper.curve else title(variant.recipe)


def _experiment(folder: Path) -> Experiment | None:
    try:
        return read_experiment(folder)
    except FileNotFoundError:  # none of its runs has begun
        return None


def _runs(experiment: Experiment | None, recipe: str) -> tuple[Run, ...]:
    return experiment.of(recipe) if experiment else ()


def _compared_with(paper: PaperExperiment, variants: Sequence[Variant], place: int) -> int | None:
    """The row that a gain is over: a sweep's default, a curve's first, else the one above."""
    if paper.sweep:
        other = next(k for k, variant in enumerate(variants) if variant.default)
    else:
        other = 0 if paper.curve else place - 1
    return None if other == place or other < 0 else other


def gain_is_over(paper: PaperExperiment) -> str:
    """In words."""
    if paper.sweep:
        return f"the paper's choice, its {paper.sweep.symbol} = {paper.sweep.default:g}"
    return sum_of_parts(next(iter(paper.published))) if paper.curve else "the row above"
