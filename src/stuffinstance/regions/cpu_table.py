"""Region tables on a CPU: everything that is the same along a run is worked out once a run, then painted."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stuffinstance.regions.class_lookup import Runs, find_runs, positions_of

Number = Callable[[Tensor], Tensor]
"""Values (B, H, W), 0 the background, to the numbers of their regions, int32."""


def class_areas(labels: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Map (B, H, W) int32, 1 + position of the class and 0 for other ids; area (B, C) int64."""
    batch, slots = labels.shape[0], len(classes)
    rows = labels.numpy().reshape(batch, -1)
    runs = find_runs(rows)
    number = positions_of(runs.value, classes) + 1
    cell = runs.first // rows.shape[1] * (slots + 1) + number
    area = _total(runs.length, cell, batch * (slots + 1)).reshape(batch, slots + 1)
    region_map = number.astype(np.int32).repeat(runs.length).reshape(labels.shape)
    return torch.from_numpy(region_map), torch.from_numpy(area[:, 1:].copy())


def region_tables(
    labels: Tensor,
    stuff: Sequence[int],
    things: Sequence[int],
    ignore_index: int | None,
    max_regions: int,
    number: Number,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tables of one region per stuff class and the Z largest regions of each thing class.

    Returns:
        The map (B, H, W) int32 of stuff classes and behind them things, areas of stuff (B, C) int64, ids (B, C', Z)
        int32 and areas (B, C', Z) int64 of things.
    """
    batch, height, width = labels.shape
    first = len(stuff)
    runs = find_runs(labels.numpy().reshape(-1, width))  # they end with the row, so each lies in one region
    position = positions_of(runs.value, (*stuff, *things))
    if ignore_index is not None:
        position[runs.value == ignore_index] = -1
    row, ids, areas = _largest(runs, np.maximum(position - first, -1), labels.shape, len(things), max_regions, number)
    is_stuff = position < first
    row = np.where(is_stuff, position + 1, np.where(row > 0, row + first, 0)).astype(np.int32)
    cell = runs.first // (height * width) * (first + 1) + np.where(is_stuff, row, 0)
    area = _total(runs.length, cell, batch * (first + 1)).reshape(batch, first + 1)
    region_map = row.repeat(runs.length).reshape(labels.shape)
    stuff_area = area[:, 1:].copy()
    return torch.from_numpy(region_map), torch.from_numpy(stuff_area), torch.from_numpy(ids), torch.from_numpy(areas)


def _largest(
    runs: Runs, position: NDArray[np.int64], size: torch.Size, slots: int, max_regions: int, number: Number
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Row of each run in the table of the Z largest regions, from 1 on; ids and areas (B, C, Z) of these.

    ``position`` (N,) is the place of each run's class, -1 for none.
    """
    batch, pixels = size[0], size[1] * size[2]
    values = (position + 1).astype(np.min_scalar_type(slots)).repeat(runs.length).reshape(size)
    cell = number(torch.from_numpy(values)).numpy().reshape(-1)[runs.first].astype(np.int64)
    cells = int(cell.max()) + 1  # of an image's table: no region, then regions 1, 2, ...
    if batch > 1:
        cell += runs.first // pixels * cells
    area = _total(runs.length, cell, batch * cells)
    slot = np.full(batch * cells, -1, dtype=np.int64)
    slot[cell] = position  # all runs of a region agree
    region = np.flatnonzero(slot >= 0)  # in raster order, image after image
    group = region // cells * slots + slot[region]
    # By image and class, then by falling area; stable, so ties stay in raster order.
    order = (group * (pixels + 1) - area[region]).argsort(kind="stable")
    region, group = region[order], group[order]
    rank = np.arange(region.size) - np.searchsorted(group, group)
    kept = rank < max_regions
    region, place = region[kept], (group * max_regions + rank)[kept]
    shape = (batch, slots, max_regions)
    ids = np.zeros(shape, dtype=np.int32)
    ids.reshape(-1)[place] = region % cells
    areas = np.zeros(shape, dtype=np.int64)
    areas.reshape(-1)[place] = area[region]
    row = np.zeros(batch * cells, dtype=np.int32)
    row[region] = place % max(1, slots * max_regions) + 1
    return row[cell], ids, areas


def _total(length: NDArray[np.int64], cell: NDArray[np.int64], cells: int) -> NDArray[np.int64]:
    """Pixels per cell. The sums are float64, which is exact below 2^53."""
    return np.bincount(cell, weights=length, minlength=cells).astype(np.int64)
