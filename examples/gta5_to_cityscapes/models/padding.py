"""Images padded to whole patches, and maps of them cropped back to the image, to a fraction of a cell."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def padded(images: Tensor, multiple: int) -> Tensor:
    """``images`` (B, C, H, W) with zeros at the right and the bottom, up to multiples of ``multiple``."""
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))


def cropped(maps: Tensor, size: tuple[int, int], padded_size: tuple[int, int]) -> Tensor:
    """Maps (B, C, h, w) of padded images, covering the images and nothing beside them.

    The number of cells is that of the cells that the images take, rounded up; where padding ends within a cell they are
    interpolated linearly.
    """
    for dim, side, whole in ((2, size[0], padded_size[0]), (3, size[1], padded_size[1])):
        if side == whole:
            continue
        cells = maps.shape[dim]
        kept = -(-side * cells // whole)
        new = torch.arange(kept, device=maps.device, dtype=torch.float32)
        maps = interpolated(maps, dim, ((new + 0.5) * (side * cells / (whole * kept)) - 0.5).clamp(min=0))
    return maps


def interpolated(maps: Tensor, dim: int, places: Tensor) -> Tensor:
    """Maps (B, C, h, w) at these places of a dimension, (N,) in cells from the center of the first, linearly."""
    cells = torch.arange(maps.shape[dim], device=maps.device, dtype=torch.float32)
    weights = (1 - (places[:, None] - cells).abs()).clamp(min=0)
    return (maps.movedim(dim, -1) @ weights.to(maps.dtype).T).movedim(-1, dim)
