"""Charts of final scores: the ablation with every seed as a dot, and IoU per class."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from .ablation_table import AblationTable, ClassRow
from .drawn_figure import Drawn, Theme, add_legend, draw, legend_shape, name_rows, recipe_lines
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


def draw_class_scores(experiment: Experiment, rows: Sequence[ClassRow]) -> Drawn | None:
    """One row per class, one mark per recipe on a common scale, joined by a line from worst to best."""
    recipes = experiment.finished_recipes
    shown = [row for row in rows if any(row.cells)]
    if not shown:
        return None

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        lines = recipe_lines(experiment.recipes, theme)
        for place, row in enumerate(shown):
            means = [cell.mean for cell in row.cells if cell]
            axes.plot([min(means), max(means)], [place, place], color=theme.grid, linewidth=5, zorder=1)
        for column, recipe in enumerate(recipes):
            points = [(cell.mean, place) for place, row in enumerate(shown) if (cell := row.cells[column])]
            line = lines[recipe]
            axes.scatter(
                [x for x, _ in points],
                [y for _, y in points],
                marker=line.marker,
                color=line.color,
                edgecolor=theme.paper,
                linewidth=0.6,
                s=46,
                label=title(recipe),
                zorder=2,
            )
        name_rows(axes, [row.name for row in shown], theme)
        axes.set_xlim(-1.5, 100)
        axes.set(xlabel="IoU, %")
        add_legend(figure, axes, "outside upper left", 6, handletextpad=0.2)

    alt = f"Dot chart of IoU per class for {', '.join(map(title, recipes))}; the table beside it has the numbers."
    height = 0.9 + legend_shape([title(name) for name in recipes], 7, 6)[1] + 0.3 * len(shown)
    return draw("class_scores", alt, (7, height), paint)
