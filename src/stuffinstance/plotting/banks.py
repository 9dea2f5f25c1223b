"""What banks hold, class by class, in the order of the banks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stuffinstance._checks import check_kind, checked_positive
from stuffinstance.banks import MemoryBank
from stuffinstance.label_space import LabelSpace
from stuffinstance.plotting.axes import STUFF_BAR, THING_BAR, as_hex, axes_on, class_colors, ink, whole_figure
from stuffinstance.plotting.class_charts import BAR, name_rows, rows_height

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class BankClass(NamedTuple):
    """One class: its filled rows (n, D) float32 on the host, how many were ever written, how many fit."""

    number: int
    name: str
    thing: bool
    rows: Tensor
    written: int
    capacity: int


def bank_classes(banks: MemoryBank | Sequence[MemoryBank], space: LabelSpace) -> list[BankClass]:
    """The classes of one bank or of several."""
    check_kind("space", space, LabelSpace)
    several = list(banks) if isinstance(banks, Sequence) else [banks]
    for bank in several:
        check_kind("banks", bank, MemoryBank, "a StuffBank, an InstanceBank or several")
        if bank.classes and max(bank.classes) >= space.num_classes:
            raise ValueError(
                f"banks must hold classes of the space, 0..{space.num_classes - 1}, got {bank.classes}. "
                "Pass the space that the banks were made for."
            )
    return [
        BankClass(k, space.names[k], k in space.things, rows[: min(written, bank.capacity)], written, bank.capacity)
        for bank in several
        for k, rows, written in zip(
            bank.classes, bank.features.detach().float().cpu(), bank.written.tolist(), strict=True
        )
    ]


def plot_bank_fill(banks: MemoryBank | Sequence[MemoryBank], space: LabelSpace, *, ax: Axes | None = None) -> Axes:
    """Bar chart of the fraction of filled slots per class.

    The numbers beside it are rows held, slots, and rows ever written. With the preset ``"code"`` a class is matched
    only once it has written more rows than it has slots.

    Args:
        banks: A :class:`~stuffinstance.StuffBank`, an :class:`~stuffinstance.InstanceBank`, or several.
        space: Names of the classes, and which are stuff (circle, blue) and things (triangle, orange).
        ax: Where to draw. Default: a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: If ``banks`` is neither a bank nor a sequence of banks.
        ValueError: If a bank's class is not one of the space.
        BackendUnavailableError: If matplotlib is not installed.

    Example:
        >>> space = LabelSpace(names=("road", "car"), stuff=(0,), things=(1,))
        >>> sim = si.StuffInstanceMatching(space, feature_dim=4)
        >>> ax = plot_bank_fill([sim.stuff_bank, sim.instance_bank], space)
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


Rows = NDArray[np.float64]


def principal_axes(classes: Sequence[Rows]) -> tuple[list[Rows], tuple[float, float]]:
    """Rows (n, D) of each class on the two axes of largest variance, every class weighing the same.

    Returns:
        Points (n, 2) of each class, and the shares of the variance that the two axes hold. Where no two rows differ,
        all points are 0 and so are the shares.
    """
    filled = [rows for rows in classes if len(rows)]
    if not filled:
        return [np.zeros((0, 2)) for _ in classes], (0.0, 0.0)
    center = np.mean([rows.mean(0) for rows in filled], axis=0)
    weighted = np.concatenate([(rows - center) / np.sqrt(len(rows)) for rows in filled])
    _, scale, axes = np.linalg.svd(weighted, full_matrices=False)
    axes = np.pad(axes, ((0, max(0, 2 - len(axes))), (0, 0)))[:2]
    shares = np.pad(scale**2, (0, 2))[:2] / max(float((scale**2).sum()), 1e-12)
    return [(rows - center) @ axes.T for rows in classes], (float(shares[0]), float(shares[1]))


_DISTANCES = (5.0, 10.0, 17.0, 26.0, 38.0, 55.0, 80.0)  # points, from the named point to the name
_DIRECTIONS = np.linspace(0, 2 * np.pi, 16, endpoint=False)


def name_clusters(ax: Axes, clusters: Sequence[tuple[str, Rows]]) -> None:
    """Write each name near the point at its cluster's middle, a line from one to the other.

    Args:
        ax: Axes that already show the points.
        clusters: Name, and points (n, 2), n at least 1.
    """
    if not clusters:
        return
    figure = whole_figure(ax)
    figure.draw_without_rendering()  # so that it is known where the axes come to lie
    points_per_dot = 72 / figure.dpi
    everything = ax.transData.transform(np.concatenate([points for _, points in clusters])) * points_per_dot
    frame = ax.get_window_extent().get_points() * points_per_dot
    taken: list[Rows] = []
    anchors = [_middle(points) for _, points in clusters]
    for place in sorted(range(len(clusters)), key=lambda k: -float(anchors[k][1])):
        name, _ = clusters[place]
        text = ax.annotate(
            name,
            (float(anchors[place][0]), float(anchors[place][1])),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=ink().text,
            bbox={"boxstyle": "round,pad=0.12", "facecolor": ax.get_facecolor(), "edgecolor": "none", "alpha": 0.72},
            arrowprops={"arrowstyle": "-", "color": ink().soft, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 1},
        )
        half = np.array([0.5 * len(name) * 8 * 0.6, 6.0])
        anchor = ax.transData.transform(anchors[place]) * points_per_dot
        offset = _best_offset(anchor, half, everything, frame, taken)
        text.set_position((float(offset[0]), float(offset[1])))
        taken.append(np.stack([anchor + offset - half, anchor + offset + half]))


