"""Charts of scores, curves, thresholds and banks, in one style on a white background."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import stuffinstance as si
from stuffinstance import plotting

from ..recipes.paper_experiments import Sweep
from .results import LADDER, Banks, in_order, title
from .tables import ScoreTable, number_text, spread

INK, SOFT, GRID, NEUTRAL = "#1d2329", "#59636e", "#e3e7eb", "#6b7580"
HERE, PUBLISHED = "#009e73", "#0072b2"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": GRID, "axes.labelcolor": SOFT, "axes.titlecolor": INK, "axes.titlesize": 9.5,
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.axisbelow": True, "font.size": 9, "grid.color": GRID, "legend.frameon": False, "text.color": INK,
    "xtick.color": GRID, "xtick.labelcolor": SOFT, "ytick.color": GRID, "ytick.labelcolor": SOFT,
}  # fmt: skip


class Chart(NamedTuple):
    """A finished figure; ``alt`` describes in words what it shows."""

    name: str
    alt: str
    png: bytes
    width: float  # inches


def draw(name: str, alt: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> Chart:
    """Call ``paint`` on an empty figure of ``size`` inches.

    Without pyplot, which keeps figures alive and chooses a window system.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        paint(figure)
        FigureCanvasAgg(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})  # the bytes depend on the data alone
    return Chart(name, alt, buffer.getvalue(), size[0])


# Color, marker and dash of a recipe, the same in all charts. Okabe and Ito's palette suits every kind of color vision.
Line = tuple[str, str, str]
_COLORS = (NEUTRAL, "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7")
_LADDER_LINES: dict[str, Line] = dict(zip(LADDER, zip(_COLORS, "os^DvP", ["-"] * 5 + ["--"], strict=True), strict=True))
_OTHER_COLORS = ("#0072b2", "#999933", "#882255", "#44aa99", "#aa4499", "#661100", "#6699cc")


