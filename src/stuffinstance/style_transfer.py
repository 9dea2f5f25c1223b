"""Style transfer of source images to the target domain, without training."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stuffinstance._checks import FLOATING_DTYPES, check_tensor, checked_number, describe, may_read
from stuffinstance._numerics import as_float


def _paired_target(source: Tensor, target: Tensor) -> Tensor:
    """The target image whose style each source image takes: image *i* takes that of target *i* mod B'.

    Raises:
        TypeError: If either is not a tensor.
        ValueError: If either is not a floating (B, 3, H, W) batch with values in 0 .. 1 (checked on a CPU only), or
            they differ in device or dtype, or the batch of targets is empty.
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
                f"{float(images.max()):.4g}. For values in 0..255 pass images / 255; undo a normalization first."
            )
    if source.device != target.device or source.dtype != target.dtype:
        raise ValueError(f"source and target must share device and dtype, got {describe(source)}, {describe(target)}.")
    if target.shape[0] == 0:
        raise ValueError("target must hold at least one image, got B' = 0.")
    return target[torch.arange(source.shape[0], device=target.device) % target.shape[0]]


@torch.no_grad()
def lab_color_transfer(source: Tensor, target: Tensor) -> Tensor:
    """LAB color transfer (Reinhard et al., 2001): each channel's mean and standard deviation from a target image.

    Paper: https://doi.org/10.1109/38.946629.

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
        >>> gray = lab_color_transfer(torch.full((1, 3, 4, 4), 0.25), torch.full((1, 3, 8, 8), 0.75))
        >>> round(gray.mean().item(), 3)
        0.75
    """
    # Imported here: kornia takes over a second, and only style transfer by color needs it.
    from kornia.color import lab_to_rgb, rgb_to_lab

    target = _paired_target(source, target)
    if source.shape[0] == 0:
        return source.clone()
    own, style = rgb_to_lab(as_float(source)), rgb_to_lab(as_float(target))
    own_mean, style_mean = own.mean((2, 3), keepdim=True), style.mean((2, 3), keepdim=True)
    own_spread = own.std((2, 3), keepdim=True, correction=0)
    scale = torch.where(own_spread > 1e-3, style.std((2, 3), keepdim=True, correction=0) / own_spread, 1.0)
    transferred: Tensor = lab_to_rgb((own - own_mean) * scale + style_mean, clip=True)
    return transferred.clamp(0, 1).to(source.dtype)


@torch.no_grad()
def fourier_amplitude_transfer(source: Tensor, target: Tensor, window: float = 0.01) -> Tensor:
    """Fourier amplitude transfer (FDA, Yang and Soatto, CVPR 2020): low-frequency amplitudes of a target image.

    Paper: https://arxiv.org/abs/2004.05498.

    .. math:: x^{s \\to t} = \\mathcal{F}^{-1}([M_\\beta \\mathcal{F}^A(x^t) + (1 - M_\\beta) \\mathcal{F}^A(x^s),
              \\mathcal{F}^P(x^s)])

    :math:`M_\\beta` covers the frequencies of at most ``floor(window * min(H, W))`` cycles in both directions.

    Args:
        source: RGB, (B, 3, H, W) in 0 .. 1.
        target: RGB, (B', 3, H', W') in 0 .. 1, any size (resized bilinearly) and batch (repeated).
        window: β; FDA uses 0.01, 0.05 and 0.09. 0 swaps the mean color alone.

    Returns:
        (B, 3, H, W), clipped to 0 .. 1.

    Raises:
        TypeError: If an image batch is not a tensor, or ``window`` is not a number.
        ValueError: If the images are not RGB batches on one device, or ``window`` is outside 0 .. 0.5.

    Example:
        >>> transferred = fourier_amplitude_transfer(torch.full((1, 3, 4, 4), 0.25), torch.full((1, 3, 8, 8), 0.75))
        >>> transferred.mean()
        tensor(0.7500)
    """
    target = _paired_target(source, target)
    window = checked_number("window", window, "between 0 and 0.5 of the short side", least=0, most=0.5)
    if source.shape[0] == 0:
        return source.clone()
    height, width = source.shape[2:]
    if target.shape[2:] != source.shape[2:]:
        target = F.interpolate(target, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    # As floats: the FFT has no half-precision form on every device.
    spectrum, style = torch.fft.rfft2(as_float(source)), torch.fft.rfft2(as_float(target))
    reach = int(min(height, width) * window)
    rows = torch.fft.fftfreq(height, 1 / height, device=source.device).abs() <= reach
    columns = torch.fft.rfftfreq(width, 1 / width, device=source.device) <= reach
    low = rows[:, None] & columns
    mixed = torch.polar(torch.where(low, style.abs(), spectrum.abs()), spectrum.angle())
    transferred: Tensor = torch.fft.irfft2(mixed, s=(height, width))
    return transferred.clamp(0, 1).to(source.dtype)
