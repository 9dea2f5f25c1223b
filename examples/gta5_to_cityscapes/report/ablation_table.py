"""The ablation table: what each part adds, over seeds, beside the published one.

Gains are paired: the seeds that both rows have, subtracted seed by seed. A difference of two means
taken over different seeds would mix the effect with the luck of the seed that is missing.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..recipes.paper_experiments import PAPER_GTA5, PAPER_SYNTHIA_13
from .recipe_names import LADDER, SOURCE, TARGET_ONLY, in_order, is_extra, title
from .results import Experiment

ONE_SEED = "one seed: differences of a point or two may be luck"


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; no deviation from a single seed."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def over(cls, values: Sequence[float]) -> Spread | None:
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))

    def text(self, *, signed: bool = False, digits: int = 1) -> str:
        mean = signed_number(self.mean, digits) if signed else _number(self.mean, digits)
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.{digits}f}"


def signed_number(value: float, digits: int = 1) -> str:
    """A gain as it is printed; what rounds to nothing has no sign."""
    text = _number(value, digits)
    return f"+{text}" if round(value, digits) > 0 else text


def _number(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0 makes −0.0 0.0


@dataclass(frozen=True)
class AblationRow:
    """One recipe; scores in percent, steps and minutes with those of all runs that it stands on."""

    recipe: str
    title: str
    miou: Spread | None
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    gain: Spread | None
    gain_over: str | None
    paper: float | None
    paper_gain: float | None
    stands_on: tuple[str, ...] = ()
    steps: str = "–"
    minutes: Spread | None = None

    @property
    def seed_text(self) -> str:
        if not self.missing:
            return str(len(self.seeds))
        return f"{len(self.seeds)} of {len(self.seeds) + len(self.missing)}"


@dataclass(frozen=True)
class AblationTable:
    """Rows in ladder order, the paper's column they are shown beside, and what the mean is over."""

    rows: tuple[AblationRow, ...]
    paper_name: str
    classes: tuple[str, ...]
    absent: tuple[str, ...]

    @property
    def scope(self) -> str:
        """Which classes are scored, and which of them never occur."""
        if not self.classes:
            return "The scored classes are not recorded."
        text = f"Scored: {len(self.classes)} classes ({', '.join(self.classes)})."
        if self.absent:
            left = len(self.classes) - len(self.absent)
            text += f" The mean is over the {left} that occur; these never do: {', '.join(self.absent)}."
        return text

    @property
    def one_seed(self) -> bool:
        """Whether no row has two seeds, so that nothing here says how large luck is."""
        counts = [len(row.seeds) for row in self.rows]
        return max(counts, default=0) == 1

    @property
    def spread(self) -> str:
        """What the numbers are taken over."""
        return ONE_SEED if self.one_seed else "mean ± sample standard deviation over seeds"

    def row(self, recipe: str) -> AblationRow | None:
        return next((row for row in self.rows if row.recipe == recipe), None)


def build_ablation_table(experiment: Experiment) -> AblationTable:
    """Every rung of the ladder gets a row, run or not: a gap should be seen.

    Where other systems were run there may be no ladder, so a rung that is not there has no row.
    """
    synthia = any("synthia" in str(run.settings.get("layouts", "")).lower() for run in experiment.runs)
    paper = PAPER_SYNTHIA_13 if synthia else PAPER_GTA5
    rungs = () if any(map(is_extra, experiment.recipes)) else LADDER
    scores = {name: _percent_by_seed(experiment, name) for name in in_order({*rungs, *experiment.recipes})}
    rows = tuple(_row(name, scores, experiment, paper) for name in scores)
    name = "SYNTHIA-13 → Cityscapes" if synthia else "GTA5 → Cityscapes"
    return AblationTable(rows, name, experiment.scored_classes, _absent(experiment))


def _absent(experiment: Experiment) -> tuple[str, ...]:
    """Scored classes without a score in any finished run: they count in no mean."""
    results = [run.result for run in experiment.runs if run.finished and run.result and run.result.iou]
    names = experiment.scored_classes if results else ()
    return tuple(name for name in names if all(result.iou.get(name) is None for result in results))


