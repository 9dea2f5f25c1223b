"""Position of each label in a list of classes: by runs of equal labels on a CPU, by binary search elsewhere.

A street has five to two hundred times fewer runs than pixels, and comparing neighbors to find them and filling memory
to paint them again are cheap.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stuffinstance._backends import register_operator

Integers = NDArray[Any]  # of any integer dtype


class Runs(NamedTuple):
    """Where runs begin and how long they are, in raster order.

    Attributes:
        first: (N,) int64. Flat index of a run's first pixel.
        length: (N,) int64. Its pixels; they sum to the size of the map.
        value: (N,) in the map's dtype. What the pixels hold.
    """

    first: NDArray[np.int64]
    length: NDArray[np.int64]
    value: Integers


def find_runs(rows: Integers) -> Runs:
    """The longest runs of a contiguous map (R, P) with P of at least 1; none reaches into the next row."""
    flat = rows.reshape(-1)
    begins = np.empty(flat.shape, dtype=np.bool_)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])  # over rows' ends too: one long comparison is the fastest
    begins[:: rows.shape[1]] = True
    first = np.flatnonzero(begins)
    length = np.empty_like(first)
    np.subtract(first[1:], first[:-1], out=length[:-1])
    length[-1] = flat.size - first[-1]
    return Runs(first, length, flat[first])


_LARGEST_TABLE = 2**16


@lru_cache(maxsize=256)
def class_ids_on(classes: tuple[int, ...], device: torch.device) -> Tensor:
    """The ids, (C,) int64. Shared between calls: do not write into it."""
    with torch.inference_mode(False):
        return torch.tensor(classes, dtype=torch.int64, device=device)


@lru_cache(maxsize=256)
def _ordered(classes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The ids in rising order and where each stood."""
    with torch.inference_mode(False):
        ids, places = class_ids_on(classes, device).sort()
        return ids, places


@lru_cache(maxsize=256)
def place_after(classes: tuple[int, ...]) -> NDArray[np.int64] | None:
    """The position of id ``i`` at place ``i + 1``, -1 elsewhere and at both ends; None where ids do not suit that."""
    if min(classes, default=0) < 0 or max(classes, default=0) >= _LARGEST_TABLE:
        return None
    table = np.full(max(classes, default=0) + 3, -1, dtype=np.int64)
    table[np.array(classes, dtype=np.int64) + 1] = np.arange(len(classes))
    return table


def class_positions(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Where each label stands in ``classes``, -1 where it does not; one look-up a pixel, whatever the ids.

    Args:
        labels: Class ids of any integer dtype and shape.
        classes: C distinct ids.

    Returns:
        int64, shape of ``labels``.
    """
    positions: Tensor = torch.ops.stuffinstance.class_positions(labels, list(classes))
    return positions


def positions_of(ids: Integers, classes: Sequence[int]) -> NDArray[np.int64]:
    """As :func:`class_positions`, for an array (N,)."""
    classes = tuple(classes)
    wide = ids.astype(np.int64)
    table = place_after(classes)
    if table is not None:
        wide += 1  # beyond the largest id it wraps to the smallest, and both ends of the table say -1
        return table.take(wide, mode="clip")
    ordered, places = (column.numpy() for column in _ordered(classes, torch.device("cpu")))
    found = np.minimum(np.searchsorted(ordered, wide), len(classes) - 1)
    return np.where(ordered[found] == wide, places[found], -1)


def _positions(labels: Tensor, classes: list[int]) -> Tensor:
    if labels.device.type != "cpu" or labels.numel() == 0:
        return searched_positions(labels, classes)
    runs = find_runs(labels.numpy().reshape(1, -1))
    return torch.from_numpy(positions_of(runs.value, classes).repeat(runs.length).reshape(labels.shape))


def searched_positions(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """:func:`class_positions` pixel by pixel on any device, without reading anything back."""
    ids = labels.to(torch.int64).contiguous()
    if not classes:
        return torch.full_like(ids, -1)
    ordered, places = _ordered(tuple(classes), labels.device)
    found = torch.searchsorted(ordered, ids).clamp_(max=len(classes) - 1)
    return torch.where(ordered[found] == ids, places[found], -1)


def _fake_positions(labels: Tensor, classes: list[int]) -> Tensor:
    return torch.empty_like(labels, dtype=torch.int64, memory_format=torch.contiguous_format)


# An operator: a compiler would copy the table into every graph, and warn about the cache.
register_operator("class_positions(Tensor labels, int[] classes) -> Tensor", _positions, _fake_positions)
