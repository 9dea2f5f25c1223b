"""Charts with one row per class: names down the side, the first at the top."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stuffinstance._checks import check_kind, checked_fraction
from stuffinstance.distributed import sum_over_ranks
from stuffinstance.label_space import LabelSpace, resolved_ids
from stuffinstance.metrics.mean_iou import IoU
from stuffinstance.plotting.axes import MARK, STUFF_BAR, THING_BAR, add_legend, axes_on, ink, legend_shape, run_color
from stuffinstance.pseudo_labels import PseudoLabelThreshold
from stuffinstance.pseudo_labels.class_balanced import HistogramRule
from stuffinstance.pseudo_labels.threshold import check_thresholds

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


_BINS = 64  # drawn; a rule's own are finer
_HEIGHT = 0.8  # of the distance of two rows


def plot_confidences(
    rule: PseudoLabelThreshold,
    space: LabelSpace,
    *,
    thresholds: Tensor | None = None,
    classes: Sequence[int | str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Histogram of the confidences of each class, with its threshold and the fraction that reaches it.

    The filled profile counts pixels by confidence, strong where they reach the threshold. The line falls from all
    pixels to none: its height at any confidence is the share that a threshold there would keep.

    Args:
        rule: A :class:`~stuffinstance.ClassBalancedThreshold` or :class:`~stuffinstance.CBSTThreshold` that has
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
        TypeError: If ``rule`` keeps no confidences (:class:`~stuffinstance.IASTThreshold` does not).
        ValueError: If the rule, the thresholds and the space differ in K, or ``classes`` are not ids of the space.
        BackendUnavailableError: If matplotlib is not installed.

    Example:
        >>> rule = si.ClassBalancedThreshold(num_classes=2)
        >>> rule.update(torch.tensor([[[[0.75, 0.625, 0.875]], [[0.25, 0.375, 0.125]]]]))
        >>> ax = plot_confidences(rule, LabelSpace(names=("road", "car"), stuff=(0,), things=(1,)))
        >>> [text.get_text() for text in ax.texts]
        ['keeps 33 % of 3', 'never predicted']
    """
    check_kind("space", space, LabelSpace)
    if not isinstance(rule, HistogramRule):
        raise TypeError(
            f"rule must keep counts of confidences, as ClassBalancedThreshold and CBSTThreshold do, got "
            f"{type(rule).__name__}. For thresholds alone there is plot_kept_fractions."
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


def plot_kept_fractions(
    thresholds: Tensor,
    fractions: Tensor,
    space: LabelSpace,
    *,
    cap: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Bar chart of the fraction of pixels kept per class, with a tick at its threshold, both in percent.

    Args:
        thresholds: Of the K classes, (K,) floating, as a rule's ``compute()`` gives; NaN draws no tick.
        fractions: Pixels kept as a class over pixels predicted as it, (K,) floating; above 1 where it gained pixels
            from others; NaN draws no bar.
        space: Names of the K classes.
        cap: The highest threshold that the rule allows: a dotted line.
        ax: Where to draw. Default: a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: If ``thresholds`` or ``fractions`` is not a tensor.
        ValueError: If one is not floating and (K,).
        BackendUnavailableError: If matplotlib is not installed.

    Example:
        >>> space = LabelSpace(names=("road", "car"), stuff=(0,), things=(1,))
        >>> ax = plot_kept_fractions(torch.tensor([0.9, 0.4]), torch.tensor([0.75, 0.5]), space, cap=0.9)
        >>> [float(bar.get_width()) for bar in ax.patches]
        [75.0, 50.0]
    """
    check_kind("space", space, LabelSpace)
    cap = None if cap is None else checked_fraction("cap", cap)
    check_thresholds("thresholds", thresholds, space.num_classes)
    check_thresholds("fractions", fractions, space.num_classes)
    shares = (100 * fractions.detach().to("cpu", torch.float64)).tolist()
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


_MARKERS = "osD^vPX*"


def plot_iou(
    scores: IoU | Mapping[str, IoU],
    space: LabelSpace,
    *,
    classes: Sequence[int | str] | None = None,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Chart of the IoU of every class in percent.

    One run is a bar for each class. Several are a mark each on the row of the class, on a pale bar from the lowest to
    the highest, which stays readable where bars side by side would not.

    Args:
        scores: What ``MeanIoU.compute()`` returned, or several by the name of the run, in the order to list them.
        space: Names of the K classes.
        classes: Ids or names to draw, from top to bottom. Default: all.
        styles: Of some runs by name: arguments of ``Axes.scatter``, such as ``{"sim": {"marker": "D"}}``. Default:
            colors that stay distinct with color blindness, each with a marker of its own.
        ax: Where to draw. Default: a new figure.

    Returns:
        The axes. A class that never occurs has ``–`` in place of a bar, or no mark.

    Raises:
        TypeError: If a score is not an :class:`~stuffinstance.IoU`.
        ValueError: If ``scores`` is empty, one is not of K classes, or ``classes`` are not ids of the space.
        BackendUnavailableError: If matplotlib is not installed.

    Example:
        >>> space = LabelSpace(names=("road", "car"), stuff=(0,), things=(1,))
        >>> before, after = IoU(0.5, torch.tensor([0.75, 0.25])), IoU(0.625, torch.tensor([0.75, 0.5]))
        >>> [text.get_text() for text in plot_iou(before, space).texts]
        ['75.0', '25.0']
        >>> ax = plot_iou({"source": before, "sim": after}, space)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['source, mean 50.0', 'sim, mean 62.5']
    """
    check_kind("space", space, LabelSpace)
    if not isinstance(scores, IoU | Mapping):
        raise TypeError(f"scores must be an IoU, or several by name, got {type(scores).__name__}.")
    if styles is not None:
        check_kind("styles", styles, Mapping)
    several = {"": scores} if isinstance(scores, IoU) else dict(scores)
    _check_scores(several, space)
    shown = checked_rows(classes, space)
    values = {name: 100 * score.per_class.detach().double().cpu() for name, score in several.items()}
    columns = {name: [float(all_classes[k]) for k in shown] for name, all_classes in values.items()}
    labels = [f"{name}, mean {100 * score.mean:.1f}" for name, score in several.items()]
    legend_height = 0.0 if isinstance(scores, IoU) else legend_shape(labels)[1]
    ax = axes_on(ax, rows_height(len(shown)) + legend_height)
    if isinstance(scores, IoU):
        _draw_bars(ax, columns[""], [k in space.things for k in shown])
        ax.set_xlabel(f"IoU, % (mean {100 * scores.mean:.1f})")
    else:
        _draw_marks(ax, columns, labels, styles or {})
        ax.set_xlabel("IoU, %")
        add_legend(ax, "above")
    name_rows(ax, [space.names[k] for k in shown])
    ax.set_xlim((0, 100) if isinstance(scores, IoU) else (-1.5, 101.5))
    return ax


def _check_scores(scores: Mapping[str, IoU], space: LabelSpace) -> None:
    if not scores:
        raise ValueError("scores must hold at least one IoU, got none.")
    for name, score in scores.items():
        which = f"scores[{name!r}]" if name else "scores"
        if not isinstance(score, IoU):
            raise TypeError(f"{which} must be an IoU, as MeanIoU.compute() returns, got {type(score).__name__}.")
        if score.per_class.shape != (space.num_classes,):
            raise ValueError(
                f"{which} must be of the space's K = {space.num_classes} classes, got {tuple(score.per_class.shape)}."
            )


def _draw_bars(ax: Axes, values: list[float], things: list[bool]) -> None:
    for place, (value, thing) in enumerate(zip(values, things, strict=True)):
        known = value == value
        ax.barh(place, value if known else 0, height=BAR, color=THING_BAR if thing else STUFF_BAR)
        text, end = (f"{value:.1f}", value) if known else ("–", 0)
        inside = end > 90  # the right side has no room
        ax.annotate(
            text,
            (end, place),
            xytext=(-4 if inside else 4, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            fontsize=8,
            color="black" if inside else ink().soft,
        )


def _draw_marks(
    ax: Axes, columns: Mapping[str, list[float]], labels: list[str], styles: Mapping[str, Mapping[str, Any]]
) -> None:
    for place, row in enumerate(zip(*columns.values(), strict=True)):
        known = [value for value in row if value == value]
        if known:
            ends = (min(known), max(known))
            ax.plot(ends, (place, place), color=ink().pale, linewidth=5, zorder=1, solid_capstyle="round")
    for number, ((name, values), label) in enumerate(zip(columns.items(), labels, strict=True)):
        own = {"color": run_color(number), "marker": _MARKERS[number % len(_MARKERS)]}
        points = [(value, place) for place, value in enumerate(values) if value == value]
        ax.scatter(
            [x for x, _ in points],
            [y for _, y in points],
            **{"s": 46, "edgecolor": ax.get_facecolor(), "linewidth": 0.6, **own, **styles.get(name, {})},
            label=label,
            zorder=2,
        )
