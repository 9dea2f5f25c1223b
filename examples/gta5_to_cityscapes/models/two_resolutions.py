"""Two resolutions (HRDA): the whole image at half its size, and a crop or overlapping windows of it at full size."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

import stuffinstance as si

if TYPE_CHECKING:
    from .network import NetworkOutput, SegmentationNetwork

Cells = tuple[int, int]  # height and width, or top and left, in pixels of the result


def two_resolutions(network: SegmentationNetwork, pixels: Tensor, attention: torch.nn.Module) -> NetworkOutput:
    """Output of a network that sees normalized images (B, 3, H, W) at two resolutions (https://arxiv.org/abs/2204.13132).

    In training the details are a random crop of half the height and width, the same for all images of the batch; else
    they are the mean of windows of that size, each half a window from the next. Both lie on whole cells of the result:
    where the image ends within a cell, that row or column has the context alone. ``attention`` maps the context's
    features to one logit for each class and place.

    Returns:
        Logits fused by :func:`stuffinstance.fuse_resolutions`, (B, K, h, w) of one cell for every ``network.stride``
        pixels, features of the context at their size, and in training the details of the crop.
    """
    height, width = pixels.shape[2:]
    size = (-(-height // network.stride), -(-width // network.stride))
    whole = (max(1, height // network.stride), max(1, width // network.stride))
    crop = (-(-whole[0] // 2), -(-whole[1] // 2))
    half = (-(-height // 2), -(-width // 2))
    context = network.output_of(F.interpolate(pixels, half, mode="bilinear", align_corners=False))
    if network.training:
        corner = (_drawn(whole[0] - crop[0]), _drawn(whole[1] - crop[1]))
        details = _details(network, pixels, corner, crop)
    else:
        corner = (0, 0)
        details = _windows(network, pixels, whole, crop)
    logits = si.fuse_resolutions(context.logits, details, attention(context.features), size, corner)
    features = F.interpolate(context.features, size, mode="bilinear", align_corners=False)
    seen = {"details": details, "corner": corner} if network.training else {}
    return context._replace(features=features, logits=logits, **seen)


def _drawn(most: int) -> int:
    return int(torch.randint(most + 1, (), device="cpu"))


def _windows(network: SegmentationNetwork, pixels: Tensor, size: Cells, crop: Cells) -> Tensor:
    """Mean of the logits of overlapping windows that cover the image, (B, K, h, w)."""
    starts = ([*dict.fromkeys((0, (side - cut) // 2, side - cut))] for side, cut in zip(size, crop, strict=True))
    total = pixels.new_zeros(len(pixels), network.num_classes, *size)
    counted = pixels.new_zeros(size)
    for top, left in product(*starts):
        window = (..., slice(top, top + crop[0]), slice(left, left + crop[1]))
        total[window] += _details(network, pixels, (top, left), crop)
        counted[window] += 1
    return total / counted


def _details(network: SegmentationNetwork, pixels: Tensor, corner: Cells, crop: Cells) -> Tensor:
    logits = network.output_of(pixels[crop_of(corner, crop, network.stride)]).logits.float()
    if logits.shape[2:] == crop:
        return logits
    return F.interpolate(logits, crop, mode="bilinear", align_corners=False)


def crop_of(corner: Cells, crop: Cells, stride: int) -> tuple[object, slice, slice]:
    """Index of the pixels of an image (..., H, W) that a crop covers."""
    rows, columns = (slice(first * stride, (first + cut) * stride) for first, cut in zip(corner, crop, strict=True))
    return ..., rows, columns
