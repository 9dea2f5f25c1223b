"""IoU per class, of one run or of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stuffinstance.arguments import check_kind
from stuffinstance.drawing.canvas import axes_on, ink
from stuffinstance.drawing.class_rows import BAR, checked_rows, name_rows, rows_height
from stuffinstance.drawing.colours import STUFF_BAR, THING_BAR, run_colour
from stuffinstance.drawing.legends import add_legend, legend_shape
from stuffinstance.labelspace import LabelSpace
from stuffinstance.mean_iou import IoU

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vPX*"


def draw_iou(
    scores: IoU | Mapping[str, IoU],
    space: LabelSpace,
    *,
    classes: Sequence[int | str] | None = None,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the IoU of every class in percent.

    One run is a bar for each class. Several are a mark each on the row of the class, on a pale bar from the lowest to
    the highest, which stays readable where bars side by side would not.

    Args:
        scores: What ``MeanIoU.compute()`` returned, or several by the name of the run, in the order to list them.
        space: Names of the K classes.
        classes: Ids or names to draw, from top to bottom. Default: all.
        styles: Of some runs by name: arguments of ``Axes.scatter``, such as ``{"sim": {"marker": "D"}}``. Default:
            colours that the colour-blind tell apart, each with a marker of its own.
        ax: Where to draw. Default: a new figure.

    Returns:
        The axes. A class that never occurs has ``–`` in place of a bar, or no mark.

    Raises:
        TypeError: If a score is no :class:`~stuffinstance.IoU`.
        ValueError: If there is no score, one is not of K classes, or ``classes`` are not ids of the space.
        BackendUnavailableError: If matplotlib is not installed.

    Example:
        >>> space = LabelSpace(names=("road", "car"), stuff=(0,), things=(1,))
        >>> before, after = IoU(0.5, torch.tensor([0.75, 0.25])), IoU(0.625, torch.tensor([0.75, 0.5]))
        >>> [text.get_text() for text in draw_iou(before, space).texts]
        ['75.0', '25.0']
        >>> ax = draw_iou({"source": before, "sim": after}, space)
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
        inside = end > 90  # where there is no room on the right
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
        own = {"color": run_colour(number), "marker": _MARKERS[number % len(_MARKERS)]}
        points = [(value, place) for place, value in enumerate(values) if value == value]
        ax.scatter(
            [x for x, _ in points],
            [y for _, y in points],
            **{"s": 46, "edgecolor": ax.get_facecolor(), "linewidth": 0.6, **own, **styles.get(name, {})},
            label=label,
            zorder=2,
        )
