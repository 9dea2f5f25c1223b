"""What the runs cost, and on what they ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .ablation_table import Spread, minutes_in_all, minutes_text, spread_text, steps_in_all
from .recipe_names import title
from .results import STEP_MEANS, Experiment, Run


@dataclass(frozen=True)
class CostRow:
    """Means over the finished runs of a recipe; ``in_all`` with the runs that it stands on."""

    title: str
    iterations: str
    minutes: str
    rate: str
    step_milliseconds: str
    image_rate: str
    data_percent: str
    matching_percent: str
    memory: str
    runs: int
    iterations_in_all: str
    minutes_in_all: str


@dataclass(frozen=True)
class StatusRow:
    """One recipe and seed: finished, under way, or not there."""

    title: str
    seed: int
    state: str
    detail: str


def build_cost_rows(experiment: Experiment) -> tuple[CostRow, ...]:
    """One row per recipe with a finished run."""
    rows = []
    for recipe in experiment.finished_recipes:
        runs = experiment.of(recipe, finished=True)
        timed = [(run.last_step, run.cost.seconds) for run in runs if run.cost.seconds]
        means = {name: [value for run in runs if (value := getattr(run.cost, name)) is not None] for name in STEP_MEANS}
        steps = sorted({run.result.step for run in runs if run.result})
        rows.append(
            CostRow(
                title(recipe),
                " or ".join(f"{step:,}" for step in steps),
                minutes_text(Spread.over([seconds / 60 for _, seconds in timed])),
                _text([step / seconds for step, seconds in timed if step], 2),
                _text([1e3 * seconds for seconds in means["seconds_per_step"]], 1),
                _text(means["images_per_second"], 1),
                _text([100 * share for share in means["data_share"]], 1),
                _text([100 * share for share in means["matching_share"]], 1),
                _text([r.cost.peak_memory_bytes / 2**30 for r in runs if r.cost.peak_memory_bytes], 2),
                len(runs),
                steps_in_all(experiment, recipe),
                minutes_text(minutes_in_all(experiment, recipe)),
            )
        )
    return tuple(rows)


def _text(values: list[float], digits: int) -> str:
    return spread_text(Spread.over(values), digits)


def build_status_rows(experiment: Experiment) -> tuple[StatusRow, ...]:
    """Only what does not count in the tables: unfinished and missing runs."""
    rows = []
    for recipe in experiment.recipes:
        runs = {run.seed: run for run in experiment.of(recipe)}
        for seed in experiment.seeds:
            if seed not in runs:
                rows.append(StatusRow(title(recipe), seed, "missing", "other recipes have this seed"))
            elif not runs[seed].finished:
                rows.append(StatusRow(title(recipe), seed, "unfinished", _progress(runs[seed])))
    return tuple(rows)


def _progress(run: Run) -> str:
    goal = run.settings.get("schedule", {}).get("steps")
    text = f"step {run.last_step:,}" + (f" of {goal:,}" if isinstance(goal, int) else "")
    scored = [e for e in run.evaluations if e.miou is not None]
    if scored:
        text += f"; last evaluation {100 * (scored[-1].miou or 0):.1f} mIoU at step {scored[-1].step:,}"
    return text


def environment_rows(runs: Sequence[Run]) -> tuple[tuple[str, str], ...]:
    """The environment of the first run that recorded one, nested objects flattened."""
    for run in runs:
        if run.environment:
            return tuple(_flat(run.environment))
    return ()


def _flat(content: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key} ")
        else:
            rows.append((f"{prefix}{key}".replace("_", " "), "–" if value is None else str(value)))
    return rows
