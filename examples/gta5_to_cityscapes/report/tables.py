"""Scores, costs, thresholds and curves of runs as pandas frames.

Frames of scores and costs have a row per seed; ``spread`` prints a column as mean ± sample standard deviation. Gains
are paired, seed by seed: a difference of means over different seeds would mix the effect with seed variance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..data import default_class_file
from ..recipes.paper_experiments import PAPER_GTA5, PAPER_SYNTHIA_13
from .results import LADDER, SOURCE, TARGET_ONLY, Experiment, Run, in_order, mapping, numeric, title

DASH = "–"
PUBLISHED = {"GTA5": PAPER_GTA5, "SYNTHIA-13": PAPER_SYNTHIA_13}
BUILT_IN = {default_class_file(layout) for layout in ("gta5", "synthia")}
ONE_SEED = "one seed: a difference of a point or two may be seed variance"
BINS = 60  # training losses are noisy: a point of a curve is the mean of what was logged in a sixtieth of the run
IN_ALL = ("steps in all", "minutes in all")  # with the runs that a run depends on, each counted once
COSTS = {  # digits that are printed
    "steps": 0, "minutes": 1, "steps in all": 0, "minutes in all": 1, "steps per second": 2, "ms per step": 1,
    "images per second": 1, "data wait, %": 1, "peak memory, GiB": 2,
}  # fmt: skip


def number_text(value: float, digits: int = 1, *, signed: bool = False) -> str:
    """A number as it is printed: a dash for NaN, no sign where it rounds to 0."""
    if math.isnan(value):
        return DASH
    rounded = round(float(value), digits) + 0.0  # makes -0.0 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{digits}f}".replace("-", "−")


def spread(values: Iterable[float], digits: int = 1, *, signed: bool = False) -> str:
    """Mean ± sample standard deviation of what is not NaN; one value has no deviation."""
    known = pd.Series(list(values), dtype=float).dropna()
    text = number_text(known.mean(), digits, signed=signed)
    return text if len(known) < 2 else f"{text} ± {known.std():.{digits}f}"


def cost_text(name: str, values: pd.Series) -> str:
    """Costs over seeds: step counts as they are, and short times not as 0."""
    if COSTS[name] == 0:
        return " or ".join(f"{int(count):,}" for count in sorted(values.dropna().unique())) or DASH
    return "<0.1" if name.startswith("minutes") and round(values.mean(), 1) == 0 else spread(values, COSTS[name])


@dataclass(frozen=True)
class ScoreTable:
    """Final scores of several rows, such as recipes, beside the published ones.

    Attributes:
        titles: Of each row, by its key.
        runs: Of each row, finished or not.
        scores: Final mIoU in percent, one row per seed, one column per key; NaN for an unfinished or missing run.
        over: The row that a gain is over, or None.
        published: mIoU in percent, NaN where none was printed.
        costs: Of the finished runs by key: one row per seed, one column of :data:`COSTS` each.
    """

    titles: dict[str, str]
    runs: dict[str, tuple[Run, ...]]
    scores: pd.DataFrame
    over: dict[str, str | None]
    published: pd.Series
    costs: dict[str, pd.DataFrame]

    @property
    def gains(self) -> pd.DataFrame:
        """Points of mIoU over the compared row, seed by seed."""
        return self.scores - self.scores.reindex(columns=list(self.over.values())).to_numpy()

    @property
    def one_seed(self) -> bool:
        """Whether no row has two seeds, so that nothing shows the seed variance."""
        return bool(self.scores.count().max() <= 1)

    @property
    def spread(self) -> str:
        """What the numbers are taken over."""
        return ONE_SEED if self.one_seed else "mean ± sample standard deviation over seeds"

    def frame(self, *, name_compared: bool = False) -> pd.DataFrame:
        """The table as it is printed; ``name_compared`` names what a gain is over unless it is the row above."""
        gains, counts, seeds = self.gains, self.scores.count(), len(self.scores)
        published_gains = self.published - self.published.reindex(list(self.over.values())).to_numpy()
        rows, above = [], None
        for key, name in self.titles.items():
            over = self.over[key]
            named = name_compared and over and over != above and gains[key].count()
            rows.append(
                {
                    "recipe": name,
                    "mIoU": spread(self.scores[key]) if counts[key] else "no finished run",
                    "gain": spread(gains[key], signed=True)
                    + (f" (over {self.titles[over]})" if over and named else ""),
                    "seeds": str(counts[key]) if counts[key] == seeds else f"{counts[key]} of {seeds}",
                    "mIoU, paper": number_text(self.published[key]),
                    "gain, paper": number_text(published_gains[key], signed=True),
                }
            )
            above = key
        frame = pd.DataFrame(rows)
        return frame if self.published.count() else frame.drop(columns=["mIoU, paper", "gain, paper"])

    def unfinished(self, *, begun: bool = False) -> pd.DataFrame:
        """What does not count in the table yet; with ``begun`` only of rows that have a run."""
        rows = []
        for key, name in self.titles.items():
            missing = self.scores.index[self.scores[key].isna()]
            runs = {run.seed: run for run in self.runs[key]}
            states = [f"seed {seed}: {progress(runs[seed])}" for seed in missing if seed in runs]
            if waiting := [str(seed) for seed in missing if seed not in runs]:
                states.append(f"seed{'s' * (len(waiting) > 1)} {', '.join(waiting)}: not begun")
            if states and (runs or not begun):
                rows.append((name, "; ".join(states)))
        return pd.DataFrame(rows, columns=["recipe", "not finished"])

    def cost_frame(self, names: Sequence[str]) -> pd.DataFrame:
        """Costs of the rows that have a finished run, as they are printed."""
        done = [key for key, costs in self.costs.items() if len(costs)]
        texts = {name: [cost_text(name, self.costs[key][name]) for key in done] for name in names}
        return pd.DataFrame(
            {"recipe": [self.titles[key] for key in done], **texts, "runs": [len(self.costs[key]) for key in done]}
        )


def score_table(
    rows: Mapping[str, tuple[str, Experiment, str]],
    seeds: Sequence[int],
    over: dict[str, str | None],
    published: Mapping[str, float | None],
) -> ScoreTable:
    """The table of rows that are given as title, experiment and recipe."""
    runs = {key: experiment.of(recipe) for key, (_, experiment, recipe) in rows.items()}
    return ScoreTable(
        {key: name for key, (name, _, _) in rows.items()},
        runs,
        pd.DataFrame({k: {r.seed: r.miou for r in each} for k, each in runs.items()}, list(seeds), list(rows), float),
        over,
        pd.Series({key: published.get(key) for key in rows}, dtype=float),
        {key: run_costs(rows[key][1], [run for run in each if run.finished]) for key, each in runs.items()},
    )


def run_costs(experiment: Experiment, runs: Sequence[Run]) -> pd.DataFrame:
    """What finished runs took, one row per seed; NaN where it is not known."""
    rows = {}
    for run in runs:
        seconds, whole = run.number("seconds_total"), experiment.whole(run)
        rows[run.seed] = (
            run.number("step"),
            seconds / 60,
            sum(each.last_step for each in whole) if whole else math.nan,
            sum(each.number("seconds_total") for each in whole) / 60 if whole else math.nan,
            run.last_step / seconds if run.last_step and seconds else math.nan,
            1e3 * run.number("seconds_per_step"),
            run.number("images_per_second"),
            100 * run.number("data_share"),
            run.number("peak_memory_bytes") / 2**30,
        )
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(COSTS), dtype=float)


def ablation(experiment: Experiment) -> ScoreTable:
    """Every recipe there is, and every rung of the ladder, run or not, unless other recipes were run beside it.

    A gain on the ladder is over the nearest rung above that has a result, elsewhere over source only.
    """
    rungs = () if set(experiment.recipes).difference(LADDER) else LADDER
    rows = {key: (title(key), experiment, key) for key in in_order({*rungs, *experiment.recipes})}
    over: dict[str, str | None] = {}
    for key in rows:
        above = [name for name in (LADDER[: LADDER.index(key)] if key in LADDER else (SOURCE,)) if name in rows]
        done = [name for name in above if name in experiment.finished_recipes]
        over[key] = ([None, *above[-1:], *done[-1:]])[-1]
    return score_table(rows, experiment.seeds, over, PUBLISHED.get(published_source(experiment), {}))


def published_source(experiment: Experiment) -> str:
    """The source of the paper's table that this experiment is set beside; empty for classes of one's own."""
    if any(mapping(run.settings, "space").get("name", "cityscapes") not in BUILT_IN for run in experiment.runs):
        return ""
    return "SYNTHIA-13" if any("synthia" in str(run.settings.get("layouts")) for run in experiment.runs) else "GTA5"


def adapted_recipes(experiment: Experiment) -> list[str]:
    """The furthest finished rung that adapts and the furthest recipe beside the ladder; by place, never by score."""
    finished = [name for name in experiment.finished_recipes if name not in (SOURCE, TARGET_ONLY)]
    rungs = [name for name in finished if name in LADDER]
    return [*rungs[-1:], *[name for name in finished if name not in LADDER][-1:]]


def class_scores(experiment: Experiment) -> dict[str, pd.DataFrame]:
    """IoU in percent by finished recipe: one row per seed, one column per scored class; NaN where it never occurs."""
    return {
        recipe: 100 * by_class(experiment.of(recipe, finished=True), "result", "iou", experiment.scored_classes)
        for recipe in experiment.finished_recipes
    }


def thresholds(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Class thresholds, and in percent the shares kept and predicted: one row per seed, one column per class."""
    classes = tuple(mapping(runs[0].thresholds, "thresholds"))
    pixels = by_class(runs, "thresholds", "predicted_pixels", classes).fillna(0)
    return {
        "threshold": by_class(runs, "thresholds", "thresholds", classes),
        "kept": 100 * by_class(runs, "thresholds", "kept", classes),
        "predicted": 100 * pixels.div(pixels.sum(axis=1).replace(0, math.nan), axis=0),
    }


