"""Connected components and region tables on a CPU by runs of equal labels: labels are read once, results written once.

1. ``_find``: the runs of every row, each its own region; runs that touch one of their class in the row above are joined
   by hooking the region that begins later under the one that begins earlier.
2. ``_number`` or ``_rank``: a region's first run is the one that hangs under itself, so numbering these in order
   numbers regions in raster order of their first pixel. ``_rank`` sums areas on the way, and ranks them.
3. ``_paint``: each run's number or row is written to its pixels.

Where a run begins and under which it hangs is kept in tables of all images together. Large images are cut into strips
of rows, so that threads share them. The runs of a strip begin in the tables at the place of its first pixel, where
there is room for all of them.
"""

# mypy cannot see through numba's decorator; the functions of the table are typed.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stuffinstance._compiled import compiled, over_threads, threads_for, unsigned
from stuffinstance.regions.class_lookup import class_positions, place_after

_THREADED_PIXELS = 2**16
_STEP = 16  # pixels that are compared at a time


class _Runs(NamedTuple):
    """The joined runs of a batch (B, H, W), whose images are cut into S strips each; N = B * H * W.

    Attributes:
        start: (N + 1,) int32. A run's first pixel, counted through the batch; behind a strip's last run where it ends.
        parent: (N + 1,) int32. The run that it hangs under, -1 where it belongs to no region, ``-2 - i`` where all
            pixels of its class are one region, whose row is i.
        position: (N + 1,) int32. The place of its class, -1 for none.
        first: (B, S + 1) int64. The first pixel of each strip, which is also its first run; then where the image ends.
        stop: (B, S) int64. Behind the last run of each strip.
    """

    start: NDArray[np.int32]
    parent: NDArray[np.int32]
    position: NDArray[np.int32]
    first: NDArray[np.int64]
    stop: NDArray[np.int64]


def label(labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None, connectivity: int) -> Tensor:
    """Number regions in raster order of their first pixel."""
    runs = _joined_runs(labels, classes, ignore_index, connectivity, 0)
    over_threads(_number, labels.shape[0], _threads(labels), runs.parent, runs.first, runs.stop)
    return _painted(runs, labels)


