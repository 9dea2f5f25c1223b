"""Low-frequency swap: the target's amplitude spectrum near zero, the source's phase everywhere (FDA)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stuffinstance.arguments import checked_number
from stuffinstance.restyling.image_pairs import paired_target


@torch.no_grad()
def restyle_fourier(source: Tensor, target: Tensor, window: float = 0.01) -> Tensor:
    """Give each source image the low-frequency amplitudes of a target image.

    .. math:: x^{s \\to t} = \\mathcal{F}^{-1}([M_\\beta \\mathcal{F}^A(x^t) + (1 - M_\\beta) \\mathcal{F}^A(x^s),
              \\mathcal{F}^P(x^s)])

    :math:`M_\\beta` covers the frequencies of at most ``floor(window * min(H, W))`` cycles in both directions.

    Args:
        source: RGB, (B, 3, H, W) in 0 .. 1.
        target: RGB, (B', 3, H', W') in 0 .. 1, any size (resized bilinearly) and batch (repeated).
        window: β; FDA uses 0.01, 0.05 and 0.09. 0 swaps the mean colour alone.

    Returns:
        (B, 3, H, W), clipped to 0 .. 1.

    Raises:
        TypeError: If an image batch is not a tensor, or ``window`` is not a number.
        ValueError: If the images are not RGB batches on one device, or ``window`` is outside 0 .. 0.5.

    Example:
        >>> restyled = restyle_fourier(torch.full((1, 3, 4, 4), 0.25), torch.full((1, 3, 8, 8), 0.75))
        >>> restyled.mean()
        tensor(0.7500)
    """
    target = paired_target(source, target)
    window = checked_number("window", window, "between 0 and 0.5 of the short side", least=0, most=0.5)
    if source.shape[0] == 0:
        return source.clone()
    height, width = source.shape[2:]
    if target.shape[2:] != source.shape[2:]:
        target = F.interpolate(target, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    # The FFT has no half-precision form on every device.
    exact = source.dtype if source.dtype == torch.float64 else torch.float32
    spectrum, style = torch.fft.rfft2(source.to(exact)), torch.fft.rfft2(target.to(exact))
    reach = int(min(height, width) * window)
    rows = torch.fft.fftfreq(height, 1 / height, device=source.device).abs() <= reach
    columns = torch.fft.rfftfreq(width, 1 / width, device=source.device) <= reach
    low = rows[:, None] & columns
    mixed = torch.polar(torch.where(low, style.abs(), spectrum.abs()), spectrum.angle())
    restyled: Tensor = torch.fft.irfft2(mixed, s=(height, width))
    return restyled.clamp(0, 1).to(source.dtype)