def by_class(runs: Sequence[Run], file: str, key: str, classes: Sequence[str]) -> pd.DataFrame:
    """Numbers that a file of each run holds by class."""
    found = {run.seed: mapping(getattr(run, file), key) for run in runs}
    rows = [[numeric(each.get(name)) for name in classes] for each in found.values()]
    return pd.DataFrame(rows, index=list(found), columns=list(classes), dtype=float)


def progress(run: Run) -> str:
    """How far an unfinished run is."""
    goal, scored = run.setting("schedule", "max_steps"), run.evaluations["miou"].dropna()
    text = f"step {run.last_step:,}" + (f" of {goal:,}" if isinstance(goal, int) else "")
    if len(scored):
        text += f", last evaluation {100 * scored.iloc[-1]:.1f} mIoU at step {scored.index[-1]:,}"
    return text


def score_curve(runs: Sequence[Run], score: str) -> pd.DataFrame:
    """A score of the evaluations, one row per step, one column per seed; a mean of networks has no steps."""
    curve = pd.DataFrame({run.seed: run.evaluations[score] for run in runs}, dtype=float).sort_index()
    return curve[curve.index > 0].dropna(how="all")


def loss_curve(runs: Sequence[Run], loss: str, furthest: int) -> pd.DataFrame:
    """A loss in bins of steps, one row per bin, one column per seed. A loss that is always 0 was not in use."""
    width, columns = max(1, -(-furthest // BINS)), {}
    for run in runs:
        logged = run.training.get(f"loss/{loss}", pd.Series(dtype=float)).dropna()
        last_whole = max(0, (run.last_step + 1) // width - 1)  # a last bin that is cut short joins the one before it
        if logged.any():
            columns[run.seed] = logged.groupby(np.minimum(logged.index // width, last_whole) * width).mean()
    return pd.DataFrame(columns, dtype=float).sort_index()
