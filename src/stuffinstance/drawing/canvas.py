"""Where to draw: the caller's axes, or new ones on a figure that no global state knows of."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, NamedTuple

from stuffinstance.errors import BackendUnavailableError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

README_WIDTH = 7.0  # inches; text of 9 points is then readable in a column of 800 pixels


def axes_on(ax: Axes | None, height: float, width: float = README_WIDTH) -> Axes:
    """The caller's axes, or the only ones of a new figure of that many inches.

    Raises:
        BackendUnavailableError: If matplotlib is not installed.
        TypeError: If ``ax`` is no ``Axes``.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise BackendUnavailableError(
            "drawing needs the package 'matplotlib', which is not installed. Install it with: pip install matplotlib."
        )
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    if ax is None:
        # Not by pyplot: it would keep the figure alive and choose a window system.
        return Figure(figsize=(width, height), layout="constrained").subplots()
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be matplotlib Axes or None, got {type(ax).__name__}. Pass one of figure.subplots().")
    return ax


def whole_figure(ax: Axes) -> Figure:
    """The figure that the axes are on, also where they are on a part of one."""
    return ax.figure.figure


def inches(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes as they are now."""
    box, dots = ax.get_window_extent(), whole_figure(ax).dpi
    return box.width / dots, box.height / dots


class Ink(NamedTuple):
    """Colours of the style in force: of words, of words that matter less, and of what lies behind."""

    text: Any
    soft: Any
    pale: Any


def ink() -> Ink:
    """The colours that ``rcParams`` give now, so that a dark style makes a dark picture."""
    from matplotlib import rcParams
    from matplotlib.colors import to_rgba

    # Not grid.color: in some styles lines of a grid are as bright as text, which a broad bar may not be.
    text = rcParams["text.color"]
    return Ink(text, rcParams["axes.labelcolor"], to_rgba(text, 0.15))


def font_size() -> float:
    """Points of ordinary text."""
    from matplotlib import rcParams

    return float(rcParams["font.size"])
