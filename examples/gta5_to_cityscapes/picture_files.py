"""Pictures as tensors, and label maps on disk at one byte per pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .written_files import written_beside


def picture_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as (3, H, W) uint8."""
    return torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def write_label_map(labels: Tensor, path: Path) -> None:
    """Write class ids (H, W) as an 8-bit PNG."""
    with written_beside(path) as beside:
        Image.fromarray(labels.to(torch.uint8).cpu().numpy()).save(beside, format="PNG")


def read_label_map(path: Path) -> Tensor:
    """Class ids (H, W) uint8 of an 8-bit PNG."""
    try:
        with Image.open(path) as picture:
            ids = np.array(picture, dtype=np.uint8)
    except OSError as error:
        raise OSError(
            f"{path}: expected an 8-bit PNG of class ids, could not read it ({error}). "
            "Delete the folder of pseudo-labels; they will be written again."
        ) from error
    return torch.from_numpy(ids)
