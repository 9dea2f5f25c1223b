"""Two resolutions (HRDA): the whole image at half its size, and a crop or overlapping windows of it at full size."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stuffinstance as si

from .padding import cropped, interpolated, padded

if TYPE_CHECKING:
    from .network import NetworkOutput, SegmentationNetwork

Cells = tuple[int, int]  # height and width, or top and left, in pixels of the logits


def two_resolutions(network: SegmentationNetwork, pixels: Tensor, attention: nn.Module) -> NetworkOutput:
    """Output of a network that sees normalized images (B, 3, H, W) at two resolutions (https://arxiv.org/abs/2204.13132).

    In training the details are a random crop of half the height and width, the same for all images of the batch; else
    they are the mean of windows of that size, each half a window from the next. The published crops and windows have a
    fixed size, which is half of the published training images. ``attention`` maps the context's features to one logit
    for each class and place.

    Returns:
        Logits fused by :func:`stuffinstance.fuse_resolutions`, (B, K, h, w) of one cell for every ``network.stride``
        pixels; features of the context at their size; the context's ``encoded`` and ``auxiliary``; and in training the
        details of the crop.
    """
    stride, shown = network.stride, pixels.shape[2:]
    whole = (max(1, shown[0] // stride), max(1, shown[1] // stride))  # cells without padding
    pixels = padded(pixels, 2 * stride)
    half = (pixels.shape[2] // 2, pixels.shape[3] // 2)
    context = network.output_of(F.interpolate(pixels, half, mode="bilinear", align_corners=False))
    if network.context_only:
        return context
    size = (pixels.shape[2] // stride, pixels.shape[3] // stride)
    if network.training:
        crop = (-(-whole[0] // 2), -(-whole[1] // 2))
        corner = (_drawn(whole[0] - crop[0]), _drawn(whole[1] - crop[1]))
        details = _details(network, pixels, corner, crop)
    else:
        corner = (0, 0)
        details = _windows(network, pixels, size)
    logits = si.fuse_resolutions(context.logits, details, attention(context.features), size, corner)
    features = F.interpolate(context.features, size, mode="bilinear", align_corners=False)
    logits, features = (cropped(each, shown, pixels.shape[2:]) for each in (logits, features))
    seen = details if network.training else None
    return context._replace(features=features, logits=logits, encoded=context.last_stage, details=seen, corner=corner)


def upsampled_details(output: NetworkOutput, size: Cells, stride: int) -> tuple[Tensor, tuple[slice, slice]]:
    """Details (B, K, h, w) in float32 at the size of images (H, W), as the fused logits are upsampled, and their place.

    That is bilinear, with the centers of the corner cells of all logits at the corner pixels of the image.
    """
    assert output.details is not None
    maps, places = output.details.float(), []
    for dim, first, side, cells in zip((2, 3), output.corner, size, output.logits.shape[2:], strict=True):
        count = maps.shape[dim]
        places.append(slice(first * stride, min(side, (first + count) * stride)))
        pixels = torch.arange(places[-1].start, places[-1].stop, device=maps.device, dtype=torch.float32)
        maps = interpolated(maps, dim, (pixels * ((cells - 1) / max(1, side - 1)) - first).clamp(0, count - 1))
    return maps, (places[0], places[1])


def _drawn(most: int) -> int:
    return int(torch.randint(most + 1, (), device="cpu"))


def _windows(network: SegmentationNetwork, pixels: Tensor, size: Cells) -> Tensor:
    """Mean of the logits of overlapping windows that cover the image, (B, K, h, w)."""
    crop = (size[0] // 2, size[1] // 2)
    starts = ([*dict.fromkeys((0, (side - cut) // 2, side - cut))] for side, cut in zip(size, crop, strict=True))
    total = pixels.new_zeros(len(pixels), network.num_classes, *size)
    counted = pixels.new_zeros(size)
    for top, left in product(*starts):
        window = (..., slice(top, top + crop[0]), slice(left, left + crop[1]))
        total[window] += _details(network, pixels, (top, left), crop)
        counted[window] += 1
    return total / counted


def _details(network: SegmentationNetwork, pixels: Tensor, corner: Cells, crop: Cells) -> Tensor:
    """Logits (B, K, h, w) of a crop; those of a network that gives more cells are resized."""
    rows, columns = (slice(network.stride * a, network.stride * (a + n)) for a, n in zip(corner, crop, strict=True))
    logits = network.output_of(pixels[..., rows, columns]).logits.float()
    if logits.shape[2:] == crop:
        return logits
    return F.interpolate(logits, crop, mode="bilinear", align_corners=False)
