"""Pixel-weighted (DACS), soft-label (CRST-LRENT) and symmetric (SL) cross-entropy, and the MRKLD regularizer (CRST)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stuffinstance._checks import (
    FLOATING_DTYPES,
    check_class_ids,
    check_label_map,
    check_maps,
    check_mask,
    check_same_batch,
    check_tensor,
    checked_number,
    describe,
    may_read,
    optional_ignore_index,
)
from stuffinstance._numerics import as_float, autocast_device, cleared
from stuffinstance.losses.reduction import Reduction, checked_reduction


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

    the loss of mixed images in DACS (https://arxiv.org/abs/2007.08702) and DAFormer (https://arxiv.org/abs/2111.14887),
    and of masked images in MIC (https://arxiv.org/abs/2212.01322). The mean is over all B x H x W pixels, not over the
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
    ignore_index = _checked_labels(logits, labels, ignore_index)
    by_pixel = _by_pixel(weights, labels)
    with torch.autocast(autocast_device(logits), enabled=False):
        each = _of_each_pixel(logits, labels.to(torch.int64), ignore_index)
        weighted = by_pixel.to(each.dtype) * each
        return weighted.mean((1, 2)) if reduction == "none" else weighted.sum() / max(1, each.numel())


def symmetric_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int | None = 255,
    *,
    ce_weight: float = 0.1,
    rce_weight: float = 1.0,
    floor: float = 1e-4,
) -> Tensor:
    """Symmetric cross-entropy (SL), mean over the labeled pixels of all images: a loss of labels that may be wrong.

    .. math:: \\mathcal{L} = -\\frac{1}{\\lvert\\text{labeled}\\rvert} \\sum_{x\\ \\text{labeled}} \\Bigl[
              \\alpha \\log p_{y(x)}(x) + \\beta \\sum_c p_c(x) \\log \\max([c = y(x)], \\epsilon) \\Bigr],
              \\qquad p = S(z)

    The second term, the reverse cross-entropy, is :math:`-\\ln \\epsilon \\cdot (1 - p_y)`: it is bounded, so a wrong
    label pulls less. Paper: Wang et al., ICCV 2019, https://arxiv.org/abs/1908.06112. The defaults are those of ProDA
    for pseudo-labels (https://arxiv.org/abs/2101.10979), whose code has :math:`\\epsilon = 10^{-4}`; it also raises
    each :math:`p_c` to at least :math:`10^{-7}`, which is not done here.

    Args:
        logits: z, (B, K, H, W), at the labels' size.
        labels: Class ids y, (B, H, W), any integer dtype.
        ignore_index: The id of pixels without a label, not one of the K classes; None where all have one.
        ce_weight: alpha, of the cross-entropy.
        rce_weight: beta, of the reverse cross-entropy.
        floor: epsilon, what a label's probability of another class counts as in the logarithm; above 0, at most 1.

    Returns:
        Scalar, float64 for float64 logits and float32 otherwise, also under autocast; exact 0 on the graph where
        nothing is labeled.

    Raises:
        TypeError: If an argument is not of its type.
        ValueError: If shapes, dtypes or devices do not fit, ``ignore_index`` is a class, or a number is out of range;
            on a CPU also if an id is not a class.

    Example:
        >>> logits, labels = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 255]]])
        >>> symmetric_cross_entropy(logits, labels)                        # 0.1 ln 2 + 0.5 ln 10000
        tensor(4.6745)
    """
    ignore_index = _checked_labels(logits, labels, ignore_index)
    ce_weight = checked_number("ce_weight", ce_weight, "a finite number of at least 0", least=0.0)
    rce_weight = checked_number("rce_weight", rce_weight, "a finite number of at least 0", least=0.0)
    most = -math.log(checked_number("floor", floor, "above 0 and at most 1", above=0.0, most=1.0))
    with torch.autocast(autocast_device(logits), enabled=False):
        ids = labels.to(torch.int64)
        each = _of_each_pixel(logits, ids, ignore_index)  # -log p_y, and 0 where nothing is labeled
        labeled = torch.ones_like(ids, dtype=torch.bool) if ignore_index is None else ids != ignore_index
        return _mean_over(labeled, ce_weight * each - rce_weight * most * torch.expm1(-each))


def _checked_labels(logits: Tensor, labels: Tensor, ignore_index: int | None) -> int | None:
    """Require logits, and labels of their size and classes; the checked id of pixels without one."""
    check_maps("logits", logits, channel_name="K")
    check_label_map("labels", labels)
    check_same_batch("labels", labels, "logits", logits)
    if labels.shape[1:] != logits.shape[2:]:
        raise ValueError(
            f"labels must have the logits' size (H, W) = {tuple(logits.shape[2:])}, got {tuple(labels.shape)}. "
            "Upsample the logits to the labels first."
        )
    ignored = optional_ignore_index(ignore_index, logits.shape[1])
    check_class_ids("labels", labels, logits.shape[1], ignored)
    return ignored


def _of_each_pixel(logits: Tensor, ids: Tensor, ignore_index: int | None) -> Tensor:
    """Cross-entropy (B, H, W); exact 0 where a pixel is ignored, whatever its logits."""
    if ignore_index is None:
        return F.cross_entropy(as_float(logits), ids, reduction="none")
    return F.cross_entropy(cleared(logits, ids != ignore_index), ids, ignore_index=ignore_index, reduction="none")


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


def soft_cross_entropy(logits: Tensor, soft: Tensor, mask: Tensor) -> Tensor:
    """Soft-label cross-entropy (CRST, label regularized step b), mean over the masked pixels of all images.

    Paper: Zou et al., ICCV 2019, https://arxiv.org/abs/1908.09822.

    .. math:: -\\frac{1}{\\lvert\\text{kept}\\rvert} \\sum_{x\\ \\text{kept}} \\sum_c y_c(x) \\log S_c(z(x))

    Args:
        logits: z, (B, K, H, W), upsampled to the soft labels.
        soft: Soft labels y, (B, K, H, W), from :func:`soft_labels`; no gradient flows to them.
        mask: Pixels that count, (B, H, W) bool.

    Returns:
        Scalar, float64 for float64 logits and float32 otherwise; exact 0 on the graph where no pixel is kept.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit.

    Example:
        >>> probabilities = torch.tensor([[[[0.875, 0.5]], [[0.125, 0.5]]]])
        >>> soft, mask = soft_labels(probabilities, torch.tensor([0.75, 1.0]))
        >>> soft_cross_entropy(torch.zeros(1, 2, 1, 2), soft, mask)
        tensor(0.6931)
    """
    check_maps("logits", logits, channel_name="K")
    check_maps("soft", soft, channels=logits.shape[1], channel_name="K")
    _check_same_pixels("soft", soft, logits)
    _check_mask(mask, logits)
    with torch.autocast(autocast_device(logits), enabled=False):
        scores = cleared(logits, mask)
        wanted = torch.where(mask[:, None], soft.detach().to(scores.dtype), 0.0)
        return _mean_over(mask, F.cross_entropy(scores, wanted, reduction="none"))


def mrkld_regularizer(logits: Tensor, mask: Tensor, weight: float = 0.1) -> Tensor:
    """Model regularizer (CRST-MRKLD): weighted divergence of the prediction from the uniform one, up to a constant.

    .. math:: w \\cdot \\frac{1}{\\lvert\\text{kept}\\rvert} \\sum_{x\\ \\text{kept}} -\\frac1K \\sum_c \\log S_c(z(x))

    Added to the cross-entropy of hard pseudo-labels it keeps the network from becoming too sure of them. Its least
    value is :math:`w \\log K`, at the uniform prediction. Paper: Zou et al., ICCV 2019, model regularized
    self-training, https://arxiv.org/abs/1908.09822. The mean is over the pixels with a pseudo-label, like the
    cross-entropy's.

    Args:
        logits: z, (B, K, H, W), upsampled to the pseudo-labels.
        mask: Pixels with a pseudo-label, (B, H, W) bool: ``labels != 255``.
        weight: w, 0.1 in the paper's runs.

    Returns:
        Scalar, float64 for float64 logits and float32 otherwise; exact 0 on the graph where no pixel is kept.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit.

    Example:
        >>> labels = torch.tensor([[[0, 255]]])
        >>> mrkld_regularizer(torch.zeros(1, 2, 1, 2), labels != 255)
        tensor(0.0693)
    """
    check_maps("logits", logits, channel_name="K")
    weight = checked_number("weight", weight, "a finite number")
    _check_mask(mask, logits)
    with torch.autocast(autocast_device(logits), enabled=False):
        scores = cleared(logits, mask)
        return weight * _mean_over(mask, scores.logsumexp(1) - scores.mean(1))


def _mean_over(mask: Tensor, values: Tensor) -> Tensor:
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def _check_mask(mask: Tensor, logits: Tensor) -> None:
    check_mask("mask", mask)
    _check_same_pixels("mask", mask, logits)


def _check_same_pixels(name: str, tensor: Tensor, logits: Tensor) -> None:
    check_same_batch(name, tensor, "logits", logits)
    if tensor.shape[-2:] != logits.shape[-2:]:
        raise ValueError(
            f"{name} must have the logits' size (H, W) = {tuple(logits.shape[-2:])}, got {tuple(tensor.shape[-2:])}. "
            "Upsample the logits, not the pseudo-labels."
        )
