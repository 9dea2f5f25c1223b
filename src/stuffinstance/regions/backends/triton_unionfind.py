"""Connected components on a GPU by run-based union-find: six launches whose sizes depend on B, H and W alone.

1. ``_runs``: every pixel points at the first pixel of its run of equal class within 32 pixels, and gets its class's
   position as a uint8 key (at most 255 classes).
2. ``_unions``: runs that touch the row above, or go on from the 32 pixels before, are joined by hooking the larger root
   under the smaller one.
3. ``_flatten``: every pixel points straight at its root; roots are counted per block.
4. ``_scan``: counts become offsets, per image.
5. ``_rank``: each root gets its number, in its own place.
6. ``_relabel``: each pixel gets its root's number.

A root is always its region's first pixel in raster order, since only larger roots are hooked under smaller ones: so the
numbers are the same in every run, although atomics race for them, and the same as every other backend's. Nothing is
read back and nothing depends on the values, so the launches can be captured in a CUDA graph. All of them work in the
map that is returned; beside it there is a byte a pixel. A cell holds the pixel above it, or -1 outside of all regions;
from ``_rank`` on a root holds -1 - its number.

Unions and flattening run as programs of one warp: a loop that lasts until every lane is done then costs no barrier.

Why relaxed order suffices. Only ``atomic_min`` writes parents during unions, so the values of a cell form a falling
sequence, and volatile loads give one of them, perhaps an old one.

- Every link leads to a smaller pixel, so each walk ends, and each retry of a join is about a smaller ``high`` than the
  last: no schedule keeps a program from its end.
- No union is lost. Say that two pixels are joined if links lead from both to one pixel. By induction on the cell, all
  values that it has ever held are joined by newest links, or will be once all programs have ended. They are smaller
  than the cell, so nothing that a cell holds later takes part in joining what smaller cells held. Where ``_join``
  writes, it goes on to join the value before with the new one. Where ``_root`` halves a path from ``pixel``, the new
  value is one that ``above`` has held, and so joined to ``above``, which ``pixel`` has held, and so to all that it has
  held. Hence a walk along old links ends in a pixel that the newest links join too, and ``_join`` may end when both of
  its walks meet, whatever they have seen.
- Nothing else is joined: every link connects pixels of one region.

So after the launch each region has one root, and links lead to smaller pixels: it is the first. While ``_flatten``
runs, links are only shortened, to the root itself. While ``_relabel`` runs, a root's cell changes from -1 - n to n, and
others read n from both. Launches wait for each other. ``tests/kernel_interleavings.py`` runs these very kernels in
thousands of orders and with old values.
"""

# mypy cannot see through triton's decorators; the host function below is typed.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from stuffinstance.regions.class_lookup import class_ids_on

_MOST_KEYS = 255  # a byte's values but 0
_WARP = 32
_SEGMENTS = 16  # warp-sized parts of one program of `_runs`
_WARPS_OF_PIXELS = 16  # warp-sized steps of one flattening program
_PIXEL_BLOCK = _WARP * _WARPS_OF_PIXELS
_SCAN_BLOCK = 1024


def label(labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None, connectivity: int) -> Tensor:
    """Number regions in raster order of their first pixel, without a read from the device."""
    with torch.cuda.device_of(labels):  # kernels go to the current device, which need not be the labels'
        return _launch(labels.contiguous(), classes, ignore_index, connectivity)


