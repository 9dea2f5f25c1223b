"""Confidences counted per class in a fixed number of bins, in place of a sorted list of the whole data set."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from stuffinstance.arguments import checked_positive
from stuffinstance.distributed import Sync, sum_over_ranks
from stuffinstance.pseudo_labels.threshold_rule import ThresholdRule


class HistogramRule(ThresholdRule):
    """Abstract: a rule whose threshold is the confidence at some place of a class's sorted list.

    Confidences are counted in ``bins`` equal bins of [0, 1], so the state is K * bins integers however much streams
    through. A confidence read back is the lower edge of its bin: at most ``1 / bins`` below the exact one, and never
    above it.

    Args:
        num_classes: K.
        ignore_index: What pixels without a pseudo-label become.
        bins: Resolution of the counts.
        sync: ``"auto"`` adds the counts of all ranks in :meth:`compute`, ``"off"`` does not.
        validate: Check on a GPU too that probabilities were passed; on CPU tensors that is always checked.

    Attributes:
        histogram: Buffer (K, bins) int64.

    Raises:
        ValueError: If a size is below 1, or ``ignore_index`` is a class.
    """

    histogram: Tensor

    def __init__(self, num_classes: int, ignore_index: int, bins: int, sync: Sync, validate: bool) -> None:
        super().__init__(num_classes, ignore_index, sync, validate)
        bins = checked_positive("bins", bins)
        self.bins = bins
        self.register_buffer("histogram", torch.zeros(self.num_classes, bins, dtype=torch.int64))

    @abstractmethod
    def compute(self) -> Tensor:
        """The K thresholds so far, (K,) float64, on the histogram's device."""

    def counts(self) -> Tensor:
        """Pixels predicted as each class so far, (K,) int64."""
        return sum_over_ranks(self.histogram, self.sync).sum(1)

    def reset(self) -> None:
        """Forget everything."""
        self.histogram.zero_()

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
        self.histogram += other.histogram.to(self.histogram.device)

    def _take(self, scores: Tensor, predicted: Tensor) -> None:
        finite = scores.isfinite()  # where looking is not free, what is not a number is at least not counted
        # In float64, so that no confidence is rounded up into the next bin.
        place = (torch.where(finite, scores, 0).to(torch.float64) * self.bins).to(torch.int64)
        place = place.clamp_(0, self.bins - 1) + predicted * self.bins
        # Counting into a fixed size: bincount would ask a GPU how large its result is.
        self.histogram.view(-1).scatter_add_(0, place.flatten(), finite.flatten().to(torch.int64))

    def _confidence_at(self, counts: Tensor, place: Tensor) -> Tensor:
        """The confidence at a place (K,) of each ascending list, counted from 0; ``counts`` are (K, bins)."""
        reached = counts.cumsum(1) > place[:, None]  # the first bin that holds the wanted place
        return reached.to(torch.uint8).argmax(1).to(torch.float64) / self.bins
