"""Connected components on a GPU by run-based union-find: six launches whose sizes depend on B, H and W alone.

1. ``_runs``: every pixel points at the first pixel of its run of equal class in its row.
2. ``_unions``: runs that touch the row above are joined by hooking the larger root under the smaller one.
3. ``_flatten``: every pixel points straight at its root; roots are counted per block.
4. ``_scan``: counts become offsets, per image.
5. ``_rank``: each root gets its number.
6. ``_relabel``: each pixel gets its root's number.

A root is always its region's first pixel in raster order, since only larger roots are hooked under smaller ones: so the
numbers are the same in every run, although atomics race for them, and the same as every other backend's. Nothing is
read back and nothing depends on the values, so the launches can be captured in a CUDA graph.

Unions and flattening run as programs of one warp: a loop that lasts until every lane is done then costs no barrier.

Why relaxed order suffices. Only ``atomic_min`` writes parents during unions, so the values of a cell form a falling
sequence, and volatile loads give one of them, perhaps an old one.

- Every link leads to a smaller pixel, so each walk ends, and each retry of a join is about a smaller ``high`` than the
  last: no schedule keeps a program from its end.
- No union is lost. Say that two pixels are joined if links that were ever written lead from both to one pixel. Whenever
  a cell takes another value, ``_join`` goes on to join the value before with the new one, both smaller than the cell;
  by induction on the cell, all values that a cell has ever held are joined by the links that remain, and a walk along
  old links ends in a pixel that the newest links join too. ``_join`` ends when both of its walks meet.
- Nothing else is joined: every link connects pixels of one region.

So after the launch each region has one root, and links lead to smaller pixels: it is the first. While ``_flatten``
runs, links are only shortened, to the root itself. Launches wait for each other. ``tests/kernel_interleavings.py`` runs
these very kernels in thousands of orders and with old values.
"""

# mypy cannot see through triton's decorators; the host function below is typed.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from stuffinstance.regions.class_lookup import class_ids_on

_ROW_BLOCK = 256  # pixels of a row that one step of a scan holds
_WARP = 32
_WARPS_OF_PIXELS = 16  # warp-sized steps of one flattening program
_PIXEL_BLOCK = _WARP * _WARPS_OF_PIXELS
_SCAN_BLOCK = 1024


def label(labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None, connectivity: int) -> Tensor:
    """Number regions in raster order of their first pixel, without a read from the device."""
    with torch.cuda.device_of(labels):  # kernels go to the current device, which need not be the labels'
        return _launch(labels.contiguous(), classes, ignore_index, connectivity)


def _launch(labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None, connectivity: int) -> Tensor:
    batch, height, width = labels.shape
    pixels = height * width
    parent = torch.empty(labels.shape, dtype=torch.int32, device=labels.device)
    table = class_ids_on(tuple(classes or ()), labels.device)
    rows = batch * height
    _runs[(rows,)](
        labels,
        table,
        parent,
        width,
        table.numel(),
        0 if ignore_index is None else ignore_index,
        SELECTS=classes is not None,
        IGNORES=ignore_index is not None,
        BLOCK=_ROW_BLOCK,
    )
    steps = triton.cdiv(width, _WARP)  # grids have one dimension throughout: the others end at 65535
    _unions[(rows * steps,)](labels, parent, height, width, steps, EIGHT=connectivity == 8, BLOCK=_WARP, num_warps=1)
    blocks = triton.cdiv(pixels, _PIXEL_BLOCK)
    offsets = torch.empty(batch, blocks, dtype=torch.int32, device=labels.device)
    _flatten[(batch * blocks,)](parent, offsets, pixels, blocks, BLOCK=_WARP, STEPS=_WARPS_OF_PIXELS, num_warps=1)
    _scan[(batch,)](offsets, blocks, BLOCK=_SCAN_BLOCK)
    number = torch.empty_like(parent)
    _rank[(batch * blocks,)](parent, offsets, number, pixels, blocks, BLOCK=_PIXEL_BLOCK)
    out = torch.empty_like(parent)
    _relabel[(triton.cdiv(batch * pixels, _PIXEL_BLOCK),)](parent, number, out, batch * pixels, BLOCK=_PIXEL_BLOCK)
    return out


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _runs(labels, table, parent, width, num_classes, ignored, SELECTS: tl.constexpr, IGNORES: tl.constexpr,
          BLOCK: tl.constexpr):  # fmt: skip
    base = tl.program_id(0).to(tl.int64) * width
    begun = tl.full((), -1, tl.int32)  # first pixel of the run that reaches into this step
    for start in range(0, width, BLOCK):
        x = start + tl.arange(0, BLOCK)  # [BLOCK]
        inside = x < width
        value = tl.load(labels + base + x, mask=inside, other=0).to(tl.int64)
        left = tl.load(labels + base + x - 1, mask=inside & (x > 0), other=0).to(tl.int64)
        begins = inside & ((x == 0) | (value != left))
        first = tl.where(begins, (base + x).to(tl.int32), -1)
        first = tl.maximum(tl.associative_scan(first, 0, _larger), begun)
        begun = tl.max(first, axis=0)
        chosen = inside
        if SELECTS:
            chosen = x < 0
            for k in range(num_classes):
                chosen = chosen | (value == tl.load(table + k))
        if IGNORES:
            chosen = chosen & (value != ignored)
        tl.store(parent + base + x, tl.where(chosen, first, -1), mask=inside)


