"""Arithmetic of one running mean per class; knows tensors only, no modules."""

import torch
from torch import Tensor

from stuffinstance.float_pairs import add_to_pair, difference


def running_mean(
    mean: Tensor, remainder: Tensor, count: Tensor, rows: Tensor, valid: Tensor, max_count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Take N rows per class into the running means, as if one after the other, without a loop.

    .. math:: \\mu \\leftarrow \\frac{n \\mu + x}{n + 1}, \\qquad n \\leftarrow \\min(n + 1, n_{max})

    Once the count stands at its most, each further row weighs :math:`1 / (n_{max} + 1)` and older rows fade. The count
    before each row is known beforehand, so every row's weight is its own share times what later rows leave of it, and
    all rows are added together, each by its weight times its difference to the mean: rounding is that of the step, not
    of the mean. The mean has 48 bits in two float32 numbers (:func:`add_to_pair`), so small steps are not lost.

    Args:
        mean: (K, D) float32.
        remainder: (K, D) float32, what ``mean`` cannot hold.
        count: (K,) int64, at most ``max_count``.
        rows: (N, K, D), in order; float64 rows are added in float64.
        valid: (N, K) bool; other rows may hold anything, do not enter and do not count.
        max_count: Where the count stops.

    Returns:
        The new ``(mean, remainder, count)``; the arguments are left as they are.

    Example:
        >>> rows = torch.tensor([[[2.0]], [[4.0]], [[9.0]]])
        >>> zero, valid = torch.zeros(1, 1), torch.ones(3, 1, dtype=torch.bool)
        >>> running_mean(zero, zero, torch.tensor([0]), rows, valid, max_count=2)
        (tensor([[5.]]), tensor([[0.]]), tensor([2]))
    """
    before = (count + valid.cumsum(0) - 1).clamp(max=max_count).to(rows.dtype)  # (N, K): n when the row comes
    share = torch.where(valid, 1 / (before + 1), 0)
    # (N, K): what the rows behind each leave of it.
    left = torch.cat([(1 - share)[1:].flip(0).cumprod(0).flip(0), share.new_ones(1, share.shape[1])])[: len(share)]
    apart = torch.where(valid[:, :, None], difference(rows, mean, remainder), 0)
    step = ((share * left)[:, :, None] * apart).sum(0)
    return *add_to_pair(mean, remainder, step), (count + valid.sum(0)).clamp(max=max_count)
