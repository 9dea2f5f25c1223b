"""The confidences behind class thresholds, and what each threshold leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stuffinstance.arguments import check_kind
from stuffinstance.distributed import sum_over_ranks
from stuffinstance.drawing.canvas import axes_on, ink
from stuffinstance.drawing.class_rows import checked_rows, name_rows, rows_height
from stuffinstance.drawing.colours import MARK, STUFF_BAR
from stuffinstance.drawing.legends import add_legend
from stuffinstance.labelspace import LabelSpace
from stuffinstance.pseudo_labels import ThresholdRule
from stuffinstance.pseudo_labels.confidence_histogram import HistogramRule
from stuffinstance.pseudo_labels.threshold_rule import check_thresholds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 64  # drawn; a rule's own are finer
_HEIGHT = 0.8  # of the distance of two rows


def draw_confidences(
    rule: ThresholdRule,
    space: LabelSpace,
    *,
    thresholds: Tensor | None = None,
    classes: Sequence[int | str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw for each class how its confidences are distributed, where its threshold is, and what share reaches it.

    The filled profile counts pixels by confidence, strong where they reach the threshold. The line falls from all
    pixels to none: its height at any confidence is the share that a threshold there would keep.

    Args:
        rule: A :class:`~stuffinstance.ClassBalancedThreshold` or :class:`~stuffinstance.PortionThreshold` that has
            seen predictions. Of the latter the shares are those of pixels *predicted* as the class; its labels can
            also win pixels from other classes. Under ``torch.distributed`` its counts are those of all ranks, so every
            rank must call this.
        space: Names of the K classes.
        thresholds: (K,), to draw in place of ``rule.compute()``, such as those of another round.
        classes: Ids or names to draw, from top to bottom. Default: all.
        ax: Where to draw. Default: a new figure.

    Returns:
        The axes. A class that was never predicted has ``never predicted`` on its row, one whose threshold is NaN
        ``no threshold``.

    Raises:
        TypeError: If ``rule`` keeps no confidences (:class:`~stuffinstance.AdaptiveThreshold` does not).
        ValueError: If the rule, the thresholds and the space differ in K, or ``classes`` are not ids of the space.
        BackendUnavailableError: If matplotlib is not installed.

    Example:
        >>> rule = si.ClassBalancedThreshold(num_classes=2)
        >>> rule.update(torch.tensor([[[[0.75, 0.625, 0.875]], [[0.25, 0.375, 0.125]]]]))
        >>> ax = draw_confidences(rule, LabelSpace(names=("road", "car"), stuff=(0,), things=(1,)))
        >>> [text.get_text() for text in ax.texts]
        ['keeps 33 % of 3', 'never predicted']
    """
    check_kind("space", space, LabelSpace)
    if not isinstance(rule, HistogramRule):
        raise TypeError(
            f"rule must keep counts of confidences, as ClassBalancedThreshold and PortionThreshold do, got "
            f"{type(rule).__name__}. For thresholds alone there is draw_kept_shares."
        )
    if rule.num_classes != space.num_classes:
        raise ValueError(f"rule must be of the space's K = {space.num_classes} classes, got K = {rule.num_classes}.")
    limits = rule.compute() if thresholds is None else thresholds
    check_thresholds("thresholds", limits, space.num_classes)
    limit_of = limits.detach().to("cpu", torch.float64).tolist()
    counts = np.asarray(sum_over_ranks(rule.histogram, rule.sync, rule.group).cpu())
    shown = checked_rows(classes, space)
    ax = axes_on(ax, rows_height(len(shown)) + 0.14 * len(shown) + 0.2)
    for place, k in enumerate(shown):
        _draw_class(ax, place, counts[k], limit_of[k])
    name_rows(ax, [space.names[k] for k in shown])
    ax.set(xlim=(0, 1.34), xticks=(0, 0.2, 0.4, 0.6, 0.8, 1), xlabel="confidence")
    ax.spines["bottom"].set_bounds(0, 1)
    ax.xaxis.label.set_x(0.5 / 1.34)
    add_legend(ax, "above", _legend_handles())
    return ax


def _draw_class(ax: Axes, place: int, counts: NDArray[np.int64], limit: float) -> None:
    base, soft = place + 0.5 * _HEIGHT, ink().soft
    total = int(counts.sum())
    ax.plot((0, 1), (base, base), color=ink().pale, linewidth=0.8)
    if not total:
        ax.text(1.02, place, "never predicted", va="center", fontsize=8, color=soft)
        return
    edges = np.linspace(0, 1, min(_BINS, len(counts)) + 1)
    bins = len(edges) - 1
    coarse = np.bincount(np.arange(len(counts)) * bins // len(counts), counts, minlength=bins)
    profile = base - _HEIGHT * coarse / coarse.max()
    ax.stairs(profile, edges, baseline=base, fill=True, color=STUFF_BAR, alpha=0.35)
    if math.isnan(limit):
        ax.text(1.02, place, f"no threshold; {_short(total)}", va="center", fontsize=8, color=soft)
        return
    first = min(int(limit * bins), bins - 1)
    ax.stairs(profile[first:], [min(limit, 1.0), *edges[first + 1 :]], baseline=base, fill=True, color=STUFF_BAR)
    left = 1 - np.concatenate([[0], coarse.cumsum()]) / total
    ax.plot(edges, base - _HEIGHT * left, color=soft, linewidth=0.9)
    ax.plot((limit, limit), (base, base - _HEIGHT), color=MARK, linewidth=2)
    # A computed threshold is the lower edge of a bin; a cap within one is taken as its upper edge.
    kept = int(counts[int(np.ceil(limit * len(counts) - 1e-6)) :].sum())
    text = f"keeps {100 * kept / total:.0f} % of {_short(total)}"
    ax.text(1.02, place, text, va="center", fontsize=8, color=soft)


def _legend_handles() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Patch(facecolor=STUFF_BAR, label="pixels by confidence"),
        Line2D([], [], color=MARK, linewidth=2, label="threshold"),
        Line2D([], [], color=ink().soft, linewidth=0.9, label="share kept by a threshold there"),
    ]


def _short(count: int) -> str:
    """A count in three digits: 1230 is ``1.23 k``."""
    for size, letter in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= 0.9995 * size:  # what rounds up to it
            return f"{count / size:.3g}{letter}"
    return str(count)
