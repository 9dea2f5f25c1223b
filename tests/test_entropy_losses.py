"""Entropy and maximum squares losses: values by hand, plain loops, gradients and masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import stuffinstance as si
from tests import oracles

Array = NDArray[np.float64]
LOSSES: dict[str, Callable[..., nn.Module]] = {
    "entropy": si.EntropyLoss,
    "squares": partial(si.MaxSquareLoss, image_wise=False),
    "balanced": si.MaxSquareLoss,
    "alike": partial(si.MaxSquareLoss, alpha=1.0),
}


@pytest.fixture(params=LOSSES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ------------------------------------------------------------------ the formulas, pixel by pixel


def pixels_of(logits: Array, mask: NDArray[np.bool_]) -> list[Array]:
    """Probabilities (K,) of the pixels that count in one image (K, H, W)."""
    _, height, width = logits.shape
    return [oracles.softmax(logits[:, i, j]) for i in range(height) for j in range(width) if mask[i, j]]


def entropy_of_image(logits: Array, mask: NDArray[np.bool_]) -> float:
    pixels = pixels_of(logits, mask)
    total = sum(-p * math.log2(p) / math.log2(len(logits)) for pixel in pixels for p in pixel if p > 0)
    return total / len(pixels) if pixels else 0.0


def squares_of_image(logits: Array, mask: NDArray[np.bool_], power: float) -> float:
    """-1/(2K) times the sum over pixels of 1 / max(n^a N^(1-a), 1) times the sum of the squares."""
    pixels = pixels_of(logits, mask)
    predicted = [int(pixel.argmax()) for pixel in pixels]
    total = 0.0
    for pixel, own in zip(pixels, predicted, strict=True):
        weight = 1 / max(predicted.count(own) ** power * len(pixels) ** (1 - power), 1)
        total += weight * sum(p**2 for p in pixel)
    return -total / (2 * len(logits))


def oracle(kind: str, logits: Tensor, mask: Tensor) -> float:
    power = {"entropy": None, "squares": 0.0, "balanced": 0.2, "alike": 1.0}[kind]
    images = zip(logits.double().numpy(), mask.numpy(), strict=True)
    values = [entropy_of_image(z, m) if power is None else squares_of_image(z, m, power) for z, m in images]
    return sum(values) / len(values)


def logits_and_mask(batch: int = 3, classes: int = 4, height: int = 5, width: int = 7) -> tuple[Tensor, Tensor]:
    logits = 3 * torch.randn(batch, classes, height, width, dtype=torch.float64)
    logits[:, 1] += 3  # one class is predicted more often than the others
    return logits, torch.rand(batch, height, width) < 0.6


# ------------------------------------------------------------------ values


def test_entropy_map_equals_the_formula() -> None:
    probabilities = logits_and_mask()[0].softmax(1)
    expected = [-p * math.log2(p) / math.log2(4) for p in probabilities.flatten().tolist()]
    actual = si.entropy_map(probabilities)
    np.testing.assert_allclose(actual.flatten().numpy(), expected, rtol=1e-12)
    assert actual.shape == probabilities.shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_certainty_has_no_entropy_and_a_finite_gradient(dtype: torch.dtype) -> None:
    probabilities = torch.tensor([1.0, 0.0, 0.0], dtype=dtype).view(1, 3, 1, 1).requires_grad_()
    information = si.entropy_map(probabilities)
    assert information.dtype == dtype
    assert information.flatten().tolist() == [0.0, 0.0, 0.0]
    assert not torch.signbit(information).any()
    (gradient,) = torch.autograd.grad(information.sum(), probabilities)
    at_one = -1 / math.log(3)  # the derivative of -p ln p / ln K at p = 1
    assert gradient.flatten().tolist() == pytest.approx([at_one, 0, 0], rel=1e-2)


def test_entropy_is_one_where_nothing_is_known() -> None:
    for classes in (2, 3, 19):
        assert si.EntropyLoss()(torch.zeros(2, classes, 3, 3)).item() == pytest.approx(1, rel=1e-6)
    halves = torch.tensor([50.0, 50.0, -50.0, -50.0]).view(1, 4, 1, 1)  # one bit of two
    assert si.EntropyLoss()(halves).item() == pytest.approx(0.5)


def test_squares_by_hand() -> None:
    logits = torch.tensor([[60.0, 60, 60, 0], [0, 0, 0, 60]]).view(1, 2, 2, 2)  # three pixels of one class, one other
    assert si.MaxSquareLoss(image_wise=False)(logits).item() == pytest.approx(-1 / 4)
    weights = 3 / (3**0.2 * 4**0.8) + 1 / 4**0.8
    assert si.MaxSquareLoss()(logits).item() == pytest.approx(-weights / 4)
    assert si.MaxSquareLoss(alpha=1.0)(logits).item() == pytest.approx(-2 / 4)


def test_losses_equal_the_oracle(kind: str) -> None:
    logits, mask = logits_and_mask()
    loss = LOSSES[kind]()
    assert loss(logits).item() == pytest.approx(oracle(kind, logits, torch.ones_like(mask)), rel=1e-12)
    assert loss(logits, mask).item() == pytest.approx(oracle(kind, logits, mask), rel=1e-12)


def test_no_weighting_is_a_power_of_zero() -> None:
    logits, mask = logits_and_mask()
    plain = si.MaxSquareLoss(image_wise=False)(logits, mask)
    torch.testing.assert_close(si.MaxSquareLoss(alpha=0.0)(logits, mask), plain)
    torch.testing.assert_close(si.MaxSquareLoss(image_wise=False)(logits), -logits.softmax(1).square().mean() / 2)


def test_a_small_mask_is_resized_nearest(kind: str) -> None:
    logits, small = logits_and_mask(height=4, width=6)[0], torch.rand(3, 2, 3) < 0.5
    loss = LOSSES[kind]()
    large = small.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert loss(logits, small) == loss(logits, large)


# ------------------------------------------------------------------ gradients


def test_gradcheck_of_the_map() -> None:
    probabilities = logits_and_mask(1, 3, 2, 2)[0].softmax(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: si.entropy_map(p.clamp(0, 1)), (probabilities,))


def test_saturated_logits_have_finite_gradients(kind: str) -> None:
    logits = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).requires_grad_()
    value = LOSSES[kind]()(logits)
    value.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


# ------------------------------------------------------------------ copies, errors
