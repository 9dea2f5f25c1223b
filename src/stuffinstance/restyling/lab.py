"""Colour matching in CIELAB: the target's mean and spread of each channel."""

import torch
from torch import Tensor

from stuffinstance.restyling.image_pairs import paired_target


@torch.no_grad()
def restyle_lab(source: Tensor, target: Tensor) -> Tensor:
    """Shift and scale each source image's LAB channels to the mean and standard deviation of a target image.

    .. math:: x^{s \\to t}_c = \\frac{\\sigma^t_c}{\\sigma^s_c} (x^s_c - \\mu^s_c) + \\mu^t_c,
              \\qquad c \\in \\{L, a, b\\}

    Args:
        source: RGB, (B, 3, H, W) in 0 .. 1.
        target: RGB, (B', 3, H', W') in 0 .. 1, any size and batch (repeated).

    Returns:
        (B, 3, H, W), clipped to 0 .. 1. A channel without spread in the source is only shifted.

    Raises:
        TypeError: If an image batch is not a tensor.
        ValueError: If the images are not RGB batches on one device.

    Example:
        >>> grey = restyle_lab(torch.full((1, 3, 4, 4), 0.25), torch.full((1, 3, 8, 8), 0.75))
        >>> round(grey.mean().item(), 3)
        0.75
    """
    # Imported here: kornia takes over a second, and only restyling by colour needs it.
    from kornia.color import lab_to_rgb, rgb_to_lab

    target = paired_target(source, target)
    if source.shape[0] == 0:
        return source.clone()
    exact = source.dtype if source.dtype == torch.float64 else torch.float32
    own, style = rgb_to_lab(source.to(exact)), rgb_to_lab(target.to(exact))
    own_mean, style_mean = own.mean((2, 3), keepdim=True), style.mean((2, 3), keepdim=True)
    own_spread = own.std((2, 3), keepdim=True, correction=0)
    scale = torch.where(own_spread > 1e-3, style.std((2, 3), keepdim=True, correction=0) / own_spread, 1.0)
    restyled: Tensor = lab_to_rgb((own - own_mean) * scale + style_mean, clip=True)
    return restyled.clamp(0, 1).to(source.dtype)
