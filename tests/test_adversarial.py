"""The output-space adversary: recorded values, values by hand, and who gets gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import stuffinstance as si
from tests import oracles


def recorded_discriminator(golden: dict[str, np.ndarray]) -> si.OutputDiscriminator:
    discriminator = si.OutputDiscriminator(19, width=8)
    weights = {k.removeprefix("asn_D."): torch.from_numpy(v) for k, v in golden.items() if k.startswith("asn_D.")}
    discriminator.load_state_dict(weights)
    return discriminator


def test_recorded_outputs_and_losses(golden_baselines: dict[str, np.ndarray]) -> None:
    discriminator = recorded_discriminator(golden_baselines)
    logits = torch.from_numpy(golden_baselines["asn_logits"])
    output = discriminator(logits.softmax(1))
    np.testing.assert_allclose(output.detach().numpy(), golden_baselines["asn_out"], rtol=1e-5, atol=1e-7)
    loss = si.OutputAdversarialLoss(discriminator)
    assert loss.generator(logits).item() == pytest.approx(float(golden_baselines["asn_adv"]), rel=1e-6)
    halves = 0.5 * (float(golden_baselines["asn_d_source"]) + float(golden_baselines["asn_d_target"]))
    assert loss.discriminator(logits, logits).item() == pytest.approx(halves, rel=1e-6)


def test_losses_equal_the_oracle() -> None:
    discriminator = si.OutputDiscriminator(4, width=2).double()
    loss = si.OutputAdversarialLoss(discriminator)
    source, target = torch.randn(2, 4, 40, 70).double(), torch.randn(3, 4, 64, 32).double()
    with torch.no_grad():
        on_source, on_target = (discriminator(x.softmax(1)).numpy() for x in (source, target))
    assert loss.generator(target).item() == pytest.approx(oracles.binary_cross_entropy(on_target, 0))
    expected = 0.5 * oracles.binary_cross_entropy(on_source, 0) + 0.5 * oracles.binary_cross_entropy(on_target, 1)
    assert loss.discriminator(source, target).item() == pytest.approx(expected)


def test_an_undecided_discriminator_costs_log_two() -> None:
    loss = si.OutputAdversarialLoss(lambda p: torch.zeros(p.shape[0], 1, 2, 2))  # type: ignore[arg-type]
    logits = torch.randn(1, 3, 32, 32)
    assert loss.generator(logits).item() == pytest.approx(math.log(2))
    assert loss.discriminator(logits, logits).item() == pytest.approx(math.log(2))


def test_gradients_reach_the_right_side() -> None:
    discriminator = si.OutputDiscriminator(3, width=2)
    loss = si.OutputAdversarialLoss(discriminator)
    logits = torch.randn(1, 3, 32, 32, requires_grad=True)
    loss.discriminator(logits, logits).backward()
    assert logits.grad is None
    assert all(p.grad is not None for p in discriminator.parameters())
    loss.generator(logits).backward()
    assert logits.grad is not None
    assert bool(logits.grad.any())


def test_the_published_size() -> None:
    discriminator = si.OutputDiscriminator(19)
    shapes = [tuple(p.shape) for name, p in discriminator.named_parameters() if name.endswith("weight")]
    assert shapes == [(64, 19, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 4, 4)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_near_single_precision(dtype: torch.dtype) -> None:
    loss = si.OutputAdversarialLoss(si.OutputDiscriminator(3, width=4))
    logits = torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", dtype):
        value = loss.generator(logits)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss.generator(logits).item(), rel=0.01)


def test_the_discriminator_stays_the_callers() -> None:
    assert not list(si.OutputAdversarialLoss(si.OutputDiscriminator(3, width=2)).parameters())


@pytest.mark.parametrize(("shape", "message"), [
    ((3, 32, 32), r"must be .*\(3, 32, 32\)"),
    ((1, 4, 32, 32), r"must have K = 3 .*4"),
    ((1, 3, 31, 64), r"at least 32"),
])  # fmt: skip
def test_maps_that_cannot_be_are_refused(shape: tuple[int, ...], message: str) -> None:
    loss = si.OutputAdversarialLoss(si.OutputDiscriminator(3, width=2))
    with pytest.raises(ValueError, match=message):
        loss.generator(torch.zeros(shape))
