"""What the pseudo-labels kept: one bar per class for the share kept, a tick for its threshold."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from .ablation_table import Spread
from .drawn_figure import Drawn, Theme, add_legend, draw, name_rows
from .results import Experiment


@dataclass(frozen=True)
class ThresholdRow:
    """One class over the seeds that wrote thresholds; shares in percent."""

    name: str
    threshold: Spread | None
    kept: Spread | None
    predicted_share: Spread | None


@dataclass(frozen=True)
class ThresholdTable:
    """Rows in the order of the class list, and the share kept of all pixels."""

    rows: tuple[ThresholdRow, ...]
    kept_total: Spread | None
    seeds: tuple[int, ...]
    quantile: float
    cap: float


def build_threshold_table(experiment: Experiment) -> ThresholdTable | None:
    """Join the thresholds of all seeds; ``None`` when no run made pseudo-labels."""
    runs = [run for run in experiment.runs if run.thresholds and run.thresholds.thresholds]
    found = [run.thresholds for run in runs if run.thresholds]
    if not found:
        return None
    rows = []
    for name in found[0].thresholds:
        pixels = [one.predicted_pixels for one in found if any(one.predicted_pixels.values())]
        shares = [100 * p.get(name, 0) / sum(p.values()) for p in pixels]
        rows.append(
            ThresholdRow(
                name,
                Spread.over([one.thresholds[name] for one in found if name in one.thresholds]),
                Spread.over([100 * one.kept[name] for one in found if name in one.kept]),
                Spread.over(shares),
            )
        )
    total = Spread.over([100 * one.kept_total for one in found if one.kept_total is not None])
    rule = runs[0].settings.get("pseudo_labels") or {}
    return ThresholdTable(
        tuple(rows), total, tuple(r.seed for r in runs), rule.get("quantile", 0.5), rule.get("cap", 0.9)
    )


def draw_thresholds(table: ThresholdTable) -> Drawn:
    """Bars and ticks share one axis: both run from 0 to 100 percent."""

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        places = range(len(table.rows))
        kept = [row.kept.mean if row.kept else 0.0 for row in table.rows]
        limits = [100 * row.threshold.mean if row.threshold else 0.0 for row in table.rows]
        axes.barh(places, kept, height=0.58, color="#56b4e9", label="share of pixels kept")
        axes.plot(limits, places, "|", color="#d55e00", ms=13, mew=2.4, label="threshold on the confidence")
        axes.axvline(100 * table.cap, color=theme.soft, linewidth=0.9, linestyle=":", label=f"cap, {table.cap:g}")
        name_rows(axes, [row.name for row in table.rows], theme)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 100)
        axes.set(xlabel="%")
        add_legend(figure, axes, "outside upper left", 3)

    alt = "Bar chart of the share of predicted pixels kept as pseudo-labels per class, with the class thresholds."
    return draw("thresholds", alt, (7, 1.2 + 0.3 * len(table.rows)), paint)