def _percent_by_seed(experiment: Experiment, recipe: str) -> dict[int, float]:
    runs = experiment.of(recipe, finished=True)
    return {run.seed: 100 * run.result.miou for run in runs if run.result and run.result.miou is not None}


def _row(
    recipe: str, scores: dict[str, dict[int, float]], experiment: Experiment, paper: dict[str, float]
) -> AblationRow:
    mine = scores[recipe]
    above = _row_above(recipe, scores)
    shared = [mine[seed] - scores[above][seed] for seed in mine if seed in scores[above]] if above else []
    rung = LADDER.index(recipe) if recipe in LADDER else 0
    return AblationRow(
        recipe=recipe,
        title=title(recipe),
        miou=Spread.over(list(mine.values())),
        seeds=tuple(sorted(mine)),
        missing=tuple(seed for seed in experiment.seeds if seed not in mine),
        gain=Spread.over(shared),
        gain_over=above if shared else None,
        paper=paper.get(recipe),
        paper_gain=paper[recipe] - paper[LADDER[rung - 1]] if rung else None,
        stands_on=next((run.stands_on for run in experiment.of(recipe)), ()),
        steps=steps_in_all(experiment, recipe),
        minutes=minutes_in_all(experiment, recipe),
    )


def steps_in_all(experiment: Experiment, recipe: str) -> str:
    """Steps of a recipe's runs and of all that they stand on."""
    runs = [whole for run in experiment.of(recipe, finished=True) if (whole := experiment.whole(run))]
    counts = sorted({sum(run.last_step for run in whole) for whole in runs})
    return " or ".join(f"{count:,}" for count in counts) or "–"


def minutes_in_all(experiment: Experiment, recipe: str) -> Spread | None:
    """Minutes of the same; nothing where one of them did not tell."""
    times = []
    for run in experiment.of(recipe, finished=True):
        seconds = [each.cost.seconds for each in experiment.whole(run) or ()]
        known = [value for value in seconds if value is not None]
        if seconds and len(known) == len(seconds):
            times.append(sum(known) / 60)
    return Spread.over(times)


def spread_text(spread: Spread | None, digits: int = 1) -> str:
    """A dash where there is none."""
    return spread.text(digits=digits) if spread else "–"


def minutes_text(minutes: Spread | None) -> str:
    """Minutes as they are printed; what would be 0.0 was short, not nothing."""
    return "<0.1" if minutes and round(minutes.mean, 1) == 0 else spread_text(minutes)


def _row_above(recipe: str, scores: dict[str, dict[int, float]]) -> str | None:
    """The nearest rung above that has a result; recipes beside the ladder compare with source only."""
    if is_extra(recipe):
        return SOURCE if scores.get(SOURCE) else None
    above = LADDER[: LADDER.index(recipe)]
    return next((name for name in reversed(above) if scores.get(name)), None)


def is_next_rung(row: AblationRow) -> bool:
    """True where the gain is over the row printed directly above, as a reader assumes."""
    if row.gain_over is None or is_extra(row.recipe):
        return row.gain_over is None
    return LADDER.index(row.gain_over) == LADDER.index(row.recipe) - 1


def adapted_recipe(experiment: Experiment) -> str | None:
    """The furthest finished rung that adapts; chosen by its place, never by its score."""
    finished = experiment.finished_recipes
    rungs = [name for name in LADDER if name in finished and name not in (SOURCE, TARGET_ONLY)]
    extras = [name for name in finished if is_extra(name)]
    furthest = rungs or extras
    return furthest[-1] if furthest else None


@dataclass(frozen=True)
class ClassRow:
    """One class, one cell per finished recipe, in percent."""

    name: str
    cells: tuple[Spread | None, ...]


def per_class_rows(experiment: Experiment) -> tuple[ClassRow, ...]:
    """IoU over seeds for every scored class; ``None`` where the class never occurred."""
    rows = []
    for name in experiment.scored_classes:
        cells = []
        for recipe in experiment.finished_recipes:
            values = [run.result.iou.get(name) for run in experiment.of(recipe, finished=True) if run.result]
            cells.append(Spread.over([100 * value for value in values if value is not None]))
        rows.append(ClassRow(name, tuple(cells)))
    return tuple(rows)
