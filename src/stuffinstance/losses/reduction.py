"""Reductions of losses over the pixels of an image and the images of a batch."""

from typing import Literal, get_args

import torch
from torch import Tensor

from stuffinstance._checks import check_choice

Reduction = Literal["mean", "none"]


def checked_reduction(reduction: Reduction) -> Reduction:
    """``"mean"`` over the images or ``"none"``, one value per image."""
    check_choice("reduction", reduction, get_args(Reduction))
    return reduction


def mean_over_pixels(values: Tensor, mask: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Mean over images of the mean over each image's counted pixels; an image without any adds 0.

    Args:
        values: (B, H, W).
        mask: Pixels that count, (B, H, W) bool.
        reduction: ``"mean"`` over the images, or ``"none"``.

    Returns:
        A scalar, or (B,) for ``"none"``; exactly 0, still attached to ``values``, where no pixel counts.

    Example:
        >>> values = torch.tensor([[[1.0, 3.0]], [[5.0, 7.0]]])
        >>> mean_over_pixels(values, torch.tensor([[[True, True]], [[True, False]]]))
        tensor(3.5000)
    """
    means = torch.where(mask, values, 0).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
    return means if reduction == "none" else means.sum() / max(1, values.shape[0])
