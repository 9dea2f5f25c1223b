"""Cross-entropy with a weight for each pixel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stuffinstance._checks import (
    FLOATING_DTYPES,
    check_class_ids,
    check_label_map,
    check_maps,
    check_same_batch,
    check_tensor,
    describe,
    may_read,
    optional_ignore_index,
)
from stuffinstance._numerics import autocast_device
from stuffinstance.losses.entropy_minimization import Reduction, checked_reduction


def weighted_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    ignore_index: int | None = 255,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Pixel-weighted cross-entropy, mean over all pixels: the loss of labels that are not all equally sure.

    .. math:: \\mathcal{L} = -\\frac{1}{BHW} \\sum_{x} q(x) \\log S(z(x))_{y(x)}

    the loss of mixed images in DACS (Tranheden et al., WACV 2021) and DAFormer (Hoyer et al., CVPR 2022), and of masked
    images in MIC (Hoyer et al., CVPR 2023). The mean is over all B x H x W pixels, not over the
    sum of the weights, which would cancel a weight that is the same everywhere; an ignored pixel is one of weight 0.
    So a batch is the mean of its images.

    Args:
        logits: (B, K, H, W), at the labels' size.
        labels: Class ids, (B, H, W), any integer dtype.
        weights: q, at least 0: (B, H, W), or (B,) for one weight an image. No gradient flows to them.
        ignore_index: The id of pixels without a label, not one of the K classes; None where all have one.
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

    Returns:
        Scalar, or (B,) for ``reduction="none"``; float32 (float64 for float64 logits), also under autocast; exact 0 on
        the graph where nothing is labeled.

    Raises:
        TypeError: If an argument is not a tensor, or ``ignore_index`` is not a whole number.
        ValueError: If shapes, dtypes or devices do not fit, ``ignore_index`` is a class, or ``reduction`` is unknown;
            on a CPU also if an id is not a class, or a weight is negative or not finite.

    Example:
        >>> logits, labels = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]])
        >>> weighted_cross_entropy(logits, labels, torch.tensor([[[1.0, 0.0]]]))          # half of log 2
        tensor(0.3466)
    """
    checked_reduction(reduction)
    check_maps("logits", logits, channel_name="K")
    check_label_map("labels", labels)
    check_same_batch("labels", labels, "logits", logits)
    if labels.shape[1:] != logits.shape[2:]:
        raise ValueError(
            f"labels must have the logits' size (H, W) = {tuple(logits.shape[2:])}, got {tuple(labels.shape)}. "
            "Upsample the logits to the labels first."
        )
    ignore_index = optional_ignore_index(ignore_index, logits.shape[1])
    check_class_ids("labels", labels, logits.shape[1], ignore_index)
    by_pixel = _by_pixel(weights, labels)
    with torch.autocast(autocast_device(logits), enabled=False):
        exact = logits if logits.dtype == torch.float64 else logits.float()
        ids = labels.to(torch.int64)
        if ignore_index is None:
            each = F.cross_entropy(exact, ids, reduction="none")
        else:
            # Ignored logits become 0 before anything is computed, so that a NaN there spoils no gradient.
            exact = torch.where((ids != ignore_index)[:, None], exact, 0.0)
            each = F.cross_entropy(exact, ids, ignore_index=ignore_index, reduction="none")
        weighted = by_pixel.to(each.dtype) * each
        return weighted.mean((1, 2)) if reduction == "none" else weighted.sum() / max(1, each.numel())


def _by_pixel(weights: Tensor, labels: Tensor) -> Tensor:
    """The weights as a map that goes with the labels: checked, detached, (B, H, W) or (B, 1, 1)."""
    wanted = "a floating-point tensor (B, H, W) or (B,)"
    check_tensor("weights", wanted, weights)
    if weights.dtype not in FLOATING_DTYPES:
        raise ValueError(f"weights must be {wanted}, got {describe(weights)}.")
    # Not `shape in (...)`, whose answer a compiler does not know where sizes are symbols.
    by_pixel = weights.ndim == 3 and weights.shape == labels.shape
    if not by_pixel and not (weights.ndim == 1 and weights.shape[0] == labels.shape[0]):
        raise ValueError(
            f"weights must be (B, H, W) = {tuple(labels.shape)} or (B,) = ({labels.shape[0]},), got "
            f"{tuple(weights.shape)}. For one weight for all pass weight.expand(B)."
        )
    check_same_batch("weights", weights, "labels", labels)
    weights = weights.detach()
    if may_read(weights) and weights.numel() and not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(
            f"weights must be finite and at least 0, got {float(weights.min()):.4g} to {float(weights.max()):.4g}."
        )
    return weights if weights.ndim == 3 else weights[:, None, None]
