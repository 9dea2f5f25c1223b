"""Confidence-regularized self-training: soft pseudo-labels and regularizers (CRST, Zou et al., ICCV 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stuffinstance._checks import (
    check_can_move,
    check_maps,
    check_mask,
    check_same_batch,
    checked_divisor,
    checked_flag,
    checked_number,
)
from stuffinstance._numerics import autocast_device
from stuffinstance.pseudo_labels.threshold import as_float, check_above_zero, check_probabilities, check_thresholds


@torch.no_grad()
def soft_labels(
    probabilities: Tensor, thresholds: Tensor, alpha: float = 0.25, *, validate_args: bool = False
) -> tuple[Tensor, Tensor]:
    """Soft pseudo-labels of label entropy regularized self-training (CRST-LRENT), and the mask of pixels with one.

    .. math:: y_c = \\frac{(p_c / k_c)^{1/\\alpha}}{\\sum_j (p_j / k_j)^{1/\\alpha}}, \\qquad
              \\text{kept where } -\\sum_c y_c \\log p_c + \\alpha \\sum_c y_c \\log y_c < -\\sum_c y_c \\log k_c

    Put *y* into the condition and all of it cancels but
    :math:`\\sum_c (p_c / k_c)^{1/\\alpha} > 1`, which is what is computed. As :math:`\\alpha` goes to 0 labels and
    pixels become those of :class:`CBSTThreshold`. Source: Zou et al., *Confidence Regularized Self-Training*, ICCV
    2019, label regularized self-training, LRENT.

    Args:
        probabilities: Softmax outputs, (B, K, H, W).
        thresholds: k, (K,), above 0, from :meth:`CBSTThreshold.compute`.
        alpha: Weight of the entropy, 0.25 in the paper's runs: the larger, the softer.
        validate_args: Check the values on a GPU too; on a CPU they are always checked.

    Returns:
        Soft labels (B, K, H, W), float64 for float64 and float32 otherwise, of sum 1 at every pixel; and the mask
        (B, H, W) of the pixels that have one.

    Raises:
        ValueError: If ``thresholds`` are not (K,) or not above 0, ``alpha`` is not above 0, or ``probabilities`` are
            not probabilities.

    Example:
        >>> probabilities = torch.tensor([[[[0.875, 0.5]], [[0.125, 0.5]]]])
        >>> soft, mask = soft_labels(probabilities, torch.tensor([0.75, 1.0]))
        >>> soft[0, :, 0].round(decimals=3)
        tensor([[1.0000, 0.7600],
                [0.0000, 0.2400]])
        >>> mask
        tensor([[[ True, False]]])
    """
    alpha = checked_divisor("alpha", alpha)
    validate_args = checked_flag("validate_args", validate_args)
    check_maps("probabilities", probabilities, channel_name="K")
    num_classes = probabilities.shape[1]
    check_thresholds("thresholds", thresholds, num_classes)
    check_can_move("thresholds", thresholds, "tensor of probabilities", probabilities)
    check_above_zero("thresholds", thresholds, validate_args)
    check_probabilities("probabilities", probabilities, num_classes, validate_args)
    thresholds = thresholds.to(probabilities.device)
    # In logarithms a probability of 0 stays a label of 0, and no power overflows.
    logarithms = as_float(probabilities).log()
    exponent = (logarithms - thresholds.log().to(logarithms.dtype)[:, None, None]) / alpha
    return exponent.softmax(1), exponent.logsumexp(1) > 0


def soft_cross_entropy(logits: Tensor, soft: Tensor, mask: Tensor) -> Tensor:
    """Soft-label cross-entropy (CRST, label regularized step b), mean over the masked pixels of all images.

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
        scores = _cleared(logits, mask)
        wanted = torch.where(mask[:, None], soft.detach().to(scores.dtype), 0.0)
        return _mean_over(mask, F.cross_entropy(scores, wanted, reduction="none"))


def mrkld_regularizer(logits: Tensor, mask: Tensor, weight: float = 0.1) -> Tensor:
    """Model regularizer (CRST-MRKLD): weighted divergence of the prediction from the uniform one, up to a constant.

    .. math:: w \\cdot \\frac{1}{\\lvert\\text{kept}\\rvert} \\sum_{x\\ \\text{kept}} -\\frac1K \\sum_c \\log S_c(z(x))

    Added to the cross-entropy of hard pseudo-labels it keeps the network from becoming too sure of them. Its least
    value is :math:`w \\log K`, at the uniform prediction. Source: Zou et al., *Confidence Regularized Self-Training*,
    ICCV 2019, model regularized self-training. The mean is over the pixels with a pseudo-label, like the
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
        scores = _cleared(logits, mask)
        return weight * _mean_over(mask, scores.logsumexp(1) - scores.mean(1))


def _cleared(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits that do not count become 0 before anything is computed, so that a NaN there spoils no gradient."""
    return torch.where(mask[:, None], as_float(logits), 0.0)


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
