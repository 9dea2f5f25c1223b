"""What the losses on unlabelled logits share: which pixels count, and how they become one number."""

import torch
from torch import Tensor

from stuffinstance.arguments import check_has_pixels, check_maps, check_mask, check_same_batch
from stuffinstance.label_maps import resize_labels


def counted_logits(logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits in single precision or better, and which of their pixels count.

    Logits that do not count become 0 before anything is computed from them, so that a NaN there spoils no gradient.

    Args:
        logits: (B, K, H, W).
        mask: Pixels that count, (B, H', W') bool, resized nearest; all where it is None.

    Returns:
        Logits (B, K, H, W), float64 if they were and float32 else, and the mask (B, H, W) bool.

    Raises:
        TypeError: If an argument is not a tensor.
        ValueError: If a dtype, rank, batch or device does not fit.

    Example:
        >>> logits, counted = counted_logits(torch.ones(1, 2, 1, 2), torch.tensor([[[True, False]]]))
        >>> logits[0, 0], counted
        (tensor([[1., 0.]]), tensor([[[ True, False]]]))
    """
    check_maps("logits", logits, channel_name="K")
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if mask is None:
        return logits, torch.ones_like(logits[:, 0], dtype=torch.bool)
    check_mask("mask", mask)
    check_has_pixels("mask", mask)
    check_same_batch("mask", mask, "logits", logits)
    counted = resize_labels(mask, (logits.shape[2], logits.shape[3]))
    return torch.where(counted[:, None], logits, 0), counted


def mean_over_pixels(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over images of the mean over each image's counted pixels; an image without any adds 0.

    Args:
        values: (B, H, W).
        counted: (B, H, W) bool.

    Returns:
        A scalar; exactly 0, still attached to ``values``, where no pixel counts.

    Example:
        >>> values = torch.tensor([[[1.0, 3.0]], [[5.0, 7.0]]])
        >>> mean_over_pixels(values, torch.tensor([[[True, True]], [[True, False]]]))
        tensor(3.5000)
    """
    sums = torch.where(counted, values, 0).sum((1, 2))
    return (sums / counted.sum((1, 2)).clamp(min=1)).sum() / max(1, values.shape[0])
