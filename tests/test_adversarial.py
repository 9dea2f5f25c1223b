"""Output-space adversarial loss: recorded values, values by hand, and who gets gradients."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import numpy as np
import pytest
import torch

import stuffinstance as si
from stuffinstance.losses.adversarial import SOURCE, TARGET, domain_channels
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
    assert loss.generator_loss(logits).item() == pytest.approx(float(golden_baselines["asn_adv"]), rel=1e-6)
    halves = 0.5 * (float(golden_baselines["asn_d_source"]) + float(golden_baselines["asn_d_target"]))
    assert loss.discriminator_loss(logits, logits).item() == pytest.approx(halves, rel=1e-6)


def test_an_undecided_discriminator_costs_log_two() -> None:
    loss = si.OutputAdversarialLoss(lambda p: torch.zeros(p.shape[0], 1, 2, 2))
    logits = torch.randn(1, 3, 32, 32)
    assert loss.generator_loss(logits).item() == pytest.approx(math.log(2))
    assert loss.discriminator_loss(logits, logits).item() == pytest.approx(math.log(2))


def test_gradients_reach_the_right_side() -> None:
    discriminator = si.OutputDiscriminator(3, width=2)
    loss = si.OutputAdversarialLoss(discriminator)
    logits = torch.randn(1, 3, 32, 32, requires_grad=True)
    loss.discriminator_loss(logits, logits).backward()
    assert logits.grad is None
    assert all(p.grad is not None for p in discriminator.parameters())
    loss.generator_loss(logits).backward()
    assert logits.grad is not None
    assert bool(logits.grad.any())


def test_the_published_size() -> None:
    discriminator = si.OutputDiscriminator(19)
    shapes = [tuple(p.shape) for name, p in discriminator.named_parameters() if name.endswith("weight")]
    assert shapes == [(64, 19, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 4, 4)]


@pytest.mark.parametrize("objective", ["bce", "least_squares"])
def test_discriminator_loss_by_image(objective: Any) -> None:
    discriminator = si.OutputDiscriminator(3, width=2)
    mean, none = (si.OutputAdversarialLoss(discriminator, objective, reduction=r) for r in ("mean", "none"))
    source, target = torch.randn(2, 3, 32, 64), torch.randn(2, 3, 64, 32)
    assert none.discriminator_loss(source, target).shape == (2,)
    torch.testing.assert_close(none.discriminator_loss(source, target).mean(), mean.discriminator_loss(source, target))
    with pytest.raises(ValueError, match=r"source and target must hold equally many .*B = 1 and B = 2"):
        none.discriminator_loss(source[:1], target)


# ------------------------------------------------------------------ objectives, and what the discriminator sees

OBJECTIVES = ("bce", "least_squares")
SEEN = ("probabilities", "entropy")


def plain_loss(objective: str, of: str, discriminator: torch.nn.Module, logits: torch.Tensor, label: int) -> float:
    """The formula in numpy, around the same discriminator."""
    odds = np.exp(logits.detach().numpy() - logits.detach().numpy().max(1, keepdims=True))
    seen = odds / odds.sum(1, keepdims=True)
    if of == "entropy":
        seen = -seen * np.log2(seen) / math.log2(seen.shape[1])
    with torch.no_grad():
        outputs = discriminator(torch.from_numpy(seen)).numpy()
    if objective == "bce":
        return oracles.binary_cross_entropy(outputs, label)
    return sum((value - label) ** 2 for value in outputs.ravel().tolist()) / outputs.size


@pytest.mark.parametrize("of", SEEN)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_equals_its_formula(objective: str, of: str) -> None:
    discriminator = si.OutputDiscriminator(4, width=2).double()
    loss = si.OutputAdversarialLoss(discriminator, objective, of)
    source, target = torch.randn(2, 4, 40, 70).double(), torch.randn(3, 4, 64, 32).double()
    plain = functools.partial(plain_loss, objective, of, discriminator)
    assert loss.generator_loss(target).item() == pytest.approx(plain(target, 0), rel=1e-12)
    halves = 0.5 * plain(source, 0) + 0.5 * plain(target, 1)
    assert loss.discriminator_loss(source, target).item() == pytest.approx(halves, rel=1e-12)


def test_least_squares_by_hand() -> None:
    loss = si.OutputAdversarialLoss(lambda p: torch.full((p.shape[0], 1, 2, 2), 3.0), "least_squares")
    logits = torch.randn(2, 3, 4, 4)
    assert loss.generator_loss(logits).item() == 9
    assert loss.discriminator_loss(logits, logits).item() == 0.5 * 9 + 0.5 * 4


def test_the_discriminator_sees_the_entropy_of_each_class() -> None:
    seen = []
    loss = si.OutputAdversarialLoss(lambda p: seen.append(p) or p, of="entropy")
    logits = torch.randn(1, 5, 3, 3)
    loss.generator_loss(logits)
    torch.testing.assert_close(seen[0], si.entropy_map(logits.softmax(1)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of", SEEN)
def test_half_precision_gives_single_precision_losses(of: str, dtype: torch.dtype) -> None:
    logits = torch.randn(1, 3, 32, 64)
    discriminator = si.OutputDiscriminator(3, width=4)
    for objective in OBJECTIVES:
        loss = si.OutputAdversarialLoss(discriminator, objective, of)
        expected = loss.generator_loss(logits).item()
        with torch.autocast("cpu", dtype):
            assert loss.generator_loss(logits.to(dtype)).item() == pytest.approx(expected, rel=0.01, abs=1e-4)
        halved = si.OutputAdversarialLoss(copy.deepcopy(discriminator).to(dtype), objective, of)
        value = halved.generator_loss(logits.to(dtype))
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected, rel=0.02, abs=1e-3)


def test_one_convention_for_domains() -> None:
    assert (SOURCE, TARGET) == (0, 1)
    channels = torch.arange(6)
    assert channels[domain_channels(SOURCE, 3)].tolist() == [0, 1, 2]
    assert channels[domain_channels(TARGET, 3)].tolist() == [3, 4, 5]
