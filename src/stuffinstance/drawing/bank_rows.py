"""Where the rows of a bank lie relative to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from stuffinstance.arguments import checked_positive
from stuffinstance.banks import MemoryBank
from stuffinstance.drawing.bank_classes import bank_classes
from stuffinstance.drawing.canvas import axes_on, ink
from stuffinstance.drawing.cluster_names import name_clusters
from stuffinstance.drawing.colours import as_hex, class_colours
from stuffinstance.drawing.projection import Rows, principal_axes
from stuffinstance.labelspace import LabelSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_bank_rows(
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
            callable of all rows (N, D) float32 that returns points (N, 2). One that keeps neighbours together is
            ``sklearn.manifold.TSNE(metric="cityblock").fit_transform``.
        rows_per_class: How many rows of a class are drawn at most, evenly spaced over its slots.
        ax: Where to draw. Default: a new figure.

    Returns:
        The axes; of a class without a row nothing is drawn.

    Raises:
        TypeError: If ``banks`` are no banks, or ``projection`` is neither.
        ValueError: If a bank's class is not one of the space, the banks differ in D, ``rows_per_class`` is below 1, or
            a projection does not give (N, 2).
        BackendUnavailableError: If matplotlib is not installed.

    Example:
        >>> space = LabelSpace(names=("road", "car"), stuff=(0,), things=(1,))
        >>> bank = si.StuffBank(classes=(0,), feature_dim=4)
        >>> bank.update(torch.randn(3, 4, 2, 2), torch.zeros(3, 2, 2, dtype=torch.long))
        >>> ax = draw_bank_rows(bank, space)
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
    colours = class_colours(space)
    for one, place in zip(classes, points, strict=True):
        if len(place):
            ax.scatter(
                place[:, 0],
                place[:, 1],
                marker="^" if one.thing else "o",
                s=22,
                color=as_hex(colours[one.number]),
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
