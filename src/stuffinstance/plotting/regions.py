"""Regions outlined and numbered, as matching finds them, and their matches in a bank."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stuffinstance._checks import check_choice, check_kind, checked_fraction, checked_positive
from stuffinstance.banks import MemoryBank
from stuffinstance.label_space import LabelSpace
from stuffinstance.losses.matching import Matches
from stuffinstance.plotting.axes import (
    README_WIDTH,
    as_hex,
    axes_on,
    framed,
    inches,
    ink,
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


_WIDTH = 8.0  # inches: the image takes half of them, the table of slots the other half
_ROW = 0.17  # inches, least distance of two rows of the table
_COLUMNS = (1.07, 1.4, 1.8, 1.98)  # where name, slots, slot and distance begin, in widths of the image


class _Row(NamedTuple):
    """A region that is matched: where it is in the image, and to which row of which class."""

    name: str
    color: str
    x: float
    y: float
    slot: int
    filled: int
    distance: float


def plot_matches(
    matches: Matches,
    bank: MemoryBank,
    space: LabelSpace,
    *,
    image: Tensor | None = None,
    item: int = 0,
    most: int = 24,
    ax: Axes | None = None,
) -> Axes:
    """Matched regions of one image, a line from each to its row in the bank, and the distance to that row.

    Beside the image each region has a line of text: class and rank by area, a strip of all slots of the class (shaded
    as far as they are filled) with a mark at the one it is matched to, the slot's number and the distance.

    Args:
        matches: What ``matches(features, labels)`` of a matching loss returned.
        bank: The bank of that loss, as it was then.
        space: Names of the classes.
        image: (B, 3, H', W'), uint8 or floating of 0..1, of any size: drawn in pale gray below the regions.
        item: Which image of the batch.
        most: How many regions are listed at most, the largest ones.
        ax: Where to draw. Default: a new figure.

    Returns:
        The axes. Regions that were not matched (empty bank, rejected by the classifier) are not drawn.

    Raises:
        TypeError: If ``matches`` is not what a matching loss returned.
        ValueError: If bank and matches differ in their classes, or ``item`` or ``most`` is out of range.
        BackendUnavailableError: If matplotlib is not installed.

    Example:
        >>> bank = si.InstanceBank(classes=(0,), feature_dim=1, capacity=4, max_instances=2)
        >>> bank.update(torch.tensor([[[[1.0, 9.0, 5.0]]]]), torch.tensor([[[0, 1, 0]]]))
        >>> loss = si.InstanceMatchingLoss(bank)
        >>> matches = loss.matches(torch.tensor([[[[4.0, 4.0]]]]), torch.tensor([[[0, 0]]]))
        >>> matches.slot, matches.distance
        (tensor([[[ 1, -1]]]), tensor([[[1., 0.]]]))
        >>> ax = plot_matches(matches, bank, LabelSpace(names=("car", "road"), stuff=(1,), things=(0,)))
        >>> [text.get_text() for text in ax.texts]
        ['region', 'slots of its class', 'nearest', 'distance', 'car 1', '1', '1']
    """
    most = checked_positive("most", most)
    check_kind("matches", matches, Matches, "what loss.matches() returns")
    check_kind("bank", bank, MemoryBank)
    check_kind("space", space, LabelSpace)
    if len(bank.classes) != matches.used.shape[1] or max(bank.classes, default=0) >= space.num_classes:
        raise ValueError(
            f"bank must hold the C = {matches.used.shape[1]} classes that were matched, all of the space, "
            f"got {bank.classes}."
        )
    pixels = label_pixels("matches.regions.region_map", matches.regions.region_map, item)
    rows = _rows(matches, bank, space, pixels, item, most)
    height, width = pixels.shape
    step = max(height / max(6, len(rows)), _ROW * width / (0.5 * _WIDTH))
    first = 0.5 * (height - step * (len(rows) - 1))
    ax = axes_on(ax, max(shown_height(pixels.shape, 0.5 * _WIDTH), (len(rows) + 1) * _ROW) + 0.1, _WIDTH)
    show_gray(ax, image, item, matches.used.shape[0], pixels.shape)
    used = np.append(False, np.asarray(matches.used[item].cpu()).ravel())[pixels]
    paint_regions(ax, np.where(used, pixels, 0), np.asarray(matches.regions.ids[item].cpu()), 0.6)
    framed(ax, pixels.shape)
    ax.set(xlim=(0, 2.2 * width), ylim=(max(height, first + step * len(rows)), min(0.0, first - 1.5 * step)))
    if not rows:
        ax.text(1.08 * width, 0.5 * height, "no region is matched", va="center", color=ink().text)
        return ax
    for x, text in zip(_COLUMNS, ("region", "slots of its class", "nearest", "distance"), strict=True):
        ax.text(x * width, first - step, text, va="center", fontsize=8, color=ink().soft)
    places = [first + number * step for number in range(len(rows))]
    for row, place in zip(_uncrossed(rows, places, 1.05 * width), places, strict=True):
        _draw_row(ax, row, place, width, bank.capacity)
    return ax


def _rows(
    matches: Matches, bank: MemoryBank, space: LabelSpace, pixels: NDArray[np.int64], item: int, most: int
) -> list[_Row]:
    """The largest regions that count, from the top of the image to its foot."""
    filled = bank.filled.sum(1).tolist()
    most_per_class = matches.used.shape[2]
    slots, distances = matches.slot[item].flatten().tolist(), matches.distance[item].detach().flatten().tolist()
    used, ids = matches.used[item].flatten().tolist(), np.asarray(matches.regions.ids[item].cpu()).ravel()
    places = middles(pixels)
    chosen = sorted((n for n in places if used[n - 1]), key=lambda n: -places[n].area)[:most]
    rows = []
    for number in sorted(chosen, key=lambda n: places[n].y):
        position, rank = divmod(number - 1, most_per_class)
        name = space.names[bank.classes[position]] + (f" {rank + 1}" if most_per_class > 1 else "")
        color = as_hex(region_colors(ids[number - 1]))
        x, y, _ = places[number]
        rows.append(_Row(name, color, x, y, slots[number - 1], filled[position], distances[number - 1]))
    return rows


def _uncrossed(rows: list[_Row], places: list[float], x: float) -> list[_Row]:
    """The rows in an order in which no two lines to their ``places`` at ``x`` cross.

    Of two lines that cross, the two that join the same ends the other way are shorter together: so swapping ends, and
    an order in which no swap shortens the lines has no crossing.
    """
    order = list(rows)

    def length(row: _Row, place: float) -> float:
        return math.hypot(x - row.x, place - row.y)

    shorter = True
    while shorter:
        shorter = False
        for i, j in itertools.combinations(range(len(order)), 2):
            now = length(order[i], places[i]) + length(order[j], places[j])
            if length(order[j], places[i]) + length(order[i], places[j]) < now - 1e-9:
                order[i], order[j] = order[j], order[i]
                shorter = True
    return order


def _draw_row(ax: Axes, row: _Row, y: float, width: int, capacity: int) -> None:
    """Line, name, strip of slots, slot and distance at height ``y``, on axes whose image is ``width`` wide."""
    name, start, slot, distance = (column * width for column in _COLUMNS)
    length = 0.36 * width
    full, mark = start + length * row.filled / capacity, start + length * (row.slot + 0.5) / capacity
    colors = ink()
    strip: dict[str, Any] = {"linewidth": 6, "solid_capstyle": "butt"}
    ax.plot((row.x, 1.05 * width), (row.y, y), color=row.color, linewidth=1, alpha=0.9)
    ax.plot(row.x, row.y, "o", color=row.color, markeredgecolor="black", markersize=4)
    ax.plot((start, start + length), (y, y), color=colors.pale, **strip)
    ax.plot((start, full), (y, y), color=colors.soft, alpha=0.45, **strip)
    ax.plot(mark, y, "D", color=row.color, markeredgecolor=colors.text, markeredgewidth=0.7, markersize=5)
    for x, text in (
        (name, row.name),
        (slot, str(row.slot)),
        (distance, f"{row.distance:.3g}" if row.distance < 1000 else f"{row.distance:,.0f}"),
    ):
        ax.text(x, y, text, va="center", fontsize=8, color=colors.text)
