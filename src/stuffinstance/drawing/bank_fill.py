"""How full each class of a bank is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stuffinstance.banks import MemoryBank
from stuffinstance.drawing.bank_classes import bank_classes
from stuffinstance.drawing.canvas import axes_on, ink
from stuffinstance.drawing.class_rows import BAR, name_rows, rows_height
from stuffinstance.drawing.colours import STUFF_BAR, THING_BAR
from stuffinstance.labelspace import LabelSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_bank_fill(banks: MemoryBank | Sequence[MemoryBank], space: LabelSpace, *, ax: Axes | None = None) -> Axes:
    """Draw a bar to the share of slots that hold a row, one for each class.

    The numbers beside it are rows held, slots, and rows ever written. With the preset ``"code"`` a class is matched
    only once it has written more rows than it has slots.

    Args:
        banks: A :class:`~stuffinstance.StuffBank`, an :class:`~stuffinstance.InstanceBank`, or several.
        space: Names of the classes, and which are stuff (circle, blue) and things (triangle, orange).
        ax: Where to draw. Default: a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: If ``banks`` are no banks.
        ValueError: If a bank's class is not one of the space.
        BackendUnavailableError: If matplotlib is not installed.

    Example:
        >>> space = LabelSpace(names=("road", "car"), stuff=(0,), things=(1,))
        >>> sim = si.StuffInstanceMatching(space, feature_dim=4)
        >>> ax = draw_bank_fill([sim.stuff_bank, sim.instance_bank], space)
        >>> [text.get_text() for text in ax.texts]
        ['0 / 50   (0 written)', '0 / 500   (0 written)']
    """
    classes = bank_classes(banks, space)
    ax = axes_on(ax, rows_height(len(classes)))
    for place, one in enumerate(classes):
        filled, slots = len(one.rows), one.capacity
        ax.barh(place, 100, height=BAR, color=ink().pale)
        ax.barh(place, 100 * filled / slots, height=BAR, color=THING_BAR if one.thing else STUFF_BAR)
        text = f"{filled} / {slots}   ({one.written:,} written)"
        ax.text(102, place, text, va="center", fontsize=8, color=ink().soft)
    name_rows(ax, [f"{one.name}  {'▲' if one.thing else '●'}" for one in classes])
    ax.grid(visible=False)
    ax.set(xlim=(0, 150), xticks=(0, 50, 100), xlabel="slots filled, %")
    ax.spines["bottom"].set_bounds(0, 100)
    ax.xaxis.label.set_x(1 / 3)
    return ax
