"""One chart for each experiment of the paper: what came out here, and beside it what was published."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..recipes.paper_experiments import Sweep
from ..records.experiment_record import ExperimentRecord
from .curves import Curve, curve_of, miou_in_percent, paint_curves
from .drawn_figure import Drawn, Theme, add_legend, draw, name_rows, recipe_lines
from .paper_rows import PaperRow

HERE, PUBLISHED = "#009e73", "#0072b2"


def draw_beside_paper(record: ExperimentRecord, rows: Sequence[PaperRow]) -> Drawn | None:
    """The chart of this experiment, None as long as there is nothing to draw."""
    if record.paper.curve:
        return _draw_training(record, rows)
    if not any(row.miou for row in rows):
        return None
    if record.paper.sweep:
        return _draw_sweep(record, record.paper.sweep, rows)
    return _draw_ladder(record, rows)


def _draw_sweep(record: ExperimentRecord, sweep: Sweep, rows: Sequence[PaperRow]) -> Drawn:
    """Two panels with scales of their own: the shapes are compared, not the values."""
    done = sorted((row for row in rows if row.miou), key=lambda row: row.variant.value or 0)
    published = sorted(sweep.published.items())

    def paint(figure: Figure, theme: Theme) -> None:
        here, paper = figure.subplots(1, 2)
        values = [row.variant.value for row in done]
        means = [row.miou.mean for row in done if row.miou]
        deviations = [row.miou.deviation or 0.0 for row in done if row.miou]
        here.errorbar(values, means, deviations, color=HERE, marker="D", ms=5, capsize=4, linewidth=1.7)
        for row in done:
            scores = list(row.scores.values())
            here.plot([row.variant.value] * len(scores), scores, "o", color=theme.soft, ms=3.5, zorder=3)
        paper.plot(*zip(*published, strict=True), color=PUBLISHED, marker="s", ms=5, linewidth=1.7)
        _finish_panel(here, "here", sweep, [row.variant.value or 0 for row in done])
        _finish_panel(paper, f"the paper's {record.paper.printed}", sweep, [value for value, _ in published])

    ours = ", ".join(f"{row.label}: {row.miou.text()}" for row in done if row.miou)
    theirs = ", ".join(f"{value:g}: {miou}" for value, miou in published)
    alt = f"Two line charts of final mIoU in percent by {sweep.symbol}. Here: {ours}. In the paper: {theirs}."
    return draw(record.name, alt, (8, 3.4), paint)


def _finish_panel(axes: Axes, heading: str, sweep: Sweep, values: Sequence[float]) -> None:
    axes.set_title(heading)
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.set(xlabel=sweep.symbol, ylabel="mIoU, %")
    low, high = axes.get_ylim()
    middle, reach = (low + high) / 2, max(high - low, 2.0)  # a point is not to look like a cliff
    axes.set_ylim(middle - 0.6 * reach, middle + 0.6 * reach)


def _draw_ladder(record: ExperimentRecord, rows: Sequence[PaperRow]) -> Drawn:
    """Two bars for each recipe, one dot for each seed."""

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        for place, row in enumerate(rows):
            if row.miou:
                axes.barh(place - 0.2, row.miou.mean, height=0.36, color=HERE)
                scores = list(row.scores.values())
                axes.plot(scores, [place - 0.2] * len(scores), "o", color=theme.ink, ms=3.5)
                _write(axes, max(scores), place - 0.2, row.miou.text(), theme)
            if row.variant.published is not None:
                axes.barh(place + 0.2, row.variant.published, height=0.36, color=PUBLISHED, alpha=0.45)
                _write(axes, row.variant.published, place + 0.2, f"{row.variant.published:.1f}", theme)
        # Bars of nothing, for the legend, whichever rows there are.
        axes.barh(0, 0, color=HERE, label="here")
        axes.barh(0, 0, color=PUBLISHED, alpha=0.45, label=f"the paper's {record.paper.printed}")
        name_rows(axes, [row.label for row in rows], theme)
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="mIoU, %")
        axes.set_xlim(0, 1.2 * max(row.variant.published or 0 for row in rows))
        add_legend(figure, axes, "outside upper left", 2)

    values = ", ".join(f"{row.label} {row.miou.text() if row.miou else 'not run'}" for row in rows)
    theirs = ", ".join(f"{row.label} {row.variant.published}" for row in rows)
    alt = f"Bar chart of final mIoU in percent. Here: {values}. In the paper: {theirs}."
    return draw(record.name, alt, (7, 1.2 + 0.62 * len(rows)), paint)


def _write(axes: Axes, x: float, y: float, text: str, theme: Theme) -> None:
    axes.annotate(text, (x, y), xytext=(7, 0), textcoords="offset points", va="center", color=theme.ink)


def training_curves(rows: Sequence[PaperRow]) -> dict[str, Curve]:
    """mIoU in percent along training by row, of runs under way too."""
    curves = {row.label: curve_of(row.runs, miou_in_percent) for row in rows}
    return {label: curve for label, curve in curves.items() if curve}


def _draw_training(record: ExperimentRecord, rows: Sequence[PaperRow]) -> Drawn | None:
    curves = training_curves(rows)
    if not curves:
        return None

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        lines = recipe_lines(tuple(row.variant.recipe for row in rows), theme)
        paint_curves(axes, curves, {row.label: lines[row.variant.recipe] for row in rows}, markers=True)
        axes.set(xlabel="iterations", ylabel="mIoU, %")
        add_legend(figure, axes, "outside upper left", 2, handlelength=2.2)

    ends = ", ".join(
        f"{name} {curve.mean.max():.1f} at most and {curve.mean[-1]:.1f} at the end" for name, curve in curves.items()
    )
    return draw(record.name, f"Line chart of mIoU in percent over iterations: {ends}.", (7, 4.2), paint)
