"""Sums of regions on a CPU by runs of pixels of one region, and their gradient.

NCHW features are read eight channels at a time: a run's pixels are added up for all eight together, eight additions
that need not wait for each other, which costs no more than reading. Channels-last features are read pixel by pixel,
each thread its own channels. Sums are float32 within a run of at most 256 pixels and float64 beyond, in a fixed order:
the same bits in every run of the program, whatever the number of threads.
"""

# mypy cannot see through numba's decorator; the functions of the table are typed.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stuffinstance._compiled import compiled, over_threads, threads_for, unsigned
from stuffinstance._numerics import float_dtype
from stuffinstance.pooling.backends.torch_sums import BLOCK_VALUES, MOST_TERMS, added_sums, lies_in_rows

_ADDED = 8  # channels accumulated per pass
_WRITTEN = 4  # channels written per pass; more would conflict in the cache
_THREADED_VALUES = 2**18
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Runs(NamedTuple):
    """The runs of equal region numbers of a batch (B, P); those of an image begin at the place of its first pixel.

    Attributes:
        first: (B, P + 1) int32. A run's first pixel; behind the last run P.
        slot: (B, P + 1) int32. Its region among those of the image, in the order of their first pixels
            from 1 on, 0 for none.
        region: (B, P + 1) int32. The number of each such region.
        counts: (B, 2) int64. Runs, and regions with pixels, of each image.
    """

    first: NDArray[np.int32]
    slot: NDArray[np.int32]
    region: NDArray[np.int32]
    counts: NDArray[np.int64]


