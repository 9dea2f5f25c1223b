"""What the pseudo-labels kept: one bar per class for the share kept, a tick for its threshold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from matplotlib.figure import Figure

import stuffinstance as si
from stuffinstance import drawing

from .ablation_table import Spread
from .drawn_figure import Drawn, Theme, draw
from .recipe_names import title
from .results import Experiment, Run


@dataclass(frozen=True)
class ThresholdRow:
    """One class over the seeds that wrote thresholds; shares in percent."""

    name: str
    threshold: Spread | None
    kept: Spread | None
    predicted_share: Spread | None


@dataclass(frozen=True)
class ThresholdTable:
    """Of one recipe: rows in the order of the class list, and the share kept of all pixels."""

    recipe: str
    name: str  # of its chart
    rows: tuple[ThresholdRow, ...]
    kept_total: Spread | None
    seeds: tuple[int, ...]
    rule: str
    quantile: float
    cap: float

    @property
    def kept_where(self) -> str:
        """What the rule asks of a pixel, in a sentence."""
        share = "median" if self.quantile == 0.5 else f"{self.quantile:g} quantile"
        over = f"of that class over the whole target set, at most {self.cap:g}"
        return {
            "argmax": "Every pixel is kept, with the class predicted there.",
            "portion": "A pixel gets the class whose probability is the largest multiple of that class's threshold, "
            "and is kept where it reaches the threshold; so a class can gain pixels from others. The thresholds "
            "leave the most confident portion of each class.",
            "adaptive": "A pixel is kept where its confidence reaches the threshold of the class predicted there, as "
            "that stood when its batch was labelled; shown are the last ones.",
            "symmetric": "A pixel is kept where the mean of two networks' confidence and their agreement reaches the "
            f"threshold of the class predicted there: the {share} {over}.",
        }.get(
            self.rule,
            "A pixel is kept where its confidence reaches the threshold of the class predicted there: "
            f"the {share} confidence {over}.",
        )

    @property
    def capped(self) -> bool:
        """Whether the cap has a say."""
        return self.rule in ("median", "symmetric")


def build_threshold_tables(experiment: Experiment) -> tuple[ThresholdTable, ...]:
    """The thresholds of each recipe that made pseudo-labels, joined over its seeds."""
    made = {
        recipe: [run for run in experiment.of(recipe) if run.thresholds and run.thresholds.thresholds]
        for recipe in experiment.recipes
    }
    made = {recipe: runs for recipe, runs in made.items() if runs}
    return tuple(
        _table(recipe, "thresholds" if len(made) == 1 else f"thresholds_{recipe}", runs)
        for recipe, runs in made.items()
    )


def _table(recipe: str, name: str, runs: list[Run]) -> ThresholdTable:
    found = [run.thresholds for run in runs if run.thresholds]
    rows = []
    for label in found[0].thresholds:
        pixels = [one.predicted_pixels for one in found if any(one.predicted_pixels.values())]
        shares = [100 * p.get(label, 0) / sum(p.values()) for p in pixels]
        rows.append(
            ThresholdRow(
                label,
                Spread.over([one.thresholds[label] for one in found if label in one.thresholds]),
                Spread.over([100 * one.kept[label] for one in found if label in one.kept]),
                Spread.over(shares),
            )
        )
    total = Spread.over([100 * one.kept_total for one in found if one.kept_total is not None])
    rule = runs[0].settings.get("pseudo_labels") or {}
    return ThresholdTable(
        recipe,
        name,
        tuple(rows),
        total,
        tuple(run.seed for run in runs),
        rule.get("rule", "median"),
        rule.get("quantile", 0.5),
        rule.get("cap", 0.9),
    )


def draw_thresholds(table: ThresholdTable) -> Drawn:
    """Bars and ticks share one axis, in percent; a class that gains pixels from others passes 100."""
    space = si.LabelSpace(names=[row.name for row in table.rows])
    thresholds, kept = (
        torch.tensor([spread.mean if spread else torch.nan for spread in column], dtype=torch.float64)
        for column in ([row.threshold for row in table.rows], [row.kept for row in table.rows])
    )

    def paint(figure: Figure, theme: Theme) -> None:
        cap = table.cap if table.capped else None
        drawing.draw_kept_shares(thresholds, kept / 100, space, cap=cap, ax=figure.subplots())

    alt = f"{title(table.recipe)}: bar chart of the pixels kept as pseudo-labels per class, with the class thresholds."
    return draw(table.name, alt, (7, 1.2 + 0.3 * len(table.rows)), paint)
