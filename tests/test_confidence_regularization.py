"""Soft labels by the formula as printed, both losses by the oracle, gradients, and what no pixel gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si


def random_case(classes: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    probabilities = (2 * torch.randn(2, classes, 6, 7, dtype=torch.float64)).softmax(1).to(dtype)
    threshold = si.CBSTThreshold(classes, 0.3)
    threshold.update(probabilities)
    return probabilities, threshold.compute()


def oracle_soft_labels(probabilities: Tensor, thresholds: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Pixel by pixel the labels, and the condition with all its terms."""
    batch, classes, height, width = probabilities.shape
    soft = torch.zeros_like(probabilities)
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    k = thresholds.tolist()
    for b, i, j in np.ndindex(batch, height, width):
        p = probabilities[b, :, i, j].tolist()
        powers = [(p[c] / k[c]) ** (1 / alpha) for c in range(classes)]
        y = [power / sum(powers) for power in powers]
        with_label = sum(-y[c] * math.log(p[c]) + alpha * y[c] * math.log(y[c]) for c in range(classes) if y[c] > 0)
        without = sum(-y[c] * math.log(k[c]) for c in range(classes))
        soft[b, :, i, j] = torch.tensor(y)
        mask[b, i, j] = with_label < without
    return soft, mask


def oracle_losses(logits: Tensor, soft: Tensor, mask: Tensor) -> tuple[float, float]:
    """Sums over the kept pixels one by one."""
    logarithms = logits.log_softmax(1)
    entropy, divergence, count = 0.0, 0.0, 0
    for b, i, j in torch.nonzero(mask).tolist():
        entropy -= float((soft[b, :, i, j] * logarithms[b, :, i, j]).sum())
        divergence -= float(logarithms[b, :, i, j].sum()) / logits.shape[1]
        count += 1
    return entropy / count, divergence / count


@pytest.mark.parametrize(("alpha", "dtype"), [
    *((alpha, torch.float64) for alpha in (0.1, 0.25, 1.0, 3.0)),
    *((0.25, dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)),
])  # fmt: skip
def test_soft_labels_equal_the_formula_as_printed(alpha: float, dtype: torch.dtype) -> None:
    probabilities, thresholds = random_case(dtype=dtype)
    soft, mask = si.soft_labels(probabilities, thresholds, alpha)
    expected, kept = oracle_soft_labels(probabilities.double(), thresholds, alpha)
    torch.testing.assert_close(soft, expected.to(soft.dtype))
    assert soft.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(mask, kept)
    assert mask.any()
    assert bool(mask.all()) == (alpha >= 1)  # no threshold is above 1, so from there on every sum is


def test_little_entropy_leads_to_hard_labels() -> None:
    probabilities, thresholds = random_case()
    threshold = si.CBSTThreshold(5)
    soft, mask = si.soft_labels(probabilities, thresholds * (1 + 1e-9), alpha=1e-5)  # no ratio of exactly 1
    hard = threshold.pseudo_labels(probabilities, thresholds * (1 + 1e-9))
    assert torch.equal(torch.where(mask, soft.argmax(1), 255), hard)
    assert float(soft.amax(1).min()) > 0.99


def test_a_probability_of_zero_stays_zero() -> None:
    probabilities = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    soft, mask = si.soft_labels(probabilities, torch.tensor([0.9, 1e-6, 1.0]))
    assert soft.flatten().tolist() == [1, 0, 0]
    assert bool(mask.all())


def test_losses_equal_the_oracles() -> None:
    probabilities, thresholds = random_case()
    soft, mask = si.soft_labels(probabilities, thresholds)
    logits = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    entropy, divergence = oracle_losses(logits, soft, mask)
    assert float(si.soft_cross_entropy(logits, soft, mask)) == pytest.approx(entropy, rel=1e-12)
    assert float(si.mrkld_regularizer(logits, mask)) == pytest.approx(0.1 * divergence, rel=1e-12)
    assert float(si.mrkld_regularizer(logits, mask, weight=2)) == pytest.approx(2 * divergence, rel=1e-12)


def test_hard_soft_labels_give_the_usual_cross_entropy() -> None:
    labels = torch.randint(0, 5, (2, 6, 7))
    labels[:, 2] = 255
    logits = torch.randn(2, 5, 6, 7)
    one_hot = torch.nn.functional.one_hot(labels.clamp(max=4), 5).movedim(3, 1).float()
    expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(si.soft_cross_entropy(logits, one_hot, labels != 255), expected)


def test_the_regularizer_is_least_at_the_uniform_prediction() -> None:
    mask = torch.ones(1, 3, 3, dtype=torch.bool)
    least = si.mrkld_regularizer(torch.full((1, 4, 3, 3), 7.0), mask)
    assert float(least) == pytest.approx(0.1 * math.log(4), rel=1e-6)
    assert bool(si.mrkld_regularizer(torch.randn(1, 4, 3, 3), mask) > least)
