"""Ring of S slots per class: index arithmetic on tensors."""

import torch
from torch import Tensor


def ring_write(features: Tensor, written: Tensor, rows: Tensor, position: Tensor, valid: Tensor) -> None:
    """Write rows into the rings of their classes, in order, in place, without a read from the device.

    The n-th row ever written to a class goes to slot n mod S. Of more than S rows of a class in one call only the last
    S are written, where they would have ended up one by one.

    Args:
        features: (C, S, D), contiguous; changed in place.
        written: (C,) int64, rows ever written; changed in place.
        rows: (N, D) in the order of writing.
        position: (N,) int64, the class of each row as its place 0 .. C-1.
        valid: (N,) bool; other rows are not written and do not count.
    """
    classes, slots, channels = features.shape
    if rows.shape[0] == 0 or classes == 0:
        return
    is_of_class = (position[:, None] == torch.arange(classes, device=rows.device)) & valid[:, None]  # (N, C)
    counted = is_of_class.cumsum(0)
    rank = counted.gather(1, position[:, None])[:, 0] - 1  # how many valid rows of the class came before
    count = counted[-1]
    kept = valid & (rank >= count[position] - slots)
    target = position * slots + (written[position] + rank.clamp(min=0)) % slots
    # A fixed-shape scatter has no way to skip a row, so a row that is not kept repeats one that is: the same bits to
    # the same slot. If none is kept, the first slot gets what it holds.
    index = torch.arange(rows.shape[0], device=rows.device)
    repeated = kept.to(torch.uint8).argmax()
    source = torch.where(kept, index, repeated)
    target = torch.where(kept.any(), target[source], 0)
    flat = features.view(classes * slots, channels)
    values = torch.where(kept.any(), rows[source].to(flat.dtype), flat[target])
    flat.index_copy_(0, target, values)
    written += count
