"""Draw one chart twice, for light and for dark pages, without touching matplotlib's global state.

``pyplot`` keeps figures alive and picks a window system; a report written at the end of a training
run should do neither, so figures are made directly on the Agg canvas.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stuffinstance.drawing.legends import in_rows, legend_shape

from .recipe_names import LADDER, in_order

FONT_SIZE = 9.0  # points


@dataclass(frozen=True)
class Theme:
    """The few colours a chart needs; equal to those of the page it stands on."""

    paper: str
    ink: str
    soft: str
    grid: str
    neutral: str


LIGHT = Theme(paper="#ffffff", ink="#1d2329", soft="#59636e", grid="#e3e7eb", neutral="#6b7580")
DARK = Theme(paper="#161b21", ink="#e4e8ec", soft="#9aa5b1", grid="#2b333c", neutral="#a7b1bb")


@dataclass(frozen=True)
class Drawn:
    """A finished chart; ``alt`` says in words what the picture shows."""

    name: str
    alt: str
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Line:
    """How one recipe looks in every chart: colour, marker and dash all differ."""

    color: str
    marker: str
    dash: str


# Okabe and Ito's palette, told apart with every common kind of colour blindness.
_LINES = {
    "aa": Line("#e69f00", "s", "-"),
    "aa+it": Line("#56b4e9", "^", "-"),
    "aa+it+sim": Line("#009e73", "D", "-"),
    "aa+it+sim+ssl": Line("#d55e00", "v", "-"),
    "target-only": Line("#cc79a7", "P", "--"),
}
# Beside the ladder: as many as differ in colour, then the same colours with other dashes and markers.
_EXTRA_COLORS = ("#0072b2", "#999933", "#882255", "#44aa99", "#aa4499", "#661100", "#6699cc")
_EXTRA_LINES = tuple(
    Line(color, marker, dash)
    for dash, markers in ((":", "X<>p*hd"), ("-.", "PdH8Xp<"), ("--", "*h>X<dp"))
    for color, marker in zip(_EXTRA_COLORS, markers, strict=True)
)


def recipe_lines(recipes: tuple[str, ...], theme: Theme) -> dict[str, Line]:
    """A line style for every recipe, the same in all charts of a page."""
    extras = [name for name in in_order(recipes) if name not in LADDER]
    lines = {"source": Line(theme.neutral, "o", "-"), **_LINES}
    lines.update({name: _EXTRA_LINES[k % len(_EXTRA_LINES)] for k, name in enumerate(extras)})
    return {name: lines[name] for name in recipes}


def draw(
    name: str,
    alt: str,
    size: tuple[float, float],
    paint: Callable[[Figure, Theme], None],
) -> Drawn:
    """Call ``paint`` on an empty figure of ``size`` inches, once per theme."""
    return Drawn(name, alt, _render(size, paint, LIGHT), _render(size, paint, DARK))


def _render(size: tuple[float, float], paint: Callable[[Figure, Theme], None], theme: Theme) -> bytes:
    with matplotlib.rc_context(_settings(theme)):
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        paint(figure, theme)
        return encode_figure(figure, facecolor=theme.paper)


def encode_figure(figure: Figure, **style: Any) -> bytes:
    """PNG bytes; without the software stamp they depend on the data alone."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, **style)
    return buffer.getvalue()


def _settings(theme: Theme) -> dict[Any, Any]:
    return {
        "axes.edgecolor": theme.grid,
        "axes.facecolor": theme.paper,
        "axes.labelcolor": theme.soft,
        "axes.titlecolor": theme.ink,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "font.family": "DejaVu Sans",
        "font.size": FONT_SIZE,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "legend.labelcolor": theme.ink,
        "text.color": theme.ink,
        "xtick.color": theme.grid,
        "xtick.labelcolor": theme.soft,
        "ytick.color": theme.grid,
        "ytick.labelcolor": theme.soft,
    }


def add_legend(figure: Figure, axes: Axes, place: Any, columns: int, **style: Any) -> None:
    """A legend outside the axes that reads along its rows; matplotlib alone would fill its columns first.

    ``columns`` at most: long names get as many as the figure is wide enough for.
    """
    handles, labels = axes.get_legend_handles_labels()
    columns, _ = legend_shape(labels, figure.get_figwidth(), columns, style.get("fontsize", FONT_SIZE))
    figure.legend(
        in_rows(handles, columns),
        in_rows(labels, columns),
        loc=place,
        ncols=columns,
        borderpad=0,
        **style,
    )


def name_rows(axes: Axes, names: list[str], theme: Theme) -> None:
    """Class or recipe names down the side, the first at the top, no tick marks."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelcolor=theme.ink)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
