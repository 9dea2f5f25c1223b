"""Class thresholds and the share of pixels that each kept, from numbers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stuffinstance.arguments import check_kind, checked_fraction
from stuffinstance.drawing.canvas import axes_on, ink
from stuffinstance.drawing.class_rows import BAR, name_rows, rows_height
from stuffinstance.drawing.colours import MARK, STUFF_BAR
from stuffinstance.drawing.legends import add_legend
from stuffinstance.labelspace import LabelSpace
from stuffinstance.pseudo_labels.threshold_rule import check_thresholds

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_kept_shares(
    thresholds: Tensor,
    kept: Tensor,
    space: LabelSpace,
    *,
    cap: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a bar to the share of a class's pixels that were kept, and a tick at its threshold, both in percent.

    Args:
        thresholds: Of the K classes, (K,) floating, as a rule's ``compute()`` gives; NaN draws no tick.
        kept: Pixels kept as a class over pixels predicted as it, (K,) floating; above 1 where it gained pixels from
            others; NaN draws no bar.
        space: Names of the K classes.
        cap: The highest threshold that the rule allows: a dotted line.
        ax: Where to draw. Default: a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: If ``thresholds`` or ``kept`` is no tensor.
        ValueError: If one is not floating and (K,).
        BackendUnavailableError: If matplotlib is not installed.

    Example:
        >>> space = LabelSpace(names=("road", "car"), stuff=(0,), things=(1,))
        >>> ax = draw_kept_shares(torch.tensor([0.9, 0.4]), torch.tensor([0.75, 0.5]), space, cap=0.9)
        >>> [float(bar.get_width()) for bar in ax.patches]
        [75.0, 50.0]
    """
    check_kind("space", space, LabelSpace)
    cap = None if cap is None else checked_fraction("cap", cap)
    check_thresholds("thresholds", thresholds, space.num_classes)
    check_thresholds("kept", kept, space.num_classes)
    shares = (100 * kept.detach().to("cpu", torch.float64)).tolist()
    limits = (100 * thresholds.detach().to("cpu", torch.float64)).tolist()
    places = range(space.num_classes)
    ax = axes_on(ax, rows_height(space.num_classes) + 0.3)
    widths = [share if share == share else 0.0 for share in shares]
    style: dict[str, Any] = {"color": ink().soft, "linewidth": 0.9, "linestyle": ":"}
    bars = ax.barh(places, widths, height=BAR, color=STUFF_BAR, label="share of pixels kept")
    ticks = ax.plot(limits, places, "|", color=MARK, ms=13, mew=2.4, label="threshold on the confidence")
    lines = [] if cap is None else [ax.axvline(100 * cap, **style, label=f"cap, {cap:g}")]
    name_rows(ax, space.names)
    ax.set(xlim=(0, max(100.0, 1.05 * max(widths))), xlabel="%")
    add_legend(ax, "above", [bars, *ticks, *lines])
    return ax