def _middle(points: Rows) -> Rows:
    """The point nearest to the median: a name must not stand for an empty place between two groups."""
    median = np.median(points, axis=0)
    return np.asarray(points[np.argmin(((points - median) ** 2).sum(1))])


def _best_offset(anchor: Rows, half: Rows, points: Rows, frame: Rows, taken: Sequence[Rows]) -> Rows:
    """From the anchor to the center of the name, in points."""
    candidates = [_beside(half, distance, angle) for distance in _DISTANCES for angle in _DIRECTIONS]
    return min(candidates, key=lambda offset: _cost(anchor, offset, half, points, frame, taken))


def _beside(half: Rows, distance: float, angle: float) -> Rows:
    """To the center of a box whose near side is ``distance`` away."""
    direction = np.array([np.cos(angle), np.sin(angle)])
    return np.asarray(direction * (distance + half))


def _cost(anchor: Rows, offset: Rows, half: Rows, points: Rows, frame: Rows, taken: Sequence[Rows]) -> float:
    """Far from its point is bad, over points worse, out of the frame or over another name worst."""
    low, high = anchor + offset - half, anchor + offset + half
    covered = int(((points > low) & (points < high)).all(1).sum())
    shared = [np.clip(np.minimum(high, other[1]) - np.maximum(low, other[0]), 0, None).prod() for other in taken]
    outside = np.clip(frame[0] - low, 0, None).sum() + np.clip(high - frame[1], 0, None).sum()
    return float(np.hypot(*offset) + 6 * covered + 100 * (outside + sum(shared)))


def plot_bank_rows(
    banks: MemoryBank | Sequence[MemoryBank],
    space: LabelSpace,
    *,
    projection: Literal["pca"] | Callable[[NDArray[np.float32]], Any] = "pca",
    rows_per_class: int = 60,
    ax: Axes | None = None,
) -> Axes:
    """Draw every filled row as a point of a plane, circles for stuff, triangles for things.

    Args:
        banks: A :class:`~stuffinstance.StuffBank`, an :class:`~stuffinstance.InstanceBank`, or several of one width D.
        space: Names and palette of the classes.
        projection: ``"pca"``: the two axes along which the rows differ most, all classes weighing the same; or a
            callable of all rows (N, D) float32 that returns points (N, 2). One that keeps neighbors together is
            ``sklearn.manifold.TSNE(metric="cityblock").fit_transform``.
        rows_per_class: How many rows of a class are drawn at most, evenly spaced over its slots.
        ax: Where to draw. Default: a new figure.

    Returns:
        The axes; of a class without a row nothing is drawn.

    Raises:
        TypeError: If ``banks`` is neither a bank nor a sequence of banks, or ``projection`` is neither.
        ValueError: If a bank's class is not one of the space, the banks differ in D, ``rows_per_class`` is below 1, or
            a projection does not give (N, 2).
        BackendUnavailableError: If matplotlib is not installed.

    Example:
        >>> space = LabelSpace(names=("road", "car"), stuff=(0,), things=(1,))
        >>> bank = si.StuffBank(classes=(0,), feature_dim=4)
        >>> bank.update(torch.randn(3, 4, 2, 2), torch.zeros(3, 2, 2, dtype=torch.long))
        >>> ax = plot_bank_rows(bank, space)
        >>> ax.collections[0].get_offsets().shape, ax.texts[0].get_text()
        ((3, 2), 'road')
    """
    rows_per_class = checked_positive("rows_per_class", rows_per_class)
    classes = bank_classes(banks, space)
    if len({one.rows.shape[1] for one in classes}) > 1:
        raise ValueError("banks must share one feature_dim D to be drawn in one plane. Draw them one by one.")
    samples = [_spaced(one.rows.numpy(), rows_per_class) for one in classes]
    points, axis_names = _project(samples, projection)
    ax = axes_on(ax, 5.6)
    colors = class_colors(space)
    for one, place in zip(classes, points, strict=True):
        if len(place):
            ax.scatter(
                place[:, 0],
                place[:, 1],
                marker="^" if one.thing else "o",
                s=22,
                color=as_hex(colors[one.number]),
                edgecolor=ink().soft,
                linewidth=0.45,
                alpha=0.85,
                label=one.name,
            )
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1])
    ax.tick_params(labelbottom=False, labelleft=False, length=0)
    ax.margins(0.08)
    name_clusters(ax, [(one.name, place) for one, place in zip(classes, points, strict=True) if len(place)])
    return ax


def _spaced(rows: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    if len(rows) <= most:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, most).astype(int)])


def _project(samples: list[NDArray[np.float32]], projection: Any) -> tuple[list[Rows], tuple[str, str]]:
    """Points of each class, and what the axes are called."""
    if isinstance(projection, str) and projection == "pca":
        points, shares = principal_axes([rows.astype(np.float64) for rows in samples])
        first, second = (f"{100 * share:.0f} %" for share in shares)
        return points, (f"first axis, {first} of variance", f"second axis, {second}")
    if not callable(projection):
        raise TypeError(f"projection must be 'pca' or a callable of rows (N, D), got {projection!r}.")
    counts = [len(rows) for rows in samples]
    if not sum(counts):
        return [np.zeros((0, 2)) for _ in samples], ("", "")
    flat = np.asarray(projection(np.concatenate(samples)), dtype=np.float64)
    if flat.shape != (sum(counts), 2):
        raise ValueError(f"projection must give (N, 2) = ({sum(counts)}, 2), got {flat.shape}.")
    return np.split(flat, np.cumsum(counts)[:-1]), ("", "")
