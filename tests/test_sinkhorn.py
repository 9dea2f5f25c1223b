"""Sinkhorn labels against a plain version with loops, and what they sum to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import stuffinstance as si

B, K, H, W = 2, 4, 5, 6


def plain(scores: Tensor, prior: list[float], epsilon: float, rounds: int) -> Tensor:
    """Rows, then columns of a matrix of exponentials, scaled in turn."""
    pixels = [(b, y, x) for b in range(len(scores)) for y in range(scores.shape[2]) for x in range(scores.shape[3])]
    plan = {(k, p): math.exp(float(scores[p[0], k, p[1], p[2]]) / epsilon) for k in range(len(prior)) for p in pixels}
    for _ in range(rounds):
        for k, share in enumerate(prior):
            total = sum(plan[k, p] for p in pixels)
            for p in pixels:
                plan[k, p] *= len(pixels) * share / total if share else 0
        for p in pixels:
            total = sum(plan[k, p] for k in range(len(prior)))
            for k in range(len(prior)):
                plan[k, p] /= total
    result = torch.zeros_like(scores)
    for (k, (b, y, x)), value in plan.items():
        result[b, k, y, x] = value
    return result


@pytest.mark.parametrize("rounds", [1, 3, 10])
@pytest.mark.parametrize("epsilon", [0.05, 1.0])
@pytest.mark.parametrize("prior", [None, [0.4, 0.3, 0.3, 0.0], [0.7, 0.1, 0.1, 0.1]])
def test_labels_equal_the_plain_version(prior: list[float] | None, epsilon: float, rounds: int) -> None:
    scores = torch.rand(B, K, H, W, dtype=torch.float64)
    given = None if prior is None else 5 * torch.tensor(prior, dtype=torch.float64)  # of any sum
    expected = plain(scores, prior or [1 / K] * K, epsilon, rounds)
    found = si.SinkhornLabels(epsilon, rounds)(scores, given)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    single = si.SinkhornLabels(epsilon, rounds)(scores.float(), None if given is None else given.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-5)


def test_pixels_and_classes_sum_as_they_must_after_three_rounds() -> None:
    """Cosines around 0.5 that prefer class 0 everywhere: the classes nevertheless get their fractions of the pixels."""
    scores = 0.5 + 0.05 * torch.randn(B, K, 30, 40)
    scores[:, 0] += 0.3
    prior = torch.tensor([0.5, 0.25, 0.15, 0.1])
    soft = si.SinkhornLabels()(scores, prior)
    torch.testing.assert_close(soft.sum(1), torch.ones(B, 30, 40))
    torch.testing.assert_close(soft.sum((0, 2, 3)) / (B * 30 * 40), prior, rtol=0.02, atol=0)
    assert (scores.argmax(1) == 0).float().mean() > 0.99


def test_pixels_that_are_not_finite_get_no_label_and_do_not_count() -> None:
    scores = torch.rand(1, K, 2, 3)
    scores[0, 1, 0, 1], scores[0, :, 1, 2] = torch.nan, torch.inf
    finite = scores.isfinite().all(1)
    soft = si.SinkhornLabels()(scores)
    assert not soft.movedim(1, 3)[~finite].any()
    alone = scores.movedim(1, 3)[finite].T[None, :, None]
    torch.testing.assert_close(soft.movedim(1, 3)[finite].T, si.SinkhornLabels()(alone)[0, :, 0])
    assert not si.SinkhornLabels()(torch.full_like(scores, torch.nan)).any()
    assert si.SinkhornLabels()(scores[:0]).shape == (0, K, 2, 3)


@pytest.mark.parametrize("wrong", [[1.0, -0.1, 0.0, 0.0], [0.0] * 4, [math.nan, 1.0, 1.0, 1.0]])
def test_a_prior_of_no_fractions_is_an_error(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="prior must be finite, at least 0"):
        si.SinkhornLabels()(torch.rand(1, 4, 2, 2), torch.tensor(wrong))


@pytest.mark.parametrize(("scores", "labels"), [(torch.float16, torch.float32), (torch.float64, torch.float64)])
@pytest.mark.parametrize("prior", [torch.float32, torch.float64])
def test_labels_are_of_the_dtype_of_the_scores(scores: torch.dtype, labels: torch.dtype, prior: torch.dtype) -> None:
    given = torch.rand(1, K, 2, 3).to(scores), torch.full((K,), 0.25, dtype=prior)
    assert si.SinkhornLabels()(*given).dtype == labels
