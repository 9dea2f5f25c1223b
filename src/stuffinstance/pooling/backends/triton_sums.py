"""Sums of regions on a GPU that read the features once: a matrix product with masks that exist in registers only.

A program takes a block of channels over a span of pixels, one tile after another, and multiplies each tile with the
one-hot masks of up to 128 regions, made from the region numbers on the spot. More regions take more programs on the
same tiles: features are then read ceil(R / 128) times, one program soon after the other. Every span writes its own
sums, which are added afterwards: no atomics, the same bits in every run.

Tensor cores read 11 of the 24 bits of a float32 significand (TF32). Masks and half-precision features fit and are
multiplied exactly, in one product. float32 features are split in two ("tf32x3"), which keeps 21 bits or more of each:
an error of at most 5e-7 of a value. Sums are float32 and have at most 1024 terms before spans are added.

A value that is not finite counts as 0, since 0 * NaN is NaN. A program that met one goes through its span once more,
multiplies where such values lie with the same masks, and makes those sums NaN, of that channel and region alone.

Launches depend on shapes, strides, dtype and R alone; nothing is read back.
"""

# mypy cannot see through triton's decorators; the host function below is typed.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

import torch
import triton
import triton.language as tl
from torch import Tensor

from stuffinstance.pooling.backends.torch_sums import multiplied_sums

_CHANNEL_BLOCK = 64
_PIXEL_BLOCK = 64
_SPAN_TILES = 16  # tiles of one program; also bounds the terms that one running sum has
_FEWEST_REGIONS = 16  # narrower products do not exist
_MOST_REGIONS = 128


def region_sums(features: Tensor, number: Tensor, num_regions: int) -> Tensor:
    """Features (B, D, h, w) and region numbers (B, P) to sums (B, D, R), without a read from the device.

    NCHW and channels_last features are read where they lie, other layouts from a contiguous copy. float64 goes
    through torch's matrix product.
    """
    if features.dtype == torch.float64:
        return multiplied_sums(features, number, num_regions)
    with torch.cuda.device_of(features):  # kernels go to the current device, which need not be the features'
        return _launch(features.flatten(2), number.contiguous(), num_regions)


def _launch(flat: Tensor, number: Tensor, num_regions: int) -> Tensor:
    batch, channels, pixels = flat.shape
    if batch * channels * num_regions == 0:
        return torch.zeros(batch, channels, num_regions, dtype=torch.float32, device=flat.device)
    columns = min(_MOST_REGIONS, max(_FEWEST_REGIONS, triton.next_power_of_2(num_regions)))
    spans = triton.cdiv(pixels, _PIXEL_BLOCK * _SPAN_TILES)
    stripes = triton.cdiv(channels, _CHANNEL_BLOCK)
    groups = triton.cdiv(num_regions, columns)
    partial_sums = torch.empty(spans, batch, channels, num_regions, dtype=torch.float32, device=flat.device)
    _span_sums[(batch * spans * stripes * groups,)](  # one dimension: the others end at 65535
        flat,
        number,
        partial_sums,
        batch,
        channels,
        pixels,
        num_regions,
        spans,
        stripes,
        groups,
        *flat.stride(),
        PRECISION="tf32x3" if flat.dtype == torch.float32 else "tf32",
        CHANNELS=_CHANNEL_BLOCK,
        PIXELS=_PIXEL_BLOCK,
        TILES=_SPAN_TILES,
        COLUMNS=columns,
    )
    return partial_sums.sum(0)


@triton.jit
def _is_finite(value):
    return tl.abs(value.to(tl.float32)) < float("inf")  # false for NaN too


@triton.jit
def _span_sums(flat, number, out, batch, channels, pixels, num_regions, spans, stripes, groups,
               image_stride, channel_stride, pixel_stride, PRECISION: tl.constexpr, CHANNELS: tl.constexpr,
               PIXELS: tl.constexpr, TILES: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    group = tl.program_id(0) % groups  # fastest, so that what one group has read the next finds in the cache
    stripe = tl.program_id(0) // groups % stripes
    span = (tl.program_id(0) // (groups * stripes) % spans).to(tl.int64)  # pixels behind the last may pass 2^31
    image = (tl.program_id(0) // (groups * stripes * spans)).to(tl.int64)
    channel = stripe * CHANNELS + tl.arange(0, CHANNELS)  # [CHANNELS]
    region = group * COLUMNS + 1 + tl.arange(0, COLUMNS)  # [COLUMNS]
    rows = flat + image * image_stride + channel.to(tl.int64)[:, None] * channel_stride  # [CHANNELS, 1]
    numbers = number + image * pixels
    sums = tl.zeros((CHANNELS, COLUMNS), tl.float32)
    met = tl.zeros((CHANNELS, PIXELS), tl.int32)
    for tile in range(TILES):
        pixel = (span * TILES + tile) * PIXELS + tl.arange(0, PIXELS)  # [PIXELS]
        inside = (channel < channels)[:, None] & (pixel < pixels)[None, :]
        value = tl.load(rows + pixel[None, :] * pixel_stride, mask=inside, other=0)
        member = tl.load(numbers + pixel, mask=pixel < pixels, other=0)[:, None] == region[None, :]
        finite = _is_finite(value)
        met |= (~finite).to(tl.int32)
        value = tl.where(finite, value, 0).to(tl.float32)
        sums = tl.dot(value, member.to(tl.float32), sums, input_precision=PRECISION)
    if tl.max(tl.max(met, axis=1), axis=0) > 0:
        spoilt = tl.zeros((CHANNELS, COLUMNS), tl.float32)
        for tile in range(TILES):
            pixel = (span * TILES + tile) * PIXELS + tl.arange(0, PIXELS)
            inside = (channel < channels)[:, None] & (pixel < pixels)[None, :]
            value = tl.load(rows + pixel[None, :] * pixel_stride, mask=inside, other=0)
            member = tl.load(numbers + pixel, mask=pixel < pixels, other=0)[:, None] == region[None, :]
            spoils = (~_is_finite(value)).to(tl.float32)
            spoilt = tl.dot(spoils, member.to(tl.float32), spoilt, input_precision="tf32")
        sums = tl.where(spoilt > 0, float("nan"), sums)
    place = (span * batch + image) * channels + channel  # int64, as image is
    known = (channel < channels)[:, None] & (region <= num_regions)[None, :]
    tl.store(out + place[:, None] * num_regions + (region - 1)[None, :], sums, mask=known)
