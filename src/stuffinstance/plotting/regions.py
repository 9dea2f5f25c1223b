"""Regions outlined and numbered, as matching finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stuffinstance._checks import check_choice, check_kind, checked_fraction
from stuffinstance.plotting.axes import (
    README_WIDTH,
    axes_on,
    framed,
    inches,
    label_pixels,
    region_colors,
    show,
    show_gray,
    shown_height,
)
from stuffinstance.regions import Regions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FONT = 8.0  # points, of the numbers


class Middle(NamedTuple):
    """Where a region can be pointed at, and its pixels."""

    x: float
    y: float
    area: int


def plot_regions(
    regions: Regions,
    *,
    image: Tensor | None = None,
    item: int = 0,
    number: Literal["ids", "rank"] | None = "ids",
    opacity: float = 0.6,
    ax: Axes | None = None,
) -> Axes:
    """Outlined and numbered regions of one image.

    Args:
        regions: From :func:`~stuffinstance.stuff_regions` or :func:`~stuffinstance.instance_regions`.
        image: (B, 3, H', W'), uint8 or floating of 0..1, of any size: drawn in pale gray below the regions.
        item: Which image of the batch.
        number: What is written on a region that has room for it: its number in ``regions.ids``, its rank by area
            within the class from 1 on, or nothing.
        opacity: Of the regions' colors, 0..1: eight in turn by id, so most neighbors differ. 0 only outlines.
        ax: Where to draw. Default: a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: If ``regions`` is not :class:`~stuffinstance.Regions`.
        ValueError: If the image does not fit, or ``item``, ``number`` or ``opacity`` is out of range.
        BackendUnavailableError: If matplotlib is not installed.

    Example:
        >>> regions = si.instance_regions(torch.tensor([[[5, 5, 0, 0, 5]] * 3]), classes=(5,))
        >>> [text.get_text() for text in plot_regions(regions).texts]
        ['1', '2']
    """
    check_kind("regions", regions, Regions, "Regions, as instance_regions returns")
    if number is not None:
        check_choice("number", number, ("ids", "rank"), " or None")
    opacity = checked_fraction("opacity", opacity)
    rows = label_pixels("regions.region_map", regions.region_map, item)
    ids = np.asarray(regions.ids[item].cpu())
    ax = axes_on(ax, shown_height(rows.shape, README_WIDTH) + 0.1)
    show_gray(ax, image, item, regions.region_map.shape[0], rows.shape)
    paint_regions(ax, rows, ids, opacity)
    framed(ax, rows.shape)
    if number is not None:
        texts = ids if number == "ids" else np.broadcast_to(np.arange(1, ids.shape[1] + 1), ids.shape)
        _write_numbers(ax, rows, texts.ravel())
    return ax


def paint_regions(ax: Axes, rows: NDArray[np.int64], ids: NDArray[np.int32], opacity: float) -> None:
    """Tint and outline the regions of a map (H, W) that holds 0, or 1 + the place of a region in ``ids``."""
    from matplotlib.collections import LineCollection

    inside = rows > 0
    tint = np.zeros((*rows.shape, 4), dtype=np.uint8)
    tint[inside, :3] = region_colors(ids.ravel()[rows[inside] - 1])
    tint[inside, 3] = round(255 * opacity)
    show(ax, tint, (rows.shape[0], rows.shape[1]), interpolation="nearest")
    edges = list(_edges(rows))
    for color, width in (("black", 1.9), ("white", 0.9)):
        ax.add_collection(LineCollection(edges, colors=color, linewidths=width, capstyle="round"), autolim=False)


def _edges(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sides between pixels of different regions, (E, 2, 2) with x before y: lines that hide no pixel."""
    padded = np.pad(rows, 1)
    y, x = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    level = np.stack([np.stack([x, y], 1), np.stack([x + 1, y], 1)], 1)
    y, x = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    upright = np.stack([np.stack([x, y], 1), np.stack([x, y + 1], 1)], 1)
    return np.concatenate([level, upright])


def middles(rows: NDArray[np.int64]) -> dict[int, Middle]:
    """Of each region number the pixel to write on: well inside, and of those the nearest to the region's mean."""
    y, x = np.nonzero(rows)
    numbers, depth = rows[y, x], _depth(rows)[y, x]
    order = np.argsort(numbers, kind="stable")
    found = {}
    for places in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
        if len(places):
            inner = places[depth[places] >= 0.8 * depth[places].max()]
            from_mean = (x[inner] - x[places].mean()) ** 2 + (y[inner] - y[places].mean()) ** 2
            one = inner[np.argmin(from_mean)]
            found[int(numbers[one])] = Middle(x[one] + 0.5, y[one] + 0.5, len(places))
    return found


def _depth(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels of the same number to the nearest end, looking up, down, left and right."""
    depths = []
    for turn in range(4):
        turned = np.rot90(rows, turn)
        line = np.arange(len(turned))[:, None]
        starts = np.concatenate([np.ones_like(turned[:1], dtype=bool), turned[1:] != turned[:-1]])
        since = line - np.maximum.accumulate(np.where(starts, line, 0), axis=0)
        depths.append(np.rot90(since, -turn))
    return np.asarray(np.minimum.reduce(depths))


def _write_numbers(ax: Axes, rows: NDArray[np.int64], texts: NDArray[np.int32]) -> None:
    from matplotlib.patheffects import withStroke

    width, height = inches(ax)
    points = 72 * min(width / rows.shape[1], height / rows.shape[0])  # of a pixel's side
    for number, (x, y, area) in middles(rows).items():
        if area * points**2 >= 0.6 * _FONT**2:
            text = ax.text(x, y, str(texts[number - 1]), ha="center", va="center", fontsize=_FONT, color="white")
            text.set_path_effects([withStroke(linewidth=2, foreground="black")])
