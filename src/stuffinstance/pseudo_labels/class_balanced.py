"""Class-balanced confidence thresholds from a stream of probabilities (SIM, Eq. 9 and section 6.2)."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stuffinstance._checks import checked_fraction, checked_positive, may_read
from stuffinstance.distributed import Sync, sum_over_ranks
from stuffinstance.pseudo_labels.threshold import PseudoLabelThreshold

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_FLOAT32 = 2**24  # up to here float32 has every whole number
_BITS = 62  # of products of int64


def below(value: float) -> float:
    """The largest multiple of 2^-24 up to a number of 0 .. 1: float32 has it, and is not above the number."""
    return math.floor(value * _FLOAT32) / _FLOAT32


class HistogramRule(PseudoLabelThreshold):
    """Base of the thresholds that are the confidence at some place of a class's sorted list.

    Confidences are counted in ``bins`` equal bins of [0, 1], so the state is K * bins integers however much streams
    through. A confidence read back is the lower edge of its bin: at most ``1 / bins`` below the exact one, and never
    above it (6e-8 more, also downwards, where ``bins`` is not a power of two, for the rounding of float32).
    """

    histogram: Tensor

    def __init__(
        self,
        num_classes: int,
        ignore_index: int,
        bins: int,
        sync: Sync,
        validate_args: bool,
        group: ProcessGroup | None,
    ) -> None:
        super().__init__(num_classes, ignore_index, sync, validate_args, group)
        self.bins = checked_positive("bins", bins)
        self._hold("histogram", self.num_classes, self.bins)

    def counts(self) -> Tensor:
        """Pixels predicted as each class so far, (K,) int64."""
        return self._all_counts().sum(1)

    def _all_counts(self) -> Tensor:
        """The histogram of all ranks that share."""
        return sum_over_ranks(self.histogram, self.sync, self.group)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "bins": int(self.bins)}

    def merge(self, other: PseudoLabelThreshold) -> None:
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
        finite = scores.isfinite()  # where values are not checked, NaN is not counted
        place = self._bin(torch.where(finite, scores, 0)).clamp_(0, self.bins - 1) + predicted * self.bins
        # Counting into a fixed size: bincount would synchronize to learn the size of its result.
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

        The part is the fraction that its decimal number stands for: 0.1 of 30 is 3, although binary has no exact 0.1.
        """
        fraction = Fraction(part).limit_denominator(2**20)
        product = total * fraction.numerator
        whole = product // fraction.denominator
        return whole, product - whole * fraction.denominator, fraction.denominator


class ClassBalancedThreshold(HistogramRule):
    """Class-balanced thresholds (SIM, Eq. 9): per class the capped quantile of its confidences over a data set.

    .. math:: y_k = \\min(\\operatorname{median}\\{\\max_j p_j(x) : \\operatorname{argmax}_j p_j(x) = k\\},\\ 0.9)

    Of *n* ascending confidences the one at place ``round(n * quantile)`` is taken, counted from 0 and rounded half to
    even (the reference implementation's upper median for even *n*). A class that is never predicted gets 0. The paper
    (https://arxiv.org/abs/2003.08040) keeps :math:`S > y_k`, the reference implementation :math:`S \\ge y_k`, as here.

    The state is K * bins integers however much streams through: 10 MB for 19 classes, where sorting Cityscapes'
    training set takes 25 to 34 GB. **Error bound:** each threshold lies at most ``1 / bins`` (1.5e-5) below the exact
    one and never above it, so no pixel is lost that the exact rule keeps. Thresholds are float32, rounded down where
    they are not one (the cap, and edges of bins whose number is not a power of two: 6e-8).

    Args:
        num_classes: K.
        quantile: 0.5 is the median of paper and code.
        cap: Highest threshold, 0.9 in paper and code.
        ignore_index: What pixels below their class's threshold become.
        bins: Resolution of the counts.
        sync: ``"auto"`` adds the counts of all ranks in :meth:`compute`, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Check on a GPU too that probabilities were passed; on CPU tensors that is always checked.

    Attributes:
        histogram: (K, bins) int64: a rank's own counts, saved but not a buffer.

    Raises:
        ValueError: If ``quantile`` or ``cap`` is outside 0 .. 1, or a size is below 1.

    Example:
        >>> threshold = ClassBalancedThreshold(num_classes=2)
        >>> probabilities = torch.tensor([[[[0.75, 0.625, 0.875]], [[0.25, 0.375, 0.125]]]])
        >>> threshold.update(probabilities)
        >>> threshold.compute()                                               # class 1 was never predicted
        tensor([0.8750, 0.0000])
        >>> threshold.pseudo_labels(probabilities)
        tensor([[[255, 255,   0]]])
    """

    def __init__(
        self,
        num_classes: int,
        quantile: float = 0.5,
        cap: float = 0.9,
        ignore_index: int = 255,
        *,
        bins: int = 65536,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
        validate_args: bool = False,
    ) -> None:
        super().__init__(num_classes, ignore_index, bins, sync, validate_args, group)
        self.quantile = checked_fraction("quantile", quantile)
        self.cap = checked_fraction("cap", cap)

    def compute(self) -> Tensor:
        """The K thresholds so far, (K,) float32, on the histogram's device; 0 for a class that was never predicted.

        Warns:
            UserWarning: If no pixel of any class was seen, so that all thresholds are 0 and keep everything. Looked at
                where probabilities are checked.
        """
        counts = self._all_counts()
        total = counts.sum(1)
        if may_read(total, self.validate_args) and not bool(total.any()):
            warnings.warn(
                "thresholds of no predictions are 0, which keeps every pixel: call update(probabilities) over the "
                "target data first.",
                stacklevel=2,
            )
        # round() is half to even, like the reference implementation's
        whole, rest, ones = self._part_of(total, self.quantile)
        place = whole + ((2 * rest + whole % 2) > ones)
        edge = self._confidence_at(counts, torch.minimum(place, total - 1))
        return torch.where(total > 0, edge.clamp(max=below(self.cap)), 0.0)

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return f"num_classes={self.num_classes}, quantile={self.quantile}, cap={self.cap}, bins={self.bins}"
