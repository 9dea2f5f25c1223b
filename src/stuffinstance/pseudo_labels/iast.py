"""Instance adaptive self-training thresholds (IAST, Mei et al., ECCV 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stuffinstance._checks import checked_fraction, checked_number
from stuffinstance._numerics import on_cpu
from stuffinstance.distributed import Sync, gather_rows, sum_over_ranks
from stuffinstance.pseudo_labels.threshold import PseudoLabelThreshold

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_FINE, _KEY = 53, 40  # bits behind the point: of thresholds, as of a float64 number in 1/2 .. 1, and of sorted scores
_SHARE = 31  # and of the share of pixels below the percentile
HIGHEST = 0.999  # the reference implementation's: at 1 only a probability that rounds to 1 would be kept


class IASTThreshold(PseudoLabelThreshold):
    """Instance adaptive self-training thresholds (IAST): per class an exponential mean of batch percentiles.

    .. math:: q_c = \\operatorname{percentile}\\bigl(\\{\\theta_c\\} \\cup C_c,\\ 100\\,(1 - \\alpha\\,
              \\theta_c^{\\gamma})\\bigr), \\qquad \\theta_c \\leftarrow \\beta\\, \\theta_c + (1 - \\beta)\\, q_c

    with :math:`C_c` the confidences of the batch's pixels predicted as *c*, the percentile linear between neighbors. A
    threshold from 1 on becomes 0.999. Paper: Mei et al., ECCV 2020, https://arxiv.org/abs/2008.12197, the instance
    adaptive selector; the defaults are those of the paper's runs.

    The rule is online: :meth:`update` moves the thresholds, :meth:`compute` and :meth:`pseudo_labels` use them as they
    are. IAST updates with a batch of the target and then labels the same batch. Each call of :meth:`update` is one
    batch: a batch of three images is one step, not three. A class that the batch does not contain keeps its threshold.

    The percentile is one of the batch's pixels sorted by class and confidence, in whole numbers of 40 bits behind the
    point; its place among n pixels is within 2e-7 n of the exact one. Thresholds move in whole numbers of 53 bits, so
    no step is too small for them. The state is 2 K numbers. Under ``torch.distributed`` the batches of all ranks are
    one batch, so all ranks hold the same thresholds; every rank must then call :meth:`update` equally often.

    Args:
        num_classes: K.
        start: First threshold of every class.
        alpha: Share of a class's pixels that a threshold of 1 would keep.
        beta: What an old threshold weighs against the batch's percentile.
        gamma: How much smaller the share is for classes of low threshold.
        ignore_index: What pixels below their class's threshold become.
        sync: ``"auto"`` takes the batches of all ranks together, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Check on a GPU too that probabilities were passed; on CPU tensors that is always checked.

    Attributes:
        thresholds: (K,) float64 on the CPU, read from the device; :meth:`compute` gives them there in float32.
        fixed: (K,) int64, the thresholds times 2^53. A rank's own, as ``seen``: saved, but not buffers.
        seen: (K,) int64, pixels predicted as each class.

    Raises:
        ValueError: If ``start``, ``alpha`` or ``beta`` is outside 0 .. 1, ``gamma`` is below 0, or a size is below 1.

    Example:
        >>> threshold = IASTThreshold(num_classes=2)
        >>> probabilities = torch.tensor([[[[0.75, 0.625, 0.875]], [[0.25, 0.375, 0.125]]]])
        >>> threshold.update(probabilities)
        >>> threshold.compute()                                             # class 1 was not predicted
        tensor([0.8994, 0.9000])
        >>> threshold.pseudo_labels(torch.tensor([[[[0.95, 0.85]], [[0.05, 0.15]]]]))
        tensor([[[  0, 255]]])
    """

    fixed: Tensor
    seen: Tensor

    def __init__(
        self,
        num_classes: int,
        start: float = 0.9,
        alpha: float = 0.2,
        beta: float = 0.9,
        gamma: float = 8.0,
        ignore_index: int = 255,
        *,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
        validate_args: bool = False,
    ) -> None:
        super().__init__(num_classes, ignore_index, sync, validate_args, group)
        self.start = checked_fraction("start", start)
        self.alpha = checked_fraction("alpha", alpha)
        self.beta = checked_fraction("beta", beta)
        self.gamma = checked_number("gamma", gamma, "at least 0", least=0)
        self._hold("fixed", self.num_classes, value=round(self.start * 2**_FINE))
        self._hold("seen", self.num_classes)

    @property
    def thresholds(self) -> Tensor:
        """The K thresholds, (K,) float64 on the CPU: all their digits, read from the device."""
        return on_cpu(self.fixed.cpu().numpy() / np.float64(2**_FINE))

    def compute(self) -> Tensor:
        """The K thresholds as they are, (K,) float32, on the state's device."""
        return self.fixed.to(torch.float32).div_(2**_FINE)

    def counts(self) -> Tensor:
        """Pixels predicted as each class so far, of all ranks where their batches are taken together, (K,) int64."""
        return self.seen.clone()

    def merge(self, other: PseudoLabelThreshold) -> None:
        """Not possible: an exponential mean depends on the order, and two of them do not make the one of both streams.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "thresholds that move with every batch cannot be merged: which stream came first would matter. "
            "Pass all batches to one IASTThreshold; ranks of torch.distributed share one with sync='auto'."
        )

    def _take(self, scores: Tensor, predicted: Tensor) -> None:
        finite = scores.isfinite()
        # Class and score in one whole number, so that one sort orders both: the scores of class c lie in 2c .. 2c + 1,
        # and what is not finite behind all of them.
        one = 2**_KEY
        score = (torch.where(finite, scores, 0).clamp(0, 1) * one).to(torch.int64)
        keys = torch.where(finite, score + 2 * one * predicted, 2 * one * self.num_classes)
        (keys,) = gather_rows((keys.flatten(),), self.sync, self.group)
        counts = torch.zeros_like(self.seen).scatter_add_(0, predicted.flatten(), finite.flatten().to(torch.int64))
        counts = sum_over_ranks(counts, self.sync, self.group)
        offset = 2 * one * torch.arange(self.num_classes, device=keys.device)
        own = self.fixed >> (_FINE - _KEY)
        ordered = torch.cat([keys, own + offset]).sort().values
        first = (counts + 1).cumsum(0) - (counts + 1)  # each class also has its own threshold
        above = (self.alpha * self.compute() ** self.gamma).clamp(0, 1)  # the share of pixels above the percentile
        place = (2**_SHARE - (above * 2**_SHARE).to(torch.int64)) * counts
        below = place >> _SHARE
        lower = ordered[first + below] - offset
        upper = ordered[first + torch.minimum(below + 1, counts)] - offset
        between = (place - (below << _SHARE)).to(torch.float32) / 2**_SHARE
        percentile = lower + ((upper - lower) * between).round().to(torch.int64)
        # A threshold moves by a step, whose rounding is not that of the threshold.
        step = ((percentile << (_FINE - _KEY)) - self.fixed).to(torch.float32) * (1 - self.beta)
        moved = self.fixed + step.round().to(torch.int64)
        moved = torch.where(moved.to(torch.float32) >= 2**_FINE, round(HIGHEST * 2**_FINE), moved)
        self.fixed.copy_(torch.where(counts > 0, moved, self.fixed))
        self.seen.add_(counts)

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return (
            f"num_classes={self.num_classes}, start={self.start}, alpha={self.alpha}, beta={self.beta}, "
            f"gamma={self.gamma}"
        )
