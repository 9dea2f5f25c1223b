"""How far a teacher is to be trusted on an image: the share of it that it is sure about."""

import torch
from torch import Tensor

from stuffinstance.arguments import check_maps, checked_fraction, may_read


@torch.no_grad()
def confident_share(probabilities: Tensor, threshold: float = 0.968) -> Tensor:
    """Share of each image's pixels whose largest probability reaches a threshold: the weight of its pseudo-labels.

    .. math:: q_b = \\frac{1}{HW} \\sum_x [\\max_k p_k(x) \\ge \\tau]

    as in DACS (Tranheden et al., WACV 2021) and DAFormer (Hoyer et al., CVPR 2022). Their code takes one share over the
    whole batch: that is this one's ``.mean()``. By image is this library's choice, so that a batch is the mean of its
    images.

    Args:
        probabilities: Softmax outputs, (B, K, H, W).
        threshold: τ, 0.968 in both.

    Returns:
        (B,) float32 in 0 .. 1, without gradient. A pixel that is not finite is not confident.

    Raises:
        ValueError: If ``probabilities`` are none (looked at on a CPU only), or ``threshold`` is outside 0 .. 1.

    Example:
        >>> confident_share(torch.tensor([[[[0.98, 0.6, 0.01, 0.03]], [[0.02, 0.4, 0.99, 0.97]]]]))
        tensor([0.7500])
    """
    check_maps("probabilities", probabilities, channel_name="K")
    threshold = checked_fraction("threshold", threshold)
    best = probabilities.amax(1)
    if may_read(best) and best.numel() and not bool(((best <= 1.02) & (best > 0) | best.isnan()).all()):
        raise ValueError(
            f"probabilities must be within 0..1 and sum to 1 over dimension 1 (K), got a largest one per pixel from "
            f"{float(best.min()):.4g} to {float(best.max()):.4g}. For logits pass logits.softmax(1)."
        )
    exact = best if best.dtype == torch.float64 else best.float()  # a half-precision threshold would be another
    sure = (exact >= threshold) & best.isfinite()
    return sure.to(torch.float32).mean((1, 2))
