"""Confidences counted per class in a fixed number of bins, in place of a sorted list of the whole data set."""

from __future__ import annotations

import math
from abc import abstractmethod
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stuffinstance.arguments import checked_positive
from stuffinstance.distributed import Sync, sum_over_ranks
from stuffinstance.pseudo_labels.threshold_rule import ThresholdRule

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_FLOAT32 = 2**24  # up to here float32 has every whole number
_BITS = 62  # of products of int64


def below(value: float) -> float:
    """The largest multiple of 2^-24 up to a number of 0 .. 1: float32 has it, and is not above the number."""
    return math.floor(value * _FLOAT32) / _FLOAT32


class HistogramRule(ThresholdRule):
    """Abstract: a rule whose threshold is the confidence at some place of a class's sorted list.

    Confidences are counted in ``bins`` equal bins of [0, 1], so the state is K * bins integers however much streams
    through. A confidence read back is the lower edge of its bin: at most ``1 / bins`` below the exact one, and never
    above it (6e-8 more, also downwards, where ``bins`` is not a power of two, for the rounding of float32).

    Args:
        num_classes: K.
        ignore_index: What pixels without a pseudo-label become.
        bins: Resolution of the counts.
        sync: ``"auto"`` adds the counts of all ranks in :meth:`compute`, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate: Check on a GPU too that probabilities were passed; on CPU tensors that is always checked.

    Attributes:
        histogram: (K, bins) int64: a rank's own counts, saved but not a buffer.

    Raises:
        ValueError: If a size is below 1, or ``ignore_index`` is a class.
    """

    histogram: Tensor

    def __init__(
        self,
        num_classes: int,
        ignore_index: int,
        bins: int,
        sync: Sync,
        validate: bool,
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(num_classes, ignore_index, sync, validate, group)
        bins = checked_positive("bins", bins)
        self.bins = bins
        self._hold("histogram", self.num_classes, bins)

    @abstractmethod
    def compute(self) -> Tensor:
        """The K thresholds so far, (K,) float32, on the histogram's device."""

    def counts(self) -> Tensor:
        """Pixels predicted as each class so far, (K,) int64."""
        return self._all_counts().sum(1)

    def reset(self) -> None:
        """Forget everything: back to the state after construction."""
        super().reset()

    def _all_counts(self) -> Tensor:
        """The histogram of all ranks that share."""
        return sum_over_ranks(self.histogram, self.sync, self.group)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "bins": int(self.bins)}

    def merge(self, other: ThresholdRule) -> None:
        """Add the counts of another part of the data set.

        Raises:
            TypeError: If ``other`` is another kind of rule.
            ValueError: If ``other`` counts other classes or bins.
        """
        if not isinstance(other, HistogramRule) or type(other) is not type(self):
            raise TypeError(f"other must be a {type(self).__name__}, as this one is, got {type(other).__name__}.")
        if other.histogram.shape != self.histogram.shape:
            raise ValueError(
                f"other must count (K, bins) = {tuple(self.histogram.shape)}, got {tuple(other.histogram.shape)}."
            )
        self.histogram.add_(other.histogram.to(self.histogram.device))

    def _take(self, scores: Tensor, predicted: Tensor) -> None:
        finite = scores.isfinite()  # where looking is not free, what is not a number is at least not counted
        place = self._bin(torch.where(finite, scores, 0)).clamp_(0, self.bins - 1) + predicted * self.bins
        # Counting into a fixed size: bincount would ask a GPU how large its result is.
        self.histogram.view(-1).scatter_add_(0, place.flatten(), finite.flatten().to(torch.int64))

    def _bin(self, scores: Tensor) -> Tensor:
        """The bin of each score: no rounding carries a score up into the next one."""
        if scores.dtype == torch.float64 or self.bins & (self.bins - 1) == 0:  # times a power of two is exact
            return (scores * self.bins).to(torch.int64)
        bits = min(40, _BITS - self.bins.bit_length())
        place: Tensor = ((scores * 2**bits).to(torch.int64) * self.bins) >> bits
        return place

    def _confidence_at(self, counts: Tensor, place: Tensor) -> Tensor:
        """The confidence at a place (K,) of each ascending list, counted from 0; ``counts`` are (K, bins)."""
        reached = counts.cumsum(1) > place[:, None]  # the first bin that holds the wanted place
        edge = reached.to(torch.uint8).argmax(1) * _FLOAT32 // self.bins  # rounded down, never above the exact edge
        return edge.to(torch.float32).div_(_FLOAT32)

    def _part_of(self, total: Tensor, part: float) -> tuple[Tensor, Tensor, int]:
        """``total * part`` as whole numbers, the rest, and what the rest is a fraction of, without float64.

        The part is the fraction that its decimal number stands for: a tenth of 30 is 3, though 0.1 is none in binary.
        """
        fraction = Fraction(part).limit_denominator(2**20)
        product = total * fraction.numerator
        whole = product // fraction.denominator
        return whole, product - whole * fraction.denominator, fraction.denominator
