"""Logits of a trained network, or an error where they are no longer finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def finite_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, K, h, w) in float32 of images (B, 3, H, W) in [0, 1]; reads one flag from the device.

    Finite weights do not make finite logits: those of a training that diverges overflow on the way.

    Raises:
        FloatingPointError: If a logit is NaN or infinite.
    """
    logits: Tensor = network(images).logits.float()
    if not bool(torch.isfinite(logits).all()):
        raise FloatingPointError(
            "predictions: expected finite logits, got NaN or infinities: training has diverged. Lower optimizer.lr, "
            "optimizer.weight_decay or the weights of the recipe's parts, and use another --out."
        )
    return logits
