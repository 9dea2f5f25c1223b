"""Charts of final scores: the ablation with every seed as a dot, and IoU per class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

import stuffinstance as si
from stuffinstance import drawing

from .ablation_table import AblationTable, ClassRow
from .drawn_figure import Drawn, Theme, draw, legend_shape, name_rows, recipe_lines
from .recipe_names import title
from .results import Experiment


def draw_ablation(experiment: Experiment, table: AblationTable) -> Drawn | None:
    """A bar to the mean and one dot per seed: whether a gain is larger than the luck of a seed."""
    rows = [row for row in table.rows if row.miou is not None]
    if not rows:
        return None

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        lines = recipe_lines(experiment.recipes, theme)
        for place, row in enumerate(rows):
            line = lines[row.recipe]
            assert row.miou is not None
            axes.barh(place, row.miou.mean, height=0.58, color=line.color, alpha=0.45)
            seeds = [
                100 * r.result.miou
                for r in experiment.of(row.recipe, finished=True)
                if r.result and r.result.miou is not None
            ]
            axes.plot(seeds, [place] * len(seeds), "o", color=line.color, markeredgecolor=theme.ink, ms=5, mew=0.7)
            axes.annotate(
                row.miou.text(),
                (max(seeds), place),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                color=theme.ink,
            )
        name_rows(axes, [row.title for row in rows], theme)
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="mIoU, %")
        axes.set_xlim(0, 1.25 * max(row.miou.mean for row in rows if row.miou))

    values = ", ".join(f"{row.title} {row.miou.text()}" for row in rows if row.miou)
    height = 0.9 + 0.42 * len(rows)
    return draw("ablation", f"Bar chart of final mIoU in percent: {values}.", (7, height), paint)


def draw_class_scores(experiment: Experiment, table: AblationTable, rows: Sequence[ClassRow]) -> Drawn | None:
    """One row per class, one mark per recipe on a common scale, joined by a line from worst to best."""
    recipes = experiment.finished_recipes
    shown = [row for row in rows if any(row.cells)]
    if not shown:
        return None
    space = si.LabelSpace(names=[row.name for row in shown])
    scores = {}
    for column, recipe in enumerate(recipes):
        whole, cells = table.row(recipe), [row.cells[column] for row in shown]
        mean = whole.miou.mean if whole and whole.miou else torch.nan
        per_class = torch.tensor([cell.mean if cell else torch.nan for cell in cells], dtype=torch.float64)
        scores[title(recipe)] = si.IoU(mean / 100, per_class / 100)

    def paint(figure: Figure, theme: Theme) -> None:
        lines = recipe_lines(experiment.recipes, theme)
        styles = {title(name): {"color": lines[name].color, "marker": lines[name].marker} for name in recipes}
        drawing.draw_iou(scores, space, styles=styles, ax=figure.subplots())

    alt = f"Dot chart of IoU per class for {', '.join(scores)}; the table beside it has the numbers."
    height = 0.9 + legend_shape([f"{name}, mean 12.3" for name in scores], 5.6, 6)[1] + 0.3 * len(shown)
    return draw("class_scores", alt, (7, height), paint)
