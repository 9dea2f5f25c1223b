"""Charts with one row per class: names down the side, the first at the top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stuffinstance.drawing.canvas import ink
from stuffinstance.labelspace import LabelSpace, resolved_ids

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR = 0.58  # of the distance of two rows


def rows_height(rows: int) -> float:
    """Inches for that many rows with an axis below them."""
    return 0.9 + 0.3 * max(1, rows)


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Names at 0, 1, ... downwards, without tick marks, and no line across."""
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0, labelcolor=ink().text)
    ax.set_ylim(max(1, len(names)) - 0.4, -0.6)
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)
    ax.grid(visible=False, axis="y")
    ax.set_axisbelow(True)


def checked_rows(classes: Sequence[int | str] | None, space: LabelSpace) -> tuple[int, ...]:
    """The ids to draw, all by default."""
    if classes is None:
        return tuple(range(space.num_classes))
    return resolved_ids("classes", classes, space.names)
