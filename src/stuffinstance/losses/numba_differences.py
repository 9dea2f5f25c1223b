"""Distances of descriptors to bank rows on a CPU, compiled: differences are changed and summed in registers.

Two descriptors meet two rows at a time, so that each number that is loaded serves two differences. That is about as
fast as the processor adds: a distance takes two additions a channel.
"""

# mypy cannot see through numba's decorator; the function that others call is typed.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

import numpy as np
import torch
from torch import Tensor

from stuffinstance._compiled import compiled, over_threads, threads_for

_SLOTS = 64  # rows of one piece of work
_THREADED_VALUES = 2**18


def summed_differences(rows: Tensor, bank: Tensor, *, square: bool) -> Tensor:
    """Sums over channels of the squared or else absolute differences of (C, N, D) and (C, S, D), (C, N, S)."""
    classes, slots, channels = bank.shape
    sums = np.empty((classes, rows.shape[1], slots), dtype=bank.detach().numpy().dtype)
    threads = threads_for(sums.size * channels, _THREADED_VALUES)
    pieces = -(-slots // _SLOTS)
    given = rows.detach().contiguous().numpy(), bank.detach().contiguous().numpy()
    over_threads(_sum_differences, classes * pieces, threads, *given, square, sums)
    return torch.from_numpy(sums)


@compiled(reorder=True)
def _sum_differences(first_piece, last_piece, rows, bank, square, sums):
    count, slots, channels = sums.shape[1], sums.shape[2], rows.shape[2]
    pieces = -(-slots // _SLOTS)
    zero = rows.dtype.type(0)
    for index in range(first_piece, last_piece):
        group, piece = index // pieces, index % pieces
        stop = min((piece + 1) * _SLOTS, slots)
        for i in range(piece * _SLOTS, stop, 2):
            j = min(i + 1, stop - 1)  # the last one twice where they are odd
            one, other = bank[group, i], bank[group, j]
            for k in range(0, count, 2):
                m = min(k + 1, count - 1)
                a, b = rows[group, k], rows[group, m]
                a_one = a_other = b_one = b_other = zero
                if square:
                    for channel in range(channels):
                        a_one += (a[channel] - one[channel]) ** 2
                        a_other += (a[channel] - other[channel]) ** 2
                        b_one += (b[channel] - one[channel]) ** 2
                        b_other += (b[channel] - other[channel]) ** 2
                else:
                    for channel in range(channels):
                        a_one += abs(a[channel] - one[channel])
                        a_other += abs(a[channel] - other[channel])
                        b_one += abs(b[channel] - one[channel])
                        b_other += abs(b[channel] - other[channel])
                sums[group, k, i], sums[group, k, j] = a_one, a_other
                sums[group, m, i], sums[group, m, j] = b_one, b_other