def recipe_lines(recipes: Sequence[str]) -> dict[str, Line]:
    """How each recipe is drawn; those beside the ladder differ up to 63 of them."""
    others = [name for name in in_order(recipes) if name not in LADDER]
    lines = dict(_LADDER_LINES)
    for place, name in enumerate(others):
        lines[name] = (_OTHER_COLORS[place % 7], "X<>pHdh8*"[place % 9], (":", "-.", "--")[place // 7 % 3])
    return {name: lines[name] for name in recipes}


def legend_shape(labels: Sequence[str], width: float) -> tuple[int, float]:
    """Columns of a legend ``width`` inches wide, and about how many inches high it becomes."""
    columns = max(1, min(len(labels), int(width / (0.6 + 0.07 * sum(map(len, labels)) / max(1, len(labels))))))
    return columns, 0.2 * -(-len(labels) // columns)


def add_legend(figure: Figure, axes: Sequence[Axes], handles: Mapping[str, Any] | None = None) -> None:
    """A legend of the handles, by default those of all axes, each label once, above them and read along its rows."""
    found = {label: handle for each in axes for handle, label in zip(*each.get_legend_handles_labels(), strict=True)}
    handles = handles or found
    labels = list(handles)
    columns, _ = legend_shape(labels, figure.get_figwidth())
    order = [label for first in range(columns) for label in labels[first::columns]]  # matplotlib fills columns first
    figure.legend([handles[label] for label in order], order, loc="outside upper left", ncols=columns, borderpad=0)


def draw_scores(
    name: str, scores: pd.DataFrame, titles: Mapping[str, str], published: pd.Series | None = None, where: str = ""
) -> Chart | None:
    """A bar to the mean of each row and a dot for each seed, and beside them the published scores if there are any."""
    shown = [key for key in titles if published is not None or scores[key].count()]
    if not scores.count().any():
        return None
    colors = {key: line[0] for key, line in recipe_lines(shown).items()} if published is None else {}
    shift, height = (0.0, 0.58) if published is None else (0.2, 0.36)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, key in enumerate(shown):
            seeds, color = scores[key].dropna(), colors.get(key, HERE)
            if len(seeds):
                axes.barh(place - shift, seeds.mean(), height, color=color, alpha=0.45)
                axes.plot(seeds, [place - shift] * len(seeds), "o", color=color, mec=INK, ms=5, mew=0.7)
                _write(axes, seeds.max(), place - shift, spread(seeds))
            if published is not None and pd.notna(published[key]):
                axes.barh(place + shift, published[key], height, color=PUBLISHED, alpha=0.25)
                _write(axes, published[key], place + shift, number_text(published[key]))
        if published is not None:
            axes.barh(0, 0, color=HERE, alpha=0.45, label="here")
            axes.barh(0, 0, color=PUBLISHED, alpha=0.25, label=f"paper, {where}")
            add_legend(figure, [axes])
        axes.set_yticks(range(len(shown)), [titles[key] for key in shown])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(visible=False, axis="y")
        highest = max(scores.max().max(), 0 if published is None else published.max())
        axes.set(xlabel="mIoU, %", xlim=(0, 1.25 * highest), ylim=(len(shown) - 0.4, -0.6))

    alt = "Bar chart of final mIoU in percent: " + ", ".join(f"{titles[k]} {spread(scores[k])}" for k in shown) + "."
    return draw(name, alt, (7, 0.9 + (0.42 if published is None else 0.65) * len(shown)), paint)


def _write(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(text, (x, y), xytext=(8, 0), textcoords="offset points", va="center")


def draw_sweep(name: str, table: ScoreTable, values: Mapping[str, float], sweep: Sweep, where: str) -> Chart | None:
    """Two panels with scales of their own: the shapes are compared, not the values."""
    scores = table.scores.rename(columns=values).dropna(axis=1, how="all").sort_index(axis=1)
    published = pd.Series(sweep.published).sort_index()
    if scores.empty:
        return None

    def paint(figure: Figure) -> None:
        here, paper = figure.subplots(1, 2)
        error = scores.std().fillna(0)
        here.errorbar(scores.columns, scores.mean(), error, color=HERE, marker="D", ms=5, capsize=4)
        here.plot(scores.columns, scores.T, "o", color=SOFT, ms=3.5, zorder=3)
        paper.plot(published, color=PUBLISHED, marker="s", ms=5)
        for axes, heading, ticks in ((here, "here", scores.columns), (paper, f"paper, {where}", published.index)):
            axes.set_title(heading)
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            low, high = axes.get_ylim()
            middle, reach = (low + high) / 2, max(high - low, 2.0)  # a point should not look like a cliff
            axes.set(xlabel=sweep.symbol, ylabel="mIoU, %", ylim=(middle - 0.6 * reach, middle + 0.6 * reach))

    ours = ", ".join(f"{value:g}: {spread(scores[value])}" for value in scores)
    alt = f"Two line charts of final mIoU in percent by {sweep.symbol}, the paper's on the right. Here: {ours}."
    return draw(name, alt, (8, 3.4), paint)


def draw_curves(
    name: str, panels: Mapping[str, Mapping[str, pd.DataFrame]], lines: Mapping[str, Line], *, large: bool = False
) -> Chart | None:
    """A panel for each heading that has curves by label: a line for the mean of the seeds, a band from low to high."""
    panels = {
        heading: {label: curve for label, curve in curves.items() if not curve.empty}
        for heading, curves in panels.items()
        if any(not curve.empty for curve in curves.values())
    }
    if not panels:
        return None
    columns = min(3 if len(panels) > 2 else 2, len(panels))
    rows = -(-len(panels) // columns)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, (heading, curves) in zip(grid, panels.items(), strict=False):
            for label, curve in curves.items():
                color, marker, dash = lines[label]
                axes.fill_between(curve.index, curve.min(axis=1), curve.max(axis=1), color=color, alpha=0.18, lw=0)
                style = {"marker": marker, "ms": 4} if large else {}
                axes.plot(curve.mean(axis=1), dash, color=color, lw=1.6, label=label, **style)
            axes.set(title=heading, xlabel="steps")
            low, high = axes.dataLim.intervaly
            axes.set_ylim(min(0.0, 1.08 * low), max(0.0, 1.08 * high))
        for empty in grid[len(panels) :]:
            empty.set_axis_off()
        add_legend(figure, grid)

    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    width = 7 if large else 10
    height = (3.6 if large else 2.4 * rows) + legend_shape(labels, width)[1]
    alt = f"Line chart over training steps of {', '.join(panels)}, with a line for each of {', '.join(labels)}."
    return draw(name, alt, (width, height), paint)


def draw_class_scores(scores: Mapping[str, pd.DataFrame], means: pd.Series) -> Chart | None:
    """One row per class, one mark per recipe on a common scale."""
    known = pd.DataFrame({recipe: frame.mean() for recipe, frame in scores.items()}).dropna(how="all")
    if known.empty:
        return None
    lines, labels = recipe_lines(list(known)), [f"{title(recipe)}, mean 12.3" for recipe in known]
    styles = {title(name): {"color": color, "marker": marker} for name, (color, marker, _) in lines.items()}
    iou = {title(k): si.IoU(means[k] / 100, torch.tensor(known[k].to_numpy() / 100)) for k in known}

    def paint(figure: Figure) -> None:
        plotting.plot_iou(iou, si.LabelSpace(names=list(known.index)), styles=styles, ax=figure.subplots())

    alt = f"Dot chart of IoU per class for {', '.join(iou)}; the table has the numbers."
    return draw("class_scores", alt, (7, 0.9 + 0.3 * len(known) + legend_shape(labels, 5.6)[1]), paint)


def draw_thresholds(recipe: str, found: Mapping[str, pd.DataFrame], cap: float) -> Chart:
    """Bars to the share kept of each class and ticks at its threshold; a class that gains pixels passes 100 percent."""
    means = {key: torch.tensor(found[key].mean().to_numpy()) for key in ("threshold", "kept")}
    space, limit = si.LabelSpace(names=list(found["threshold"])), None if math.isnan(cap) else cap

    def paint(figure: Figure) -> None:
        plotting.plot_kept_fractions(means["threshold"], means["kept"] / 100, space, cap=limit, ax=figure.subplots())

    alt = f"{title(recipe)}: bar chart of the pixels kept as pseudo-labels per class, with the class thresholds."
    return draw(f"thresholds_{recipe}", alt, (7, 1.2 + 0.3 * space.num_classes), paint)


def draw_banks(banks: Banks, space: si.LabelSpace) -> list[Chart]:
    """How many slots of each class hold a row, and where the rows lie: circles for stuff, triangles for things."""
    both = (banks.stuff, banks.things)
    filled = torch.cat([bank.filled.all(1) for bank in both])
    alt = f"Bar chart of slots filled per class: {int(filled.sum())} of {len(filled)} classes are full."
    rows_alt = "Scatter plot of bank rows on their two principal axes: one cluster of marks per class, with its name."
    height = 0.9 + 0.29 * len(filled)
    return [
        draw("bank_fill", alt, (7, height), lambda it: plotting.plot_bank_fill(both, space, ax=it.subplots())),
        draw("bank_rows", rows_alt, (7, 5.6), lambda it: plotting.plot_bank_rows(both, space, ax=it.subplots())),
    ]
