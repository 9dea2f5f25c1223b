"""Soft labels by the formula as printed, both losses by the oracle, gradients, and what no pixel gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from stuffinstance.losses import mrkld_regularizer, soft_cross_entropy
from stuffinstance.pseudo_labels import CBSTThreshold, soft_labels


def random_case(classes: int = 5) -> tuple[Tensor, Tensor]:
    probabilities = (2 * torch.randn(2, classes, 6, 7, dtype=torch.float64)).softmax(1)
    threshold = CBSTThreshold(classes, 0.3)
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


@pytest.mark.parametrize("alpha", [0.1, 0.25, 1.0, 3.0])
def test_soft_labels_equal_the_formula_as_printed(alpha: float) -> None:
    probabilities, thresholds = random_case()
    soft, mask = soft_labels(probabilities, thresholds, alpha)
    expected, kept = oracle_soft_labels(probabilities, thresholds, alpha)
    torch.testing.assert_close(soft, expected)
    assert torch.equal(mask, kept)
    assert mask.any()
    assert bool(mask.all()) == (alpha >= 1)  # no threshold is above 1, so from there on every sum is


def test_little_entropy_leads_to_hard_labels() -> None:
    probabilities, thresholds = random_case()
    threshold = CBSTThreshold(5)
    soft, mask = soft_labels(probabilities, thresholds * (1 + 1e-9), alpha=1e-5)  # no ratio of exactly 1
    hard = threshold.pseudo_labels(probabilities, thresholds * (1 + 1e-9))
    assert torch.equal(torch.where(mask, soft.argmax(1), 255), hard)
    assert float(soft.amax(1).min()) > 0.99


def test_a_probability_of_zero_stays_zero() -> None:
    probabilities = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    soft, mask = soft_labels(probabilities, torch.tensor([0.9, 1e-6, 1.0]))
    assert soft.flatten().tolist() == [1, 0, 0]
    assert bool(mask.all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_precision_is_raised_to_float32(dtype: torch.dtype) -> None:
    probabilities, thresholds = random_case()
    probabilities = probabilities.to(dtype)
    soft, mask = soft_labels(probabilities, thresholds)
    expected, kept = oracle_soft_labels(probabilities.double(), thresholds, 0.25)
    torch.testing.assert_close(soft, expected.float())
    assert torch.equal(mask, kept)
    logits = torch.randn(2, 5, 6, 7).to(dtype).requires_grad_()
    for loss, exact in (
        (soft_cross_entropy(logits, soft, mask), soft_cross_entropy(logits.float(), soft, mask)),
        (mrkld_regularizer(logits, mask), mrkld_regularizer(logits.float(), mask)),
    ):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact)
        loss.backward()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(soft_cross_entropy(logits, soft, mask), soft_cross_entropy(logits, soft, mask))
        assert mrkld_regularizer(logits, mask).dtype == torch.float32


def test_losses_equal_the_oracles() -> None:
    probabilities, thresholds = random_case()
    soft, mask = soft_labels(probabilities, thresholds)
    logits = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    entropy, divergence = oracle_losses(logits, soft, mask)
    assert float(soft_cross_entropy(logits, soft, mask)) == pytest.approx(entropy, rel=1e-12)
    assert float(mrkld_regularizer(logits, mask)) == pytest.approx(0.1 * divergence, rel=1e-12)
    assert float(mrkld_regularizer(logits, mask, weight=2)) == pytest.approx(2 * divergence, rel=1e-12)


def test_hard_soft_labels_give_the_usual_cross_entropy() -> None:
    labels = torch.randint(0, 5, (2, 6, 7))
    labels[:, 2] = 255
    logits = torch.randn(2, 5, 6, 7)
    one_hot = torch.nn.functional.one_hot(labels.clamp(max=4), 5).movedim(3, 1).float()
    expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(soft_cross_entropy(logits, one_hot, labels != 255), expected)


def test_the_regularizer_is_least_at_the_uniform_prediction() -> None:
    mask = torch.ones(1, 3, 3, dtype=torch.bool)
    least = mrkld_regularizer(torch.full((1, 4, 3, 3), 7.0), mask)
    assert float(least) == pytest.approx(0.1 * math.log(4), rel=1e-6)
    assert bool(mrkld_regularizer(torch.randn(1, 4, 3, 3), mask) > least)


def test_soft_labels_that_are_not_kept_do_not_count_whatever_they_are() -> None:
    logits = torch.randn(1, 3, 1, 2, requires_grad=True)
    soft = torch.full((1, 3, 1, 2), 1 / 3)
    soft[..., 1] = float("nan")
    soft_cross_entropy(logits, soft, torch.tensor([[[True, False]]])).backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert bool(logits.grad[..., 0].any())


P, K = torch.full((1, 4, 2, 3), 0.25), torch.full((4,), 0.5)
MASK = torch.ones(1, 2, 3, dtype=torch.bool)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: soft_labels(P, K, alpha=0), ValueError, "alpha must be a finite number above 0.*, got 0"),
    (lambda: soft_labels(P * 8, K), ValueError, "probabilities must be .*softmax"),
    (lambda: soft_labels(P, K[:3]), ValueError, r"thresholds must be .*\(K,\) = \(4,\), got .*\(3,\)"),
    (lambda: soft_labels(P, K[None]), ValueError, r"thresholds must be .*\(K,\) = \(4,\), got .*\(1, 4\)"),
    (lambda: soft_labels(P, [0.5] * 4), TypeError, r"thresholds must be .*\(K,\) = \(4,\), got list"),
    (lambda: soft_labels(P, K * 0), ValueError, "thresholds must all be above 0"),
    (lambda: soft_cross_entropy(P[0], P, MASK), ValueError, "logits must be"),
    (lambda: soft_cross_entropy(P, P[:, :3], MASK), ValueError, "soft must have K = 4 channels"),
    (lambda: soft_cross_entropy(P, P[..., :2], MASK), ValueError, "soft must have the logits' size.*Upsample"),
    (lambda: soft_cross_entropy(P, P, MASK.long()), ValueError, "mask must be a bool tensor.*labels != 255"),
    (lambda: soft_cross_entropy(P, P, MASK[:, :1]), ValueError, "mask must have the logits' size"),
    (lambda: soft_cross_entropy(P, P, None), TypeError, "mask must be a bool tensor"),
    (lambda: mrkld_regularizer(P, MASK[:0]), ValueError, "mask and logits must hold the same B"),
    (lambda: mrkld_regularizer(P, MASK.to("meta")), ValueError, "mask and logits must be on one device"),
])  # fmt: skip
def test_what_does_not_fit_raises(call, error: type[Exception], message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        call()
