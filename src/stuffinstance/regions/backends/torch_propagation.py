"""Connected components in plain torch on any device: union-find by hooking and pointer jumping, to a fixed point.

Each pixel points at a pixel of its region with a smaller or equal raster index. A round hooks the root of every
neighbor pair's larger root under the smaller one, then shortens all paths; it ends when no pair has two roots. Only
larger roots are hooked, so the last root of a region is its first pixel in raster order: numbering the roots in order
numbers the regions as every other backend does. The loop's end is a question to the device, so this backend waits for
it once or more a call; that is the price of exactness without a kernel of its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from stuffinstance.regions.class_lookup import class_positions

_INT32_VALUES = 2**31


def label(labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None, connectivity: int) -> Tensor:
    """Number regions in raster order of their first pixel."""
    values = _one_based(labels, classes, ignore_index)
    flat = values.reshape(-1)
    first, second = _neighbor_pairs(values, connectivity)
    parent = torch.arange(flat.numel(), device=values.device)
    while first.numel():
        one, other = parent[first], parent[second]
        apart = one != other
        first, second, one, other = first[apart], second[apart], one[apart], other[apart]
        parent.scatter_reduce_(0, torch.maximum(one, other), torch.minimum(one, other), "amin")
        parent = _shorten(parent)
    roots = (parent == torch.arange(flat.numel(), device=values.device)) & (flat != 0)
    ranks = roots.view(values.shape[0], -1).cumsum(1, dtype=torch.int32).view(-1)
    return torch.where(flat != 0, ranks[parent], 0).view(values.shape)


def _one_based(labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None) -> Tensor:
    """(B, H, W) int32, contiguous: 0 for what is not to be numbered, different from 1 on where the ids differ.

    No id can be taken for the background, whatever the dtype and the ignored id.
    """
    ids = labels.to(torch.int64).contiguous()
    shifted = _above_zero(ids) if classes is None else class_positions(ids, classes) + 1
    if ignore_index is not None:
        shifted = torch.where(ids != ignore_index, shifted, 0)
    return shifted.to(torch.int32)


def _above_zero(ids: Tensor) -> Tensor:
    lowest, highest = (int(bound) for bound in torch.aminmax(ids))
    if highest - lowest < _INT32_VALUES - 1:
        return ids - (lowest - 1)
    inverse: Tensor = torch.unique(ids, return_inverse=True)[1]
    return inverse + 1


def _neighbor_pairs(values: Tensor, connectivity: int) -> tuple[Tensor, Tensor]:
    """Raster indices of all neighboring pixels of the same class, each pair once."""
    index = torch.arange(values.numel(), device=values.device).view(values.shape)
    windows = [
        (slice(None), slice(1, None), slice(None), slice(-1)),
        (slice(1, None), slice(None), slice(-1), slice(None)),
    ]
    if connectivity == 8:
        windows.append((slice(1, None), slice(1, None), slice(-1), slice(-1)))
        windows.append((slice(1, None), slice(-1), slice(-1), slice(1, None)))
    firsts, seconds = [], []
    for rows, columns, near_rows, near_columns in windows:
        here, near = values[:, rows, columns], values[:, near_rows, near_columns]
        same = (here == near) & (here != 0)
        firsts.append(index[:, rows, columns][same])
        seconds.append(index[:, near_rows, near_columns][same])
    return torch.cat(firsts), torch.cat(seconds)


def _shorten(parent: Tensor) -> Tensor:
    """Point every pixel straight at its root."""
    while True:
        grandparent = parent[parent]
        if torch.equal(grandparent, parent):
            return parent
        parent = grandparent
