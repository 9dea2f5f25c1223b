"""Arithmetic of one running mean per class; knows tensors only, no modules."""

import torch
from torch import Tensor


def running_mean(mean: Tensor, count: Tensor, rows: Tensor, valid: Tensor, max_count: int) -> tuple[Tensor, Tensor]:
    """Take N rows per class into the running means, as if one after the other, without a loop.

    .. math:: \\mu \\leftarrow \\frac{n \\mu + x}{n + 1}, \\qquad n \\leftarrow \\min(n + 1, n_{max})

    Once the count stands at its most, each further row weighs :math:`1 / (n_{max} + 1)` and older rows fade. The count
    before each row is known beforehand, so every row's weight is its own share times what later rows leave of it, and
    all rows are added at once. The result is that of the loop but for rounding in float64.

    Args:
        mean: (K, D).
        count: (K,) int64, at most ``max_count``.
        rows: (N, K, D), in order.
        valid: (N, K) bool; other rows may hold anything, do not enter and do not count.
        max_count: Where the count stops.

    Returns:
        The new ``(mean, count)``, (K, D) float64 and (K,) int64; the arguments are left as they are.

    Example:
        >>> rows = torch.tensor([[[2.0]], [[4.0]], [[9.0]]])
        >>> running_mean(torch.zeros(1, 1), torch.tensor([0]), rows, torch.ones(3, 1, dtype=torch.bool), max_count=2)
        (tensor([[5.]], dtype=torch.float64), tensor([2]))
    """
    before = (count + valid.cumsum(0) - 1).clamp(max=max_count).to(torch.float64)  # (N, K): n when the row comes
    left = torch.where(valid, before / (before + 1), 1)
    # (N + 1, K): what the rows from i on leave of all that came before them.
    left_after = torch.cat([left.flip(0).cumprod(0).flip(0), left.new_ones(1, left.shape[1])])
    weight = (1 - left) * left_after[1:]
    entering = torch.where(valid[:, :, None], rows.to(torch.float64), 0)
    total = left_after[0, :, None] * mean.to(torch.float64) + (weight[:, :, None] * entering).sum(0)
    return total, (count + valid.sum(0)).clamp(max=max_count)
