"""Probabilities to the confidence and the class of each pixel, once it is sure that they are probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from stuffinstance.arguments import check_maps, may_read
from stuffinstance.best_class import best_class

_SAMPLED_PIXELS = 4096


def confidences(probabilities: Tensor, num_classes: int, validate: bool = False) -> tuple[Tensor, Tensor]:
    """The largest probability of each pixel and its class.

    Args:
        probabilities: Softmax outputs, (B, K, H, W), any floating dtype.
        num_classes: K.
        validate: Look at the values on a GPU too; on a CPU they are always looked at.

    Returns:
        Confidences (B, H, W), float64 for float64 and float32 otherwise, and classes (B, H, W) int64.

    Raises:
        ValueError: If rank, dtype or K do not fit, or the values are not probabilities (logits, say, or NaN).

    Example:
        >>> confidence, predicted = confidences(torch.tensor([[[[0.25, 0.5]], [[0.75, 0.5]]]]), num_classes=2)
        >>> confidence.tolist(), predicted.tolist()
        ([[[0.75, 0.5]]], [[[1, 0]]])
    """
    _check_sample("probabilities", probabilities, num_classes, validate)
    values, classes = best_class(probabilities)
    _check_largest("probabilities", values, validate)
    return as_float(values), classes


def check_probabilities(name: str, probabilities: Tensor, num_classes: int, validate: bool = False) -> None:
    """Require softmax outputs (B, K, H, W); looks at the values only where reading is allowed."""
    _check_sample(name, probabilities, num_classes, validate)
    if may_read(probabilities, validate) and probabilities.numel():
        _check_largest(name, probabilities.amax(1), validate)


def as_float(values: Tensor) -> Tensor:
    """float64 as it is, every other precision as float32."""
    return values if values.dtype == torch.float64 else values.float()


def _check_sample(name: str, probabilities: Tensor, num_classes: int, validate: bool) -> None:
    """Look at a few thousand pixels: each must be finite, not negative, and sum to 1."""
    check_maps(name, probabilities, channels=num_classes, channel_name="K")
    if not (may_read(probabilities, validate) and probabilities.numel()):
        return
    batch, _, height, width = probabilities.shape
    step = max(1, int((batch * height * width / _SAMPLED_PIXELS) ** 0.5))
    sample = as_float(probabilities.detach()[:, :, ::step, ::step])
    slack = _slack(probabilities.dtype)
    off = (sample.sum(1) - 1).abs().max()
    if not (bool(sample.min() >= -slack) and bool(off <= slack)):
        raise ValueError(
            f"{name} must be finite, at least 0, and sum to 1 over dimension 1 (K), got values from "
            f"{float(sample.min()):.4g} to {float(sample.max()):.4g} with sums up to {float(off):.4g} away from 1. "
            "For logits pass logits.softmax(1)."
        )


def _check_largest(name: str, largest: Tensor, validate: bool) -> None:
    """Look at the largest probability of every pixel: the cheapest look that misses no NaN."""
    if not (may_read(largest, validate) and largest.numel()):
        return
    lowest, highest = (float(bound) for bound in torch.aminmax(largest.detach()))
    if not (lowest > 0 and highest <= 1 + _slack(largest.dtype)):
        raise ValueError(
            f"{name} must be finite and within 0..1, got a largest one per pixel from {lowest:.4g} to "
            f"{highest:.4g}. For logits pass logits.softmax(1); look for NaN in the network's output."
        )


def _slack(dtype: torch.dtype) -> float:
    """How far rounding may carry a probability, or their sum, beyond 1."""
    return 1e-3 if dtype in (torch.float32, torch.float64) else 2e-2
