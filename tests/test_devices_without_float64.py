"""Devices without float64 (Apple's GPUs): no call on float32 inputs makes a float64 tensor, however small."""

from __future__ import annotations

from typing import Any

import kornia.color  # noqa: F401  (its import makes constants on the CPU; lab_color_transfer would do it under watch)
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import stuffinstance as si
from stuffinstance.losses.anchors import _distance_of_means
from tests.public_calls import B, H, W, losses, others


class MadeInFloat64(TorchDispatchMode):
    """The operations that gave a float64 tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        made = (each for each in tree_leaves(result) if isinstance(each, Tensor) and each.dtype == torch.float64)
        self.operations += [str(function) for _ in made]
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(losses()))
def test_losses_and_their_gradients(name: str, dtype: torch.dtype) -> None:
    channels, call = losses()[name]
    x = torch.randn(B, channels, H, W, dtype=dtype if name == "region_mean" else torch.float32, requires_grad=True)
    with MadeInFloat64() as made, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        value = call(x)
        value.backward()
    assert not made.operations
    assert value.dtype != torch.float64


@pytest.mark.parametrize("name", list(others()))
def test_other_calls(name: str) -> None:
    call = others()[name]
    with MadeInFloat64() as made:
        call()
    assert not made.operations


@pytest.mark.parametrize("name", [name for name in losses() if "Discriminator" not in name])
def test_float64_stays_float64(name: str) -> None:
    channels, call = losses(torch.float64)[name]
    assert call(torch.randn(B, channels, H, W, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("damp_above", [5.0, 0.7, 1e-3])
def test_softening_is_right_for_terms_of_any_size(damp_above: float) -> None:
    """Also at powers of ten, where a rounded logarithm could divide once too often."""
    for term in (*(damp_above * 10.0**k for k in range(-3, 9)), *np.geomspace(1e-3, 1e8, 200).tolist()):
        exact = float(np.float32(term + 0.5) - np.float32(0.5))  # what SmoothL1 makes of the row below
        expected = exact
        while expected > damp_above * (1 + 1e-6):
            expected /= 10
        row = torch.tensor([[[term + 0.5]]], requires_grad=True)
        if exact > 1:
            value = _distance_of_means(row, torch.tensor([[True]]), torch.zeros(1, 1), damp_above)
            assert value.item() == pytest.approx(10 * expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_share_is_counted_at_the_threshold_that_was_asked_for(dtype: torch.dtype) -> None:
    best = torch.tensor([0.96, 0.9675, 0.968, 0.9688, 0.97]).to(dtype)
    probabilities = torch.stack((best, 1 - best))[None, :, None]
    threshold = 0.968
    bound = np.float32(threshold) if dtype == torch.float32 else threshold
    expected = (best.double() >= float(bound)).double().mean()
    assert si.confident_fraction(probabilities, threshold).item() == pytest.approx(expected.item())