def region_sums(features: Tensor, number: Tensor, num_regions: int) -> Tensor:
    """Features (B, D, h, w) and region numbers (B, P) to sums (B, D, R) float32, or float64 for float64 features.

    Channels-last features of half precision are added up by torch.
    """
    batch, channels = features.shape[:2]
    exact = float_dtype(features)
    in_rows = lies_in_rows(features)
    if in_rows and features.dtype != exact:
        return added_sums(features, number, num_regions)
    sums = torch.zeros(batch, channels, num_regions, dtype=exact)
    if sums.numel() == 0 or number.numel() == 0:
        return sums
    runs, out = _runs(number, num_regions), sums.numpy()
    if in_rows:
        rows = features.permute(0, 2, 3, 1).flatten(1, 2).numpy()
        over_threads(_add_rows, channels, _threads(features), rows, *runs, out)
        return sums
    as_it_is = features.is_contiguous() and features.dtype == exact
    step = channels if as_it_is else max(_ADDED, BLOCK_VALUES // number.numel())
    for start in range(0, channels, step):
        block = features[:, start : start + step].flatten(2).to(exact).contiguous().numpy()
        groups = batch * -(-block.shape[1] // _ADDED)
        over_threads(_add_channels, groups, _threads(features), block, start, *runs, out)
    return sums


def spread(gradient: Tensor, number: Tensor) -> Tensor:
    """Gradient (B, D, R) of sums and region numbers (B, P) to that of the features, (B, D, P) of its dtype."""
    out = torch.empty(*gradient.shape[:2], number.shape[1], dtype=gradient.dtype)
    if out.numel() == 0:
        return out
    bits = _BITS[gradient.element_size()]  # what is copied needs no arithmetic, and numpy has no bfloat16
    tables = gradient.contiguous().view(bits).numpy(), out.view(bits).numpy()
    groups = gradient.shape[0] * -(-gradient.shape[1] // _WRITTEN)
    over_threads(_write_channels, groups, _threads(out), *tables, *_runs(number, gradient.shape[2]))
    return out


def _threads(values: Tensor) -> int:
    return threads_for(values.numel(), _THREADED_VALUES)


def _runs(number: Tensor, num_regions: int) -> _Runs:
    batch, pixels = number.shape
    first, slot, region = np.empty((3, batch, pixels + 1), dtype=np.int32)
    runs = _Runs(first, slot, region, np.empty((batch, 2), dtype=np.int64))
    _find_runs(number.contiguous().numpy(), num_regions, *runs)
    return runs


@compiled
def _find_runs(number, num_regions, first, slot, region, counts):
    for image in range(number.shape[0]):
        numbers = number[image]
        slots = np.zeros(num_regions + 1, dtype=np.int32)
        runs = found = pixel = 0
        while pixel < numbers.size:
            value = numbers[pixel]
            if value < 0 or value > num_regions:  # memory that is not the table's
                raise IndexError("region numbers must be 0 (none) and 1..R")
            if value > 0 and slots[value] == 0:
                found += 1
                slots[value] = found
                region[image, found] = value
            first[image, runs] = pixel
            slot[image, runs] = slots[value]
            runs += 1
            end = min(pixel + MOST_TERMS, numbers.size)
            pixel += 1
            while pixel < end and numbers[pixel] == value:
                pixel += 1
        first[image, runs] = numbers.size
        counts[image, 0], counts[image, 1] = runs, found


@compiled
def _add_channels(first_group, last_group, block, offset, first, slot, region, counts, out):
    """Sums of the channels (B, some of D, P) from ``offset`` on, in groups; the last group repeats its last channel."""
    channels = block.shape[1]
    groups = -(-channels // _ADDED)
    zero = block.dtype.type(0)
    for group in range(first_group, last_group):
        image, channel = group // groups, group % groups * _ADDED
        end = channels - 1
        f0, f1 = block[image, channel], block[image, min(channel + 1, end)]
        f2, f3 = block[image, min(channel + 2, end)], block[image, min(channel + 3, end)]
        f4, f5 = block[image, min(channel + 4, end)], block[image, min(channel + 5, end)]
        f6, f7 = block[image, min(channel + 6, end)], block[image, min(channel + 7, end)]
        total = np.zeros((counts[image, 1] + 1, _ADDED))
        for run in range(counts[image, 0]):
            if slot[image, run] == 0:
                continue
            s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = zero
            for pixel in range(unsigned(first[image, run]), unsigned(first[image, run + 1])):
                s0 += f0[pixel]
                s1 += f1[pixel]
                s2 += f2[pixel]
                s3 += f3[pixel]
                s4 += f4[pixel]
                s5 += f5[pixel]
                s6 += f6[pixel]
                s7 += f7[pixel]
            sums = total[slot[image, run]]
            sums[0] += s0
            sums[1] += s1
            sums[2] += s2
            sums[3] += s3
            sums[4] += s4
            sums[5] += s5
            sums[6] += s6
            sums[7] += s7
        for found in range(1, counts[image, 1] + 1):
            for place in range(min(_ADDED, channels - channel)):
                out[image, offset + channel + place, region[image, found] - 1] = total[found, place]


@compiled
def _write_channels(first_group, last_group, gradient, out, first, slot, region, counts):
    """The numbers of each pixel's region, 0 for none, in groups of channels as above."""
    channels = gradient.shape[1]
    groups = -(-channels // _WRITTEN)
    for group in range(first_group, last_group):
        image, channel = group // groups, group % groups * _WRITTEN
        end = channels - 1
        table = np.zeros((counts[image, 1] + 1, _WRITTEN), dtype=gradient.dtype)
        for found in range(1, counts[image, 1] + 1):
            for place in range(_WRITTEN):
                table[found, place] = gradient[image, min(channel + place, end), region[image, found] - 1]
        g0, g1 = out[image, channel], out[image, min(channel + 1, end)]
        g2, g3 = out[image, min(channel + 2, end)], out[image, min(channel + 3, end)]
        for run in range(counts[image, 0]):
            values = table[slot[image, run]]
            v0, v1, v2, v3 = values[0], values[1], values[2], values[3]
            for pixel in range(unsigned(first[image, run]), unsigned(first[image, run + 1])):
                g0[pixel] = v0
                g1[pixel] = v1
                g2[pixel] = v2
                g3[pixel] = v3


@compiled
def _add_rows(first_channel, last_channel, rows, first, slot, region, counts, out):
    """Sums of some channels of rows (B, P, D)."""
    for image in range(rows.shape[0]):
        total = np.zeros((counts[image, 1] + 1, last_channel - first_channel))
        sums = np.empty(last_channel - first_channel, dtype=rows.dtype)
        for run in range(counts[image, 0]):
            if slot[image, run] == 0:
                continue
            sums[:] = 0
            for pixel in range(unsigned(first[image, run]), unsigned(first[image, run + 1])):
                sums += rows[image, pixel, first_channel:last_channel]
            total[slot[image, run]] += sums
        for channel in range(first_channel, last_channel):
            for found in range(1, counts[image, 1] + 1):
                out[image, channel, region[image, found] - 1] = total[found, channel - first_channel]
