"""Sums of regions in torch: pixels are added up on a CPU, multiplied with the regions' masks on an accelerator.

On a CPU adding up takes the same time however many regions there are (11 ms at D = 2048, 90×160, two cores), a matrix
product is faster for at most 16 regions only (9 ms; 23 ms for 64): one form therefore serves all maps.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from stuffinstance._numerics import autocast_device, float_dtype

MOST_TERMS = 256  # most terms of one running sum
BLOCK_VALUES = 2**20  # values added up at a time on a CPU: 4 MiB, which stay in its caches


def region_sums(features: Tensor, number: Tensor, num_regions: int) -> Tensor:
    """Features (B, D, h, w) and region numbers (B, P) to sums (B, D, R) float32, or float64 for float64 features."""
    sums = added_sums if features.device.type == "cpu" else multiplied_sums
    return sums(features, number, num_regions)


def lies_in_rows(features: Tensor) -> bool:
    """Whether a pixel's channels lie side by side: channels_last features, and tokens viewed as (B, D, h, w)."""
    return features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous()


def added_sums(features: Tensor, number: Tensor, num_regions: int) -> Tensor:
    """Add every pixel into one of L partial sums of its region, then add those up.

    A single running sum in float32 loses three digits over a large region of nearly constant features. With L partial
    sums none has more than 256 terms (or as many as there are regions, so that the partial sums are never more numbers
    than the features). Only numbers that occur get partial sums. Each value meets its own region's sum alone, so what
    is not finite stays there. The order of additions is fixed: the same bits in every run.
    """
    batch, channels = features.shape[:2]
    pixels = number.shape[1]
    sums = features.new_zeros(batch, channels, num_regions, dtype=float_dtype(features))
    present = torch.bincount(number.flatten(), minlength=num_regions + 1) > 0
    used = present.nonzero()[:, 0]
    held = used[used > 0]
    if sums.numel() == 0 or held.numel() == 0:
        return sums
    lanes = max(1, min(-(-pixels // MOST_TERMS), pixels // used.numel()))
    first_lane = ((present.cumsum(0) - 1) * lanes).index_select(0, number.flatten()).view_as(number)  # (B, P)
    add = _added_rows if lies_in_rows(features) else _added_channels
    for some, found in add(features, first_lane, lanes, used.numel(), sums.dtype):  # found (B, some of D, used)
        sums[:, some].index_copy_(2, held - 1, found[:, :, used.numel() - held.numel() :])
    return sums


def _added_channels(
    features: Tensor, first_lane: Tensor, lanes: int, count: int, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """NCHW: a block of channels at a time, so that half precision is converted within the caches.

    Neighboring pixels go to different lanes, and need not wait for each other's addition.
    """
    batch, channels, pixels = features.shape[0], features.shape[1], first_lane.shape[1]
    lane = torch.arange(lanes).repeat(-(-pixels // lanes))[:pixels]
    index = (first_lane + lane)[:, None]  # (B, 1, P)
    step = min(channels, max(1, BLOCK_VALUES // (batch * max(pixels, count * lanes))))
    partial_sums = features.new_empty(batch, step, count * lanes, dtype=dtype)
    for start in range(0, channels, step):
        some = slice(start, start + step)
        block = features[:, some].flatten(2).to(dtype)
        here = partial_sums[:, : block.shape[1]].zero_()
        here.scatter_add_(2, index.expand(-1, block.shape[1], -1), block)
        yield some, here.view(*block.shape[:2], count, lanes).sum(3)


def _added_rows(
    features: Tensor, first_lane: Tensor, lanes: int, count: int, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Channels last: whole rows are added, a block of pixels at a time. Lanes are spans of pixels, for the caches.

    The partial sums of all channels exist together: adding parts of rows takes several times as long.
    """
    batch, channels, pixels = features.shape[0], features.shape[1], first_lane.shape[1]
    image = torch.arange(batch)[:, None] * (count * lanes)
    lane = torch.arange(lanes).repeat_interleave(-(-pixels // lanes))[:pixels]
    index = (image + first_lane + lane).flatten()  # (B * P,)
    rows = features.permute(0, 2, 3, 1).reshape(batch * pixels, channels)
    partial_sums = features.new_zeros(batch * count * lanes, channels, dtype=dtype)
    step = max(1, BLOCK_VALUES // channels)
    for start in range(0, batch * pixels, step):
        block = slice(start, start + step)
        partial_sums.index_add_(0, index[block], rows[block].to(dtype))
    step = max(1, BLOCK_VALUES // (batch * count * lanes))
    for start in range(0, channels, step):
        some = slice(start, start + step)
        yield some, partial_sums[:, some].view(batch, count, lanes, -1).sum(2).transpose(1, 2)


def multiplied_sums(features: Tensor, number: Tensor, num_regions: int) -> Tensor:
    """Add pixels up as a matrix product: the same in every run, which adding by atomics on a GPU would not be.

    A product meets every pixel with every region, and 0 * NaN is NaN: pixels that are not finite are cleared in a copy,
    and only the regions that they lie in become NaN. Without a read from the device whether there are such pixels the
    copy cannot be spared. So the features are read twice (lowest and highest of each pixel, which are finite where all
    of it is; the copy), and the copy once per D regions, so that the masks take no more memory than it.
    """
    exact = float_dtype(features)
    flat = features.flatten(2)
    sums = flat.new_zeros(flat.shape[0], flat.shape[1], num_regions, dtype=exact)
    if sums.numel() == 0:
        return sums
    with torch.autocast(autocast_device(flat), enabled=False):  # an operator's body still runs under it
        lowest, highest = torch.aminmax(flat, dim=1, keepdim=True)
        broken = ~(lowest.isfinite() & highest.isfinite())  # (B, 1, P)
        whole = flat.masked_fill(broken, 0).to(exact)
        ids = torch.arange(1, num_regions + 1, device=number.device)
        columns = max(flat.shape[1], MOST_TERMS)
        for start in range(0, num_regions, columns):
            some = slice(start, start + columns)
            sums[:, :, some] = _product(whole, broken, number[:, :, None] == ids[some])
    return sums


def _product(whole: Tensor, broken: Tensor, member: Tensor) -> Tensor:
    """Finite features (B, D, P) times masks (B, P, R); NaN where a broken pixel (B, 1, P) is a member."""
    masks = member.to(whole.dtype)
    spoilt = torch.bmm(broken.to(whole.dtype), masks) > 0
    return torch.bmm(whole, masks).masked_fill_(spoilt, torch.nan)