def _launch(labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None, connectivity: int) -> Tensor:
    batch, height, width = labels.shape
    pixels, total = height * width, batch * height * width
    parent = torch.empty(labels.shape, dtype=torch.int32, device=labels.device)
    table = class_ids_on(tuple(classes or ()), labels.device)
    keyed = classes is not None and len(classes) <= _MOST_KEYS
    keys = torch.empty(labels.shape, dtype=torch.uint8, device=labels.device) if keyed else labels
    _runs[(triton.cdiv(total, _WARP * _SEGMENTS),)](  # grids have one dimension throughout: the others end at 65535
        labels,
        table,
        parent,
        keys,
        total,
        width,
        table.numel(),
        0 if ignore_index is None else ignore_index,
        SELECTS=classes is not None,
        IGNORES=ignore_index is not None,
        KEYED=keyed,
        SEGMENTS=_SEGMENTS,
        BLOCK=_WARP,
    )
    _unions[(triton.cdiv(total, _WARP),)](
        keys, parent, total, pixels, width, KEYED=keyed, EIGHT=connectivity == 8, BLOCK=_WARP, num_warps=1
    )
    blocks = triton.cdiv(pixels, _PIXEL_BLOCK)
    offsets = torch.empty(batch, blocks, dtype=torch.int32, device=labels.device)
    _flatten[(batch * blocks,)](parent, offsets, pixels, blocks, BLOCK=_WARP, STEPS=_WARPS_OF_PIXELS, num_warps=1)
    _scan[(batch,)](offsets, blocks, BLOCK=_SCAN_BLOCK)
    _rank[(batch * blocks,)](parent, offsets, pixels, blocks, BLOCK=_PIXEL_BLOCK)
    _relabel[(triton.cdiv(total, _PIXEL_BLOCK),)](parent, total, BLOCK=_PIXEL_BLOCK)
    return parent


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _runs(labels, table, parent, keys, total, width, num_classes, ignored, SELECTS: tl.constexpr,
          IGNORES: tl.constexpr, KEYED: tl.constexpr, SEGMENTS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    start = tl.program_id(0) * (SEGMENTS * BLOCK)
    lane = tl.arange(0, BLOCK)[None, :]
    place = tl.arange(0, SEGMENTS)[:, None] * BLOCK + lane  # [SEGMENTS, BLOCK]
    inside = place < total - start
    value = tl.load(labels + start + place, mask=inside, other=0).to(tl.int64)
    left = tl.load(labels + start + place - 1, mask=inside & (lane > 0), other=0).to(tl.int64)
    begins = (lane == 0) | ((start % width + place) % width == 0) | (value != left)
    first = tl.associative_scan(tl.where(begins, start + place, -1), 1, _larger)
    chosen = inside
    if SELECTS:
        key = tl.zeros((SEGMENTS, BLOCK), tl.int32)
        for k in range(num_classes):
            key = tl.where(value == tl.load(table + k), k + 1, key)
        chosen = chosen & (key > 0)
    if IGNORES:
        chosen = chosen & (value != ignored)
    tl.store(parent + start + place, tl.where(chosen, first, -1), mask=inside)
    if KEYED:
        tl.store(keys + start + place, tl.where(chosen, key, 0).to(tl.uint8), mask=inside)


@triton.jit
def _unions(keys, parent, total, pixels, width, KEYED: tl.constexpr, EIGHT: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0) * BLOCK
    lane = tl.arange(0, BLOCK)  # [BLOCK]
    inside = lane < total - start
    pixel = start + lane
    above = pixel - width
    place = (start % pixels + lane) % pixels  # in its image
    x = place % width
    here = tl.load(keys + pixel, mask=inside, other=0)
    if KEYED:
        chosen = inside & (here > 0)
    else:  # volatile since others write there already; they do not change the sign
        chosen = inside & (tl.load(parent + pixel, mask=inside, other=-1, volatile=True) >= 0)
    has_west = chosen & (x > 0)
    has_north = chosen & (place >= width)
    west = has_west & (tl.load(keys + pixel - 1, mask=has_west, other=0) == here)
    north = has_north & (tl.load(keys + above, mask=has_north, other=0) == here)
    north_west = has_west & has_north & (tl.load(keys + above - 1, mask=has_west & has_north, other=0) == here)
    goes_on = west & (lane == 0)  # a run that the 32 pixels before hold the start of
    joins_north = north & ~(west & north_west)  # where W and NW are of the class too, W's own union has done it
    if EIGHT:
        has_east = chosen & (x + 1 < width)
        east = has_east & (tl.load(keys + pixel + 1, mask=has_east, other=0) == here)
        corner = has_east & has_north
        north_east = corner & (tl.load(keys + above + 1, mask=corner, other=0) == here)
        # No pixel joins both N and NE, nor both W and NW.
        _join(parent, pixel, tl.where(north, above, above + 1), joins_north | (north_east & ~north & ~east))
        _join(parent, pixel, tl.where(west, pixel - 1, above - 1), goes_on | (north_west & ~north & ~west))
    else:
        _join(parent, pixel, above, joins_north)
        _join(parent, pixel, pixel - 1, goes_on)


@triton.jit
def _above(parent, pixel, active):
    found = tl.load(parent + pixel, mask=active, other=0, volatile=True)
    return tl.where(active, found, pixel)


@triton.jit
def _root(parent, pixel, active, HALVES: tl.constexpr):
    above = _above(parent, pixel, active)
    active = active & (above != pixel)
    while tl.max(active.to(tl.int32), axis=0) > 0:
        beyond = _above(parent, above, active)
        active = active & (beyond != above)
        if HALVES:
            tl.atomic_min(parent + pixel, beyond, mask=active, sem="relaxed")
        pixel = beyond
        above = _above(parent, pixel, active)
        active = active & (above != pixel)
    return pixel


@triton.jit
def _join(parent, one, other, active):
    one = _root(parent, one, active, HALVES=True)
    other = _root(parent, other, active, HALVES=True)
    active = active & (one != other)
    while tl.max(active.to(tl.int32), axis=0) > 0:
        high = tl.maximum(one, other)
        low = tl.minimum(one, other)
        before = tl.atomic_min(parent + high, low, mask=active, sem="relaxed")
        # If `high` was still a root it now hangs under `low`. Else it had been hooked under `before` meanwhile, and
        # that link may be the one just displaced: `before` and `low` are what remains to be joined.
        active = active & (before != high)
        one = _root(parent, tl.where(active, before, low), active, HALVES=True)
        other = _root(parent, low, active, HALVES=True)
        active = active & (one != other)


@triton.jit
def _flatten(parent, counts, pixels, blocks, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    image = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    base = image.to(tl.int64) * pixels
    count = tl.zeros((BLOCK,), tl.int32)
    for step in range(STEPS):
        place = block.to(tl.int64) * (BLOCK * STEPS) + step * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
        inside = place < pixels
        pixel = (base + place).to(tl.int32)
        above = tl.load(parent + base + place, mask=inside, other=-1, volatile=True)
        chosen = inside & (above >= 0)
        root = _root(parent, tl.where(chosen, above, 0), chosen, HALVES=False)
        # Others may walk through this very entry meanwhile: a shorter way to the same root is as good.
        tl.store(parent + base + place, root, mask=chosen)
        count += (chosen & (root == pixel)).to(tl.int32)
    tl.store(counts + tl.program_id(0), tl.sum(count, axis=0))


@triton.jit
def _scan(counts, blocks, BLOCK: tl.constexpr):
    base = tl.program_id(0).to(tl.int64) * blocks
    before = tl.zeros((), tl.int32)
    for start in range(0, blocks, BLOCK):
        place = start + tl.arange(0, BLOCK)  # [BLOCK]
        inside = place < blocks
        count = tl.load(counts + base + place, mask=inside, other=0)
        up_to = tl.cumsum(count, axis=0)
        tl.store(counts + base + place, before + up_to - count, mask=inside)
        before += tl.sum(count, axis=0)


@triton.jit
def _rank(parent, offsets, pixels, blocks, BLOCK: tl.constexpr):
    image = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    base = image.to(tl.int64) * pixels
    place = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    inside = place < pixels
    root = tl.load(parent + base + place, mask=inside, other=-1)
    is_root = inside & (root == (base + place).to(tl.int32))
    rank = tl.load(offsets + tl.program_id(0)) + tl.cumsum(is_root.to(tl.int32), axis=0)
    tl.store(parent + base + place, -1 - rank, mask=is_root)


@triton.jit
def _relabel(parent, total, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    inside = place < total
    own = tl.load(parent + place, mask=inside, other=-1)  # a root's index, or what a root holds
    has_root = own >= 0
    held = tl.load(parent + tl.where(has_root, own, 0), mask=has_root, other=0, volatile=True)
    number = tl.where(has_root, held, own)
    tl.store(parent + place, tl.where(number < 0, -1 - number, number), mask=inside)
