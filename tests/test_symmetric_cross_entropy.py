"""Symmetric cross-entropy: both terms pixel by pixel as printed, what a wrong label does, and its limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import stuffinstance as si
from tests.label_maps import IGNORE


def case(classes: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    labels = torch.randint(classes, (2, 6, 7))
    labels[torch.rand(2, 6, 7) < 0.3] = IGNORE
    return 3 * torch.randn(2, classes, 6, 7, dtype=dtype), labels


def oracle(logits: Tensor, labels: Tensor, alpha: float, beta: float, floor: float) -> float:
    """Of each labeled pixel -alpha sum_c y_c log p_c - beta sum_c p_c log y_c, with log of at least ``floor``."""
    total, count = 0.0, 0
    for b, i, j in torch.nonzero(labels != IGNORE).tolist():
        z = logits[b, :, i, j].tolist()
        p = [math.exp(each - max(z)) for each in z]
        p = [each / sum(p) for each in p]
        y = [float(c == labels[b, i, j]) for c in range(len(z))]
        forward = -sum(y[c] * math.log(p[c]) for c in range(len(z)))
        reverse = -sum(p[c] * math.log(max(y[c], floor)) for c in range(len(z)))
        total, count = total + alpha * forward + beta * reverse, count + 1
    return total / count


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize(("alpha", "beta", "floor"), [(0.1, 1.0, 1e-4), (1.0, 0.0, 1e-4), (0.0, 0.5, math.exp(-4))])
def test_both_terms_equal_the_formula(classes: int, alpha: float, beta: float, floor: float) -> None:
    logits, labels = case(classes)
    expected = oracle(logits, labels, alpha, beta, floor)
    for dtype in (torch.float64, torch.float32):
        value = si.symmetric_cross_entropy(logits.to(dtype), labels, ce_weight=alpha, rce_weight=beta, floor=floor)
        assert value.dtype == dtype
        assert value.item() == pytest.approx(expected, rel=1e-5 if dtype == torch.float32 else 1e-12, abs=1e-12)


def test_defaults_are_those_of_proda() -> None:
    logits, labels = case()
    assert si.symmetric_cross_entropy(logits, labels).item() == pytest.approx(oracle(logits, labels, 0.1, 1.0, 1e-4))


def test_cross_entropy_alone_is_that_of_torch() -> None:
    logits, labels = case()
    alone: dict[str, Any] = {"ce_weight": 1.0, "rce_weight": 0.0}
    expected = F.cross_entropy(logits, labels, ignore_index=IGNORE)
    torch.testing.assert_close(si.symmetric_cross_entropy(logits, labels, **alone), expected)
    everywhere = labels.clamp(max=4)
    expected = F.cross_entropy(logits, everywhere)
    torch.testing.assert_close(si.symmetric_cross_entropy(logits, everywhere, None, **alone), expected)


def test_a_label_that_is_surely_wrong_pulls_by_cross_entropy_alone() -> None:
    """The gradient of the reverse term vanishes there, as (1 - p_y) p_y does; that of cross-entropy does not."""
    logits = torch.tensor([20.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    wrong = torch.ones(1, 1, 1, dtype=torch.long)
    for weights, expected in (({"ce_weight": 0.0}, 0.0), ({}, 0.1)):
        (gradient,) = torch.autograd.grad(si.symmetric_cross_entropy(logits, wrong, **weights), logits)
        assert gradient.flatten().tolist() == pytest.approx([expected, -expected], abs=1e-6)


def test_saturated_logits_have_a_finite_loss_and_gradient() -> None:
    logits = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).requires_grad_()
    for label in range(3):
        value = si.symmetric_cross_entropy(logits, torch.full((1, 1, 1), label))
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.isfinite()
        assert gradient.isfinite().all()