@triton.jit
def _unions(labels, parent, height, width, steps, EIGHT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) // steps
    base = row.to(tl.int64) * width
    x = tl.program_id(0) % steps * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    inside = x < tl.where(row % height > 0, width, 0)  # nothing is above an image's first row
    pixel = (base + x).to(tl.int32)
    # Volatile since others write there already; they do not change the sign.
    chosen = inside & (tl.load(parent + base + x, mask=inside, other=-1, volatile=True) >= 0)
    here = tl.load(labels + base + x, mask=chosen, other=0)
    has_west = chosen & (x > 0)
    west = has_west & (tl.load(labels + base + x - 1, mask=has_west, other=0) == here)
    north = chosen & (tl.load(labels + base - width + x, mask=chosen, other=0) == here)
    north_west = has_west & (tl.load(labels + base - width + x - 1, mask=has_west, other=0) == here)
    # Where W and NW are of the class too, W's own union has joined the two runs already.
    _join(parent, pixel, pixel - width, north & ~(west & north_west))
    if EIGHT:
        has_east = chosen & (x + 1 < width)
        east = has_east & (tl.load(labels + base + x + 1, mask=has_east, other=0) == here)
        north_east = has_east & (tl.load(labels + base - width + x + 1, mask=has_east, other=0) == here)
        _join(parent, pixel, pixel - width - 1, north_west & ~north & ~west)
        _join(parent, pixel, pixel - width + 1, north_east & ~north & ~east)


@triton.jit
def _root(parent, pixel, active):
    above = tl.load(parent + pixel, mask=active, other=0, volatile=True)
    above = tl.where(active, above, pixel)
    while tl.max((above != pixel).to(tl.int32), axis=0) > 0:
        pixel = above
        above = tl.load(parent + pixel, mask=active, other=0, volatile=True)
        above = tl.where(active, above, pixel)
    return pixel


@triton.jit
def _join(parent, one, other, active):
    one = _root(parent, one, active)
    other = _root(parent, other, active)
    active = active & (one != other)
    while tl.max(active.to(tl.int32), axis=0) > 0:
        high = tl.maximum(one, other)
        low = tl.minimum(one, other)
        before = tl.atomic_min(parent + high, low, mask=active, sem="relaxed")
        # If `high` was still a root it now hangs under `low`. Else it had been hooked under `before` meanwhile, and
        # that link may be the one just displaced: `before` and `low` are what remains to be joined.
        active = active & (before != high)
        one = _root(parent, tl.where(active, before, low), active)
        other = _root(parent, low, active)
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
        root = _root(parent, tl.where(chosen, above, 0), chosen)
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
def _rank(parent, offsets, number, pixels, blocks, BLOCK: tl.constexpr):
    image = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    base = image.to(tl.int64) * pixels
    place = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    inside = place < pixels
    root = tl.load(parent + base + place, mask=inside, other=-1)
    is_root = inside & (root == (base + place).to(tl.int32))
    rank = tl.load(offsets + tl.program_id(0)) + tl.cumsum(is_root.to(tl.int32), axis=0)
    tl.store(number + base + place, rank, mask=is_root)


@triton.jit
def _relabel(parent, number, out, total, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    inside = place < total
    root = tl.load(parent + place, mask=inside, other=-1)
    chosen = root >= 0
    ranked = tl.load(number + tl.where(chosen, root, 0), mask=chosen, other=0)
    tl.store(out + place, ranked, mask=inside)
