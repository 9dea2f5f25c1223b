"""Symmetric adaptation consistency: pseudo-labels where two networks are confident and agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from stuffinstance._checks import check_choice, check_kind, check_same_batch
from stuffinstance._numerics import as_float, best_class
from stuffinstance.pseudo_labels.threshold import PseudoLabelThreshold, check_probabilities

Consistency = Literal["l1", "agreement"]


class FusedPrediction(NamedTuple):
    """Fused prediction of two networks, its class and its scores.

    Attributes:
        probabilities: The fused prediction, (B, K, H, W).
        labels: Its argmax, (B, H, W) int64.
        probability: :math:`M_{prob}`, (B, H, W).
        consistency: :math:`M_{consist}`, (B, H, W).
        score: :math:`M_{final}`, (B, H, W).
    """

    probabilities: Tensor
    labels: Tensor
    probability: Tensor
    consistency: Tensor
    score: Tensor


class SymmetricConsistency(nn.Module):
    """Symmetric adaptation consistency: fused predictions of two networks, filtered by a score of both.

    .. math:: p = \\tfrac12 (p_A + p_B), \\quad M_{final} = \\tfrac12 (M_{prob} + M_{consist}), \\quad
              M_{prob} = \\max_c p_c, \\quad M_{consist} = 1 - \\tfrac12 \\lVert p_A - p_B \\rVert_1

    with the label :math:`\\operatorname{argmax} p`, kept where :math:`M_{final}` reaches the threshold of its class.
    Source: symmetric adaptation consistency (challenge slides without code), which state
    :math:`M_{final}` as the mean of a probability and a consistency map, and results for one network and for both
    fused. How both maps and the fusion are computed is this library's choice, as are thresholds per class, from any
    :class:`PseudoLabelThreshold` on :math:`M_{final}` in place of the confidence.

    Args:
        rule: Takes the scores and gives the thresholds; it belongs to this module. ``ClassBalancedThreshold(K)`` is
            SIM's estimator. Of a :class:`CBSTThreshold` only the thresholds are used, not its ratios.
        consistency: ``"l1"`` as above, or ``"agreement"``: 1 where the argmaxes agree and 0 elsewhere.

    Raises:
        TypeError: If ``rule`` is not a :class:`PseudoLabelThreshold`.
        ValueError: If ``consistency`` is neither.

    Example:
        >>> symmetric = SymmetricConsistency(ClassBalancedThreshold(num_classes=2))
        >>> probs_a = torch.tensor([[[[0.75, 0.75, 0.875]], [[0.25, 0.25, 0.125]]]])
        >>> probs_b = torch.tensor([[[[0.75, 0.25, 0.875]], [[0.25, 0.75, 0.125]]]])
        >>> symmetric(probs_a, probs_b).score
        tensor([[[0.8750, 0.5000, 0.9375]]])
        >>> symmetric.update(probs_a, probs_b)
        >>> symmetric.compute()
        tensor([0.9000, 0.0000])
        >>> symmetric.pseudo_labels(probs_a, probs_b)
        tensor([[[255, 255,   0]]])
    """

    def __init__(self, rule: PseudoLabelThreshold, consistency: Consistency = "l1") -> None:
        super().__init__()
        check_kind("rule", rule, PseudoLabelThreshold, "a PseudoLabelThreshold such as ClassBalancedThreshold(K)")
        check_choice("consistency", consistency, get_args(Consistency))
        self.rule = rule
        self.consistency: Consistency = consistency

    def forward(self, probs_a: Tensor, probs_b: Tensor) -> FusedPrediction:
        """The fused prediction and the three maps.

        Args:
            probs_a: Softmax outputs of the first network, (B, K, H, W).
            probs_b: Those of the second for the same images, of the same size.

        Returns:
            :class:`FusedPrediction`, float64 where both are and float32 otherwise.

        Raises:
            ValueError: If shapes or devices differ, or the values are not probabilities.
        """
        for name, probabilities in (("probs_a", probs_a), ("probs_b", probs_b)):
            check_probabilities(name, probabilities, self.rule.num_classes, self.rule.validate_args)
        check_same_batch("probs_b", probs_b, "probs_a", probs_a)
        if probs_a.shape != probs_b.shape:
            raise ValueError(
                f"probs_b must have the size (B, K, H, W) of probs_a = {tuple(probs_a.shape)}, got "
                f"{tuple(probs_b.shape)}. Upsample both to the image."
            )
        first, second = as_float(probs_a), as_float(probs_b)
        fused = (first + second) / 2
        probability, labels = best_class(fused)
        if self.consistency == "l1":
            consistency = (1 - (first - second).abs().sum(1) / 2).clamp(min=0)  # rounding may pass 0
        else:
            agrees = (first.argmax(1) == second.argmax(1)).to(probability.dtype)
            consistency = torch.where(probability.isfinite(), agrees, probability)
        return FusedPrediction(fused, labels, probability, consistency, (probability + consistency) / 2)

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, probs_a: Tensor, probs_b: Tensor) -> FusedPrediction: ...

    @torch.no_grad()
    def update(self, probs_a: Tensor, probs_b: Tensor) -> None:
        """Take in a batch: the score of each pixel, for its fused class.

        Args:
            probs_a: As for :meth:`forward`.
            probs_b: As for :meth:`forward`.

        Raises:
            ValueError: As :meth:`forward`.
        """
        fused = self(probs_a, probs_b)
        self.rule.update_scores(fused.score, fused.labels)

    def compute(self) -> Tensor:
        """The K thresholds on the score so far, (K,) float32."""
        return self.rule.compute()

    def counts(self) -> Tensor:
        """Pixels whose fused class is each so far, (K,) int64."""
        return self.rule.counts()

    @torch.no_grad()
    def pseudo_labels(self, probs_a: Tensor, probs_b: Tensor, thresholds: Tensor | None = None) -> Tensor:
        """The fused class where the score reaches its threshold, the rule's ``ignore_index`` elsewhere.

        Args:
            probs_a: As for :meth:`forward`.
            probs_b: As for :meth:`forward`.
            thresholds: (K,), from :meth:`compute`; computed here where it is not given. Under ``torch.distributed``
                compute them once and pass them, or call this equally often on every rank.

        Returns:
            Class ids, (B, H, W) int64.

        Raises:
            ValueError: As :meth:`forward`, or if ``thresholds`` are not (K,).
        """
        fused = self(probs_a, probs_b)
        return self.rule.filter(fused.score, fused.labels, thresholds)

    def merge(self, other: SymmetricConsistency) -> None:
        """Add what another one took from another part of the data set; errors are the rule's.

        Raises:
            TypeError: If ``other`` is not a :class:`SymmetricConsistency`.
            ValueError: If ``other`` scores by another consistency.
        """
        if not isinstance(other, SymmetricConsistency):
            raise TypeError(f"other must be a SymmetricConsistency, as this one is, got {type(other).__name__}.")
        if other.consistency != self.consistency:
            raise ValueError(f"other must score by {self.consistency!r}, as this one does, got {other.consistency!r}.")
        self.rule.merge(other.rule)

    def reset(self) -> None:
        """Forget everything: back to the state after construction."""
        self.rule.reset()

    reset_parameters = reset  # the name that deferred initialization calls

    def extra_repr(self) -> str:
        """The choice, for ``print(module)``."""
        return f"consistency={self.consistency!r}"
