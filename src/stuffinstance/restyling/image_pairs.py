"""Pairs of source and target images for restyling: checked, and the target repeated to the source's batch."""

import torch
from torch import Tensor

from stuffinstance.arguments import FLOATING_DTYPES, check_tensor, describe, may_read


def paired_target(source: Tensor, target: Tensor) -> Tensor:
    """For each source image the target image it is restyled as: image *i* takes target *i* mod B'.

    Raises:
        TypeError: If either is not a tensor.
        ValueError: If either is not a floating (B, 3, H, W) batch with values in 0 .. 1 (looked at on a CPU only), or
            they differ in device or dtype, or there is no target.
    """
    for name, images in (("source", source), ("target", target)):
        wanted = "floating-point RGB images (B, 3, H, W) in 0..1"
        check_tensor(name, wanted, images)
        if not (images.dtype in FLOATING_DTYPES and images.ndim == 4 and images.shape[1] == 3):
            raise ValueError(
                f"{name} must be {wanted}, got {describe(images)}. For uint8 images pass images.float() / 255."
            )
        if images.shape[2] == 0 or images.shape[3] == 0:
            raise ValueError(f"{name} must have H and W of at least 1, got {describe(images)}.")
        if may_read(images) and images.numel() and not (images.min() >= -0.01 and images.max() <= 1.01):
            raise ValueError(
                f"{name} must be RGB images with values in 0..1, got {float(images.min()):.4g} to "
                f"{float(images.max()):.4g}. For values in 0..255 pass images / 255; undo a normalisation first."
            )
    if source.device != target.device or source.dtype != target.dtype:
        raise ValueError(f"source and target must share device and dtype, got {describe(source)}, {describe(target)}.")
    if target.shape[0] == 0:
        raise ValueError("target must hold at least one image, got B' = 0.")
    return target[torch.arange(source.shape[0], device=target.device) % target.shape[0]]
