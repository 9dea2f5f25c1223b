"""Legends that fit the width there is and read along their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from stuffinstance.drawing.canvas import README_WIDTH, font_size, inches, whole_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 6


def legend_shape(
    labels: Sequence[str], width: float = 0.8 * README_WIDTH, columns: int = COLUMNS, fontsize: float = 9.0
) -> tuple[int, float]:
    """Columns of a legend ``width`` inches wide, ``columns`` at most, and about how many inches high it becomes.

    The default width is about that of axes with names of classes on their left.
    """
    em = fontsize / 72
    widths = [em * (0.55 * len(label) + 4) for label in labels]  # with its mark, and the gap to the next column
    fitting = (n for n in range(min(columns, len(labels)), 1, -1) if sum(max(widths[k::n]) for k in range(n)) <= width)
    columns = next(fitting, 1)
    return columns, em * (0.6 + 1.55 * -(-len(labels) // columns)) if labels else 0.0


def in_rows(entries: Sequence[Any], columns: int) -> list[Any]:
    """Entries in the order that matplotlib, which fills columns, needs to have them read along the rows."""
    return [entries[k] for first in range(columns) for k in range(first, len(entries), columns)]


def add_legend(ax: Axes, place: Literal["above", "below"], handles: Sequence[Any] | None = None) -> None:
    """A legend of ``handles``, by default all labelled ones, above or below the axes; none where there are none."""
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    if not handles:
        return
    figure, fontsize = whole_figure(ax), min(9.0, font_size())
    figure.draw_without_rendering()  # so that it is known how wide the axes become
    labels = [str(handle.get_label()) for handle in handles]
    columns, _ = legend_shape(labels, inches(ax)[0], COLUMNS, fontsize)
    ax.legend(
        handles=in_rows(handles, columns),
        loc="lower left" if place == "above" else "upper left",
        bbox_to_anchor=(0, 1.0 if place == "above" else 0.0),
        ncols=columns,
        fontsize=fontsize,
        frameon=False,
        borderpad=0.2,
        borderaxespad=0.3,
        handlelength=1.4,
        handletextpad=0.5,
        columnspacing=1.4,
    )
