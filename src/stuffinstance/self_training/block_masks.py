"""Images with blocks missing, from which the context has to tell what was there (MIC)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stuffinstance.arguments import check_generator, check_maps, checked_fraction, checked_number, checked_positive
from stuffinstance.self_training.random_draws import uniform


def mask_blocks(
    images: Tensor,
    block: int = 64,
    ratio: float = 0.7,
    *,
    fill: float | Sequence[float] = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Hide random square blocks of each image.

    .. math:: M_{mb+1:(m+1)b,\\ nb+1:(n+1)b} = [v > r], \\quad v \\sim U(0, 1), \\qquad x^M = M \\odot x

    as in MIC (Hoyer et al., CVPR 2023, masked image consistency). The loss on the masked images is
    :func:`weighted_cross_entropy` with the teacher's labels of the whole images and their :func:`confident_share` as
    weights. Blocks start at the upper left corner; where a side is no multiple of ``block`` the last ones are cut off,
    so every size is allowed (this library's choice).

    Args:
        images: (B, C, H, W), floating point.
        block: b, side of a block in pixels; 64 in MIC.
        ratio: r, probability of a block to be hidden; 0.7 in MIC.
        fill: What hidden pixels become: one number, or one for each channel. MIC masks images normalised to mean 0, of
            which 0 is the mean colour; for images in 0 .. 1 pass the mean colour, for instance
            ``(0.485, 0.456, 0.406)``.
        generator: Source of the B x ceil(H/b) x ceil(W/b) numbers, drawn on its own device: the same seed of a CPU
            generator hides the same blocks on any device. Default: the default generator of the images' device.

    Returns:
        (B, C, H, W), dtype of ``images``; the gradient passes where nothing is hidden.

    Raises:
        TypeError: If ``images`` is not a tensor, ``block`` not a whole number, ``ratio`` or ``fill`` not a number, or
            ``generator`` not a ``torch.Generator``.
        ValueError: If ``images`` are not (B, C, H, W), ``block`` is below 1, ``ratio`` is outside 0 .. 1, or ``fill``
            has another number of channels.

    Example:
        >>> masked = mask_blocks(torch.ones(1, 1, 4, 6), block=2, ratio=0.5, generator=torch.Generator().manual_seed(1))
        >>> masked[0, 0]
        tensor([[1., 1., 0., 0., 0., 0.],
                [1., 1., 0., 0., 0., 0.],
                [1., 1., 0., 0., 1., 1.],
                [1., 1., 0., 0., 1., 1.]])
    """
    check_maps("images", images, channel_name="C")
    block = checked_positive("block", block)
    ratio = checked_fraction("ratio", ratio)
    check_generator(generator)
    colour = _channel_values(fill, images.shape[1])
    batch, _, height, width = images.shape
    rows = torch.arange(height, device=images.device) // block
    columns = torch.arange(width, device=images.device) // block
    grid = (batch, (height - 1) // block + 1, (width - 1) // block + 1)
    hidden = uniform(grid, images.device, generator) < ratio  # v < r, so that 0 hides nothing and 1 all
    covered = hidden[:, rows[:, None], columns][:, None]
    if len(colour) == 1:
        return images.masked_fill(covered, colour[0])
    return torch.cat([images[:, c : c + 1].masked_fill(covered, value) for c, value in enumerate(colour)], 1)


def _channel_values(fill: float | Sequence[float], channels: int) -> tuple[float, ...]:
    wanted = f"one finite number or C = {channels} of them"
    several = fill if isinstance(fill, (tuple, list)) else (fill,)  # a tuple of types: torch 2.4 cannot compile unions
    values = tuple(checked_number("fill", value, wanted) for value in several)
    if len(values) != 1 and len(values) != channels:  # not "in", which looks for one object among sizes that vary
        raise ValueError(f"fill must be one number or C = {channels} of them, got {len(values)}: {fill!r}.")
    return values
