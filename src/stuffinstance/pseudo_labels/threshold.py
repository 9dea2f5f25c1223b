"""Base classes of the pseudo-label thresholds, and the checks of probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stuffinstance._checks import (
    FLOATING_DTYPES,
    check_can_move,
    check_class_ids,
    check_label_map,
    check_maps,
    check_on_device,
    check_same_batch,
    check_scores,
    check_tensor,
    checked_ignore_index,
    checked_num_classes,
    describe,
    may_read,
)
from stuffinstance._numerics import as_float, best_class
from stuffinstance._state import StatefulModule
from stuffinstance.distributed import Sync

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_SAMPLED_PIXELS = 4096


def confidences(probabilities: Tensor, num_classes: int, validate_args: bool = False) -> tuple[Tensor, Tensor]:
    """The largest probability of each pixel and its class.

    Args:
        probabilities: Softmax outputs, (B, K, H, W), any floating dtype.
        num_classes: K.
        validate_args: Check the values on a GPU too; on a CPU they are always checked.

    Returns:
        Confidences (B, H, W), float64 for float64 and float32 otherwise, and classes (B, H, W) int64.

    Raises:
        ValueError: If rank, dtype or K do not fit, or the values are not probabilities (logits, say, or NaN).

    Example:
        >>> confidence, predicted = confidences(torch.tensor([[[[0.25, 0.5]], [[0.75, 0.5]]]]), num_classes=2)
        >>> confidence.tolist(), predicted.tolist()
        ([[[0.75, 0.5]]], [[[1, 0]]])
    """
    _check_sample("probabilities", probabilities, num_classes, validate_args)
    values, classes = best_class(probabilities)
    _check_largest("probabilities", values, validate_args)
    return as_float(values), classes


def check_probabilities(name: str, probabilities: Tensor, num_classes: int, validate_args: bool = False) -> None:
    """Require softmax outputs (B, K, H, W); looks at the values only where reading is allowed."""
    _check_sample(name, probabilities, num_classes, validate_args)
    if may_read(probabilities, validate_args) and probabilities.numel():
        _check_largest(name, probabilities.amax(1), validate_args)


def _check_sample(name: str, probabilities: Tensor, num_classes: int, validate_args: bool) -> None:
    """Look at a few thousand pixels: each must be finite, not negative, and sum to 1."""
    check_maps(name, probabilities, channels=num_classes, channel_name="K")
    if not (may_read(probabilities, validate_args) and probabilities.numel()):
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


def _check_largest(name: str, largest: Tensor, validate_args: bool) -> None:
    """Look at the largest probability of every pixel: the cheapest look that misses no NaN."""
    if not (may_read(largest, validate_args) and largest.numel()):
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


class PseudoLabelThreshold(StatefulModule, ABC):
    """Base of the pseudo-label thresholds: one per class from a stream of target predictions.

    Feed it with :meth:`update`, read :meth:`compute`, label with :meth:`pseudo_labels`. Scores other than the largest
    probability go through :meth:`update_scores` and :meth:`filter`.

    Args:
        num_classes: K.
        ignore_index: What pixels without a pseudo-label become.
        sync: ``"auto"`` makes the thresholds those of all ranks, ``"off"`` keeps to the own ones.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Check values on a GPU too; on CPU tensors they are always checked.

    Raises:
        TypeError: If ``ignore_index`` is not a whole number.
        ValueError: If ``num_classes`` is below 1, or ``ignore_index`` is a class.

    Example:
        >>> probabilities = torch.tensor([[[[0.75, 0.625, 0.875]], [[0.25, 0.375, 0.125]]]])
        >>> for rule in (ClassBalancedThreshold(num_classes=2), IASTThreshold(num_classes=2, start=0.7)):
        ...     rule.update(probabilities)
        ...     print(rule.pseudo_labels(probabilities).tolist())
        [[[255, 255, 0]]]
        [[[0, 255, 0]]]
    """

    def __init__(
        self, num_classes: int, ignore_index: int, sync: Sync, validate_args: bool, group: ProcessGroup | None = None
    ) -> None:
        super().__init__(sync, group, validate_args)
        self.num_classes = checked_num_classes(num_classes)
        self.ignore_index: int = checked_ignore_index(ignore_index, self.num_classes)

    @abstractmethod
    def compute(self) -> Tensor:
        """The K thresholds so far, (K,) float32, on the state's device."""

    @abstractmethod
    def counts(self) -> Tensor:
        """Pixels predicted as each class so far, (K,) int64."""

    @abstractmethod
    def merge(self, other: PseudoLabelThreshold) -> None:
        """Add what a rule of the same kind took from another part of the data set."""

    @abstractmethod
    def _take(self, scores: Tensor, predicted: Tensor) -> None:
        """Move the state by checked scores (B, H, W); what is not finite must leave no trace."""

    @torch.no_grad()
    def update(self, probabilities: Tensor) -> None:
        """Take in a batch.

        Args:
            probabilities: Softmax outputs, (B, K, H, W), at the resolution at which pseudo-labels are wanted (SIM takes
                the softmax first and upsamples the probabilities).

        Raises:
            ValueError: If rank, dtype or K do not fit, or the values are not probabilities (logits, say, or NaN).
        """
        self._check_device("probabilities", probabilities)
        self._take(*confidences(probabilities, self.num_classes, self.validate_args))

    @torch.no_grad()
    def update_scores(self, scores: Tensor, predicted: Tensor) -> None:
        """Take in a batch whose score is another one than the largest probability.

        Args:
            scores: (B, H, W), floating, within 0..1. What is not finite is ignored.
            predicted: The class each score is for, (B, H, W), any integer dtype; ``ignore_index`` ignores a pixel.

        Raises:
            ValueError: If shapes, dtypes or devices do not fit, or ``predicted`` holds what is not a class.
        """
        self._take(*self._checked_scores(scores, predicted))

    @torch.no_grad()
    def pseudo_labels(self, probabilities: Tensor, thresholds: Tensor | None = None) -> Tensor:
        """The predicted class where its confidence reaches the class's threshold, ``ignore_index`` elsewhere.

        Args:
            probabilities: Softmax outputs, (B, K, H, W).
            thresholds: (K,), from :meth:`compute`; computed here where it is not given. Under ``torch.distributed``
                compute them once and pass them, or call this equally often on every rank.

        Returns:
            Class ids, (B, H, W) int64.

        Raises:
            ValueError: If ``thresholds`` are not (K,), or ``probabilities`` are not probabilities.
        """
        thresholds = self._thresholds(thresholds)
        self._check_device("probabilities", probabilities)
        return self._kept(*confidences(probabilities, self.num_classes, self.validate_args), thresholds)

    @torch.no_grad()
    def filter(self, scores: Tensor, predicted: Tensor, thresholds: Tensor | None = None) -> Tensor:
        """``predicted`` where its score reaches the class's threshold, ``ignore_index`` elsewhere.

        Args:
            scores: (B, H, W), floating. NaN is not kept.
            predicted: Class ids, (B, H, W), any integer dtype; ``ignore_index`` stays.
            thresholds: As for :meth:`pseudo_labels`.

        Returns:
            Class ids, (B, H, W) int64.

        Raises:
            ValueError: If shapes, dtypes or devices do not fit, or ``predicted`` holds what is not a class.
        """
        thresholds = self._thresholds(thresholds)
        return self._kept(*self._checked_scores(scores, predicted), thresholds)

    def _kept(self, scores: Tensor, predicted: Tensor, thresholds: Tensor) -> Tensor:
        least = thresholds.to(scores.device)[predicted]
        return torch.where(scores >= least, predicted, self.ignore_index)  # in the finer dtype of the two

    def _thresholds(self, thresholds: Tensor | None) -> Tensor:
        if thresholds is None:
            return self.compute()
        check_thresholds("thresholds", thresholds, self.num_classes)
        check_can_move("thresholds", thresholds, "rule", self._held())
        return thresholds

    def _checked_scores(self, scores: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, NaN where one is not finite or no class is given, and classes that can be used as an index."""
        check_scores("scores", scores)
        check_label_map("predicted", predicted)
        check_same_batch("predicted", predicted, "scores", scores)
        if predicted.shape != scores.shape:
            raise ValueError(
                f"predicted must have the scores' size (B, H, W) = {tuple(scores.shape)}, got {tuple(predicted.shape)}."
            )
        check_class_ids("predicted", predicted, self.num_classes, self.ignore_index, self.validate_args)
        self._check_device("scores", scores)
        # What is not finite is ignored. Half precision may carry a score a little beyond 1.
        outside = torch.isfinite(scores) & ((scores < 0) | (scores > 1 + 1e-2))
        if may_read(scores, self.validate_args) and bool(outside.any()):
            raise ValueError(
                f"scores must be within 0..1, got {int(outside.sum())} that are not, such as "
                f"{float(scores[outside][0]):.4g}. Scale them first: thresholds are sought between 0 and 1."
            )
        classes = predicted.to(torch.int64)
        within = (classes >= 0) & (classes < self.num_classes)
        return torch.where(within & torch.isfinite(scores), scores, torch.nan), torch.where(within, classes, 0)

    def _check_device(self, name: str, tensor: Tensor) -> None:
        if isinstance(tensor, Tensor):
            check_on_device(name, tensor, "rule", self._held())

    def _held(self) -> Tensor:
        """Some state of the rule, which is where the rule is."""
        held: list[Tensor] = [*(getattr(self, name) for name in self._initial), *self.buffers()]
        return held[0]

    def _settings(self) -> dict[str, Any]:
        return {"num_classes": int(self.num_classes)}


def check_thresholds(name: str, thresholds: Tensor, num_classes: int) -> None:
    """Require a floating tensor (K,)."""
    check_tensor(name, f"a floating-point tensor (K,) = ({num_classes},)", thresholds)
    if thresholds.shape != (num_classes,) or thresholds.dtype not in FLOATING_DTYPES:
        raise ValueError(
            f"{name} must be a floating-point tensor (K,) = ({num_classes},), got {describe(thresholds)}. "
            "Pass what a rule of the same classes gave in compute()."
        )


def check_above_zero(name: str, thresholds: Tensor, validate_args: bool = False) -> None:
    """Require thresholds to divide by."""
    if may_read(thresholds, validate_args) and not bool((thresholds > 0).all()):
        raise ValueError(
            f"{name} must all be above 0, got {thresholds.tolist()}. Take them from CBSTThreshold.compute(), where "
            "a class that was never predicted gets 1."
        )