def region_tables(
    labels: Tensor,
    stuff: Sequence[int],
    things: Sequence[int],
    ignore_index: int | None,
    max_regions: int,
    connectivity: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`stuffinstance.regions.cpu_table.region_tables`, everything from the runs alone."""
    batch, table = labels.shape[0], (labels.shape[0], len(things), max_regions)
    runs = _joined_runs(labels, (*stuff, *things), ignore_index, connectivity, len(stuff))
    area = np.zeros((batch, len(stuff)), dtype=np.int64)
    ids, areas = np.zeros(table, dtype=np.int32), np.zeros(table, dtype=np.int64)
    over_threads(_rank, batch, _threads(labels), *runs, area, ids, areas)
    return _painted(runs, labels), torch.from_numpy(area), torch.from_numpy(ids), torch.from_numpy(areas)


def _threads(labels: Tensor) -> int:
    return threads_for(labels.numel(), _THREADED_PIXELS)


def _joined_runs(
    labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None, connectivity: int, stuff: int
) -> _Runs:
    """Runs that hang under the first of their region; of the first ``stuff`` classes each is one region."""
    places: NDArray[np.int64] | None = np.empty(0, dtype=np.int64)
    if classes is not None:
        places = place_after(tuple(classes))
        if places is None:  # ids that are negative or large: their places take their part
            ignore_index = classes.index(ignore_index) if ignore_index in classes else None
            labels, places = class_positions(labels, classes), np.append(np.arange(-1, len(classes)), -1)
    batch, height, width = labels.shape
    threads = _threads(labels)
    strips = min(height, -(-threads // batch))
    flat = np.ascontiguousarray(labels.numpy()).reshape(-1)
    start, parent, position = np.empty((3, flat.size + 1), dtype=np.int32)
    runs = _Runs(start, parent, position, _strips(batch, height, width, strips), np.empty((batch, strips), np.int64))
    reach = 1 if connectivity == 8 else 0
    ignored = 0 if ignore_index is None else ignore_index
    choice = places, ignore_index is not None, ignored, stuff
    over_threads(_find, batch * strips, threads, flat, width, *choice, reach, *runs)
    if strips > 1:
        over_threads(_stitch, batch, threads, flat, width, reach, *runs)
    return runs


@lru_cache(maxsize=64)
def _strips(batch: int, height: int, width: int, strips: int) -> NDArray[np.int64]:
    first: NDArray[np.int64] = (np.arange(batch)[:, None] * height + np.arange(strips + 1) * height // strips) * width
    first.flags.writeable = False
    return first


def _painted(runs: _Runs, labels: Tensor) -> Tensor:
    """What stands in the place of parents, on every pixel of the runs, (B, H, W) int32."""
    out = np.empty(labels.numel(), dtype=np.int32)
    over_threads(_paint, runs.stop.size, _threads(labels), runs.start, runs.parent, runs.first, runs.stop, out)
    return torch.from_numpy(out.reshape(labels.shape))


@compiled
def _find(
    first_strip, last_strip, labels, width, places, ignores, ignored, stuff, reach, start, parent, position, first, stop
):
    strips = stop.shape[1]
    for strip in range(first_strip, last_strip):
        image, part = strip // strips, strip % strips
        pixel = above = run = first[image, part]
        while pixel < first[image, part + 1]:
            here = run
            run = _runs_of_row(labels, pixel, pixel + width, start, here)
            pixel += width
            start[run] = pixel
            for new in range(here, run):
                place = _place(labels[unsigned(start[unsigned(new)])], places, ignores, ignored)
                position[unsigned(new)] = place
                parent[unsigned(new)] = new if place >= stuff else -2 - place
            _join_rows(labels, width, reach, start, parent, above, here, here, run)
            above = here
        stop[image, part] = run


@compiled
def _place(value, places, ignores, ignored):
    """The place of a class, -1 where it is not asked for; 0 for any where all are."""
    number = np.int64(value)
    if ignores and number == ignored:
        return -1
    if places.size == 0:
        return 0
    if 0 <= number < places.size - 1:  # number + 1 of the largest one is negative
        return places[unsigned(number + 1)]
    return -1


@compiled
def _runs_of_row(labels, pixel, row_end, start, run):
    """Write where the runs of a row begin, from place ``run`` on; returns the place behind the last.

    Among pixels that are not all equal each writes itself to the next place, which only a new label moves on: there is
    no branch that the processor could guess wrong.
    """
    start[unsigned(run)] = pixel
    run += 1
    pixel += 1
    while pixel + _STEP <= row_end:
        value = labels[unsigned(pixel - 1)]
        different = value ^ value
        for step in range(_STEP):
            different |= labels[unsigned(pixel + step)] ^ value
        if different != 0:
            for step in range(_STEP):
                start[unsigned(run)] = pixel + step
                run += labels[unsigned(pixel + step)] != labels[unsigned(pixel + step - 1)]
        pixel += _STEP
    while pixel < row_end:
        start[unsigned(run)] = pixel
        run += labels[unsigned(pixel)] != labels[unsigned(pixel - 1)]
        pixel += 1
    return run


@compiled
def _join_rows(labels, width, reach, start, parent, above, above_stop, here, stop):
    """Join runs ``here .. stop - 1`` of a row to those of their class that they touch in the row above."""
    for run in range(here, stop):
        left, right = start[unsigned(run)] - width - reach, start[unsigned(run + 1)] - width + reach
        while above < above_stop and start[unsigned(above + 1)] <= left:
            above += 1
        if parent[unsigned(run)] < 0:
            continue
        value, near = labels[unsigned(start[unsigned(run)])], above
        while near < above_stop and start[unsigned(near)] < right:
            if parent[unsigned(near)] >= 0 and labels[unsigned(start[unsigned(near)])] == value:
                one, other = _root(parent, near), _root(parent, run)
                parent[unsigned(max(one, other))] = min(one, other)
            near += 1


@compiled
def _root(parent, run):
    above = parent[unsigned(run)]
    while above != run:
        parent[unsigned(run)] = run = parent[unsigned(above)]
        above = parent[unsigned(run)]
    return run


@compiled
def _stitch(first_image, last_image, labels, width, reach, start, parent, position, first, stop):
    """Join the strips of an image."""
    for image in range(first_image, last_image):
        for part in range(1, stop.shape[1]):
            here = row_stop = first[image, part]
            while row_stop < stop[image, part] and start[row_stop] < here + width:
                row_stop += 1
            above = above_stop = stop[image, part - 1]
            while above > first[image, part - 1] and start[above - 1] >= here - width:
                above -= 1
            _join_rows(labels, width, reach, start, parent, above, above_stop, here, row_stop)


@compiled
def _number(first_image, last_image, parent, first, stop):
    """Put the number of its region in the place of every run's parent."""
    for image in range(first_image, last_image):
        found = 0
        for part in range(stop.shape[1]):
            for run in range(first[image, part], stop[image, part]):
                if parent[run] == run:
                    found += 1
                    parent[run] = found
                elif parent[run] >= 0:
                    parent[run] = parent[parent[run]]


@compiled
def _rank(first_image, last_image, start, parent, position, first, stop, stuff_area, ids, areas):
    """Number as above, fill the tables, and put the row of its region in the place of every run's parent."""
    stuff, things, most = stuff_area.shape[1], ids.shape[1], ids.shape[2]
    for image in range(first_image, last_image):
        runs = 0
        for part in range(stop.shape[1]):
            runs += stop[image, part] - first[image, part]
        area, slot = np.empty(runs + 1, dtype=np.int64), np.empty(runs + 1, dtype=np.int32)
        regions = 0
        for part in range(stop.shape[1]):
            for run in range(first[image, part], stop[image, part]):
                length = start[run + 1] - start[run]
                if parent[run] == run:
                    regions += 1
                    parent[run] = regions
                    area[regions], slot[regions] = length, position[run] - stuff
                elif parent[run] >= 0:
                    parent[run] = parent[parent[run]]
                    area[parent[run]] += length
                elif parent[run] < -1:
                    stuff_area[image, -2 - parent[run]] += length
        held = np.zeros(things, dtype=np.int64)
        for region in range(1, regions + 1):
            place = slot[region]
            _keep_largest(ids[image, place], areas[image, place], held[place], region, area[region])
            held[place] += 1
        row = np.zeros(regions + 1, dtype=np.int32)
        for place in range(things):
            count = min(held[place], most)
            _sort_falling(ids[image, place], areas[image, place], count)
            for rank in range(count):
                row[ids[image, place, rank]] = stuff + place * most + rank + 1
        for part in range(stop.shape[1]):
            for run in range(first[image, part], stop[image, part]):
                if parent[run] > 0:
                    parent[run] = row[parent[run]]


@compiled
def _keep_largest(ids, areas, count, region, area):
    """Put a region into a class's table of the largest (Z,), a heap once it is full: the smallest of them is first."""
    most = ids.size
    if count < most:
        ids[count], areas[count] = region, area
        if count + 1 == most:
            for place in range(most // 2 - 1, -1, -1):
                _sink(ids, areas, place, most)
    elif area > areas[0]:  # an equal one comes later in raster order
        ids[0], areas[0] = region, area
        _sink(ids, areas, 0, most)


@compiled
def _sort_falling(ids, areas, count):
    """Heap sort: the smallest goes to the end, again and again."""
    for place in range(count // 2 - 1, -1, -1):
        _sink(ids, areas, place, count)
    for last in range(count - 1, 0, -1):
        _swap(ids, areas, 0, last)
        _sink(ids, areas, 0, last)


@compiled
def _sink(ids, areas, place, count):
    """Move a region down below those that are smaller, or as large and later in raster order."""
    while 2 * place + 1 < count:
        below = 2 * place + 1
        if below + 1 < count and _is_less(ids, areas, below + 1, below):
            below += 1
        if not _is_less(ids, areas, below, place):
            return
        _swap(ids, areas, place, below)
        place = below


@compiled
def _is_less(ids, areas, one, other):
    return areas[one] < areas[other] or (areas[one] == areas[other] and ids[one] > ids[other])


@compiled
def _swap(ids, areas, one, other):
    ids[one], ids[other] = ids[other], ids[one]
    areas[one], areas[other] = areas[other], areas[one]


@compiled
def _paint(first_strip, last_strip, start, parent, first, stop, out):
    strips = stop.shape[1]
    for strip in range(first_strip, last_strip):
        for run in range(first[strip // strips, strip % strips], stop[strip // strips, strip % strips]):
            value = parent[run] if parent[run] >= 0 else -1 - parent[run]
            for pixel in range(unsigned(start[run]), unsigned(start[run + 1])):
                out[pixel] = value
