"""Adversarial losses: recorded values, plain loops, values by hand, and who gets gradients."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

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
    assert loss.generator_loss(logits).item() == pytest.approx(float(golden_baselines["asn_adv"]), rel=1e-6)
    halves = 0.5 * (float(golden_baselines["asn_d_source"]) + float(golden_baselines["asn_d_target"]))
    assert loss.discriminator_loss(logits, logits).item() == pytest.approx(halves, rel=1e-6)


def test_an_undecided_discriminator_costs_log_two() -> None:
    loss = si.OutputAdversarialLoss(lambda p: torch.zeros(p.shape[0], 1, 2, 2))
    logits = torch.randn(1, 3, 32, 32)
    assert loss.generator_loss(logits).item() == pytest.approx(math.log(2))
    assert loss.discriminator_loss(logits, logits).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(("discriminator", "make", "inputs"), [
    (si.OutputDiscriminator(3, width=2), si.OutputAdversarialLoss, ((1, 3, 32, 64),)),
    (si.FineGrainedDiscriminator(6, 4, width=4), si.FineGrainedAdversarialLoss, ((1, 6, 3, 5), (1, 4, 6, 10))),
])  # fmt: skip
def test_gradients_reach_the_right_side(discriminator: Any, make: Any, inputs: tuple[tuple[int, ...], ...]) -> None:
    """And the discriminator stays the caller's."""
    loss, maps = make(discriminator), [torch.randn(size, requires_grad=True) for size in inputs]
    assert not list(loss.parameters())
    loss.discriminator_loss(*maps, *maps).backward()
    assert all(each.grad is None for each in maps)
    assert all(p.grad is not None and p.grad.any() for p in discriminator.parameters())
    loss.generator_loss(*maps).backward()
    assert bool(maps[0].grad.any())
    assert all(each.grad is None for each in maps[1:])


@pytest.mark.parametrize(("make", "inputs"), [
    *((partial(si.OutputAdversarialLoss, nn.AvgPool2d(2), each), ((2, 3, 8, 6),)) for each in ("bce", "least_squares")),
    (partial(si.FineGrainedAdversarialLoss, nn.Identity()), ((2, 8, 3, 5), (2, 4, 7, 9))),
])  # fmt: skip
def test_discriminator_loss_by_image(make: Any, inputs: tuple[tuple[int, ...], ...]) -> None:
    mean, by_image = (make(reduction=reduction).discriminator_loss for reduction in ("mean", "none"))
    source, target = ([torch.randn(size) for size in inputs] for _ in range(2))
    assert by_image(*source, *target).shape == (2,)
    torch.testing.assert_close(by_image(*source, *target).mean(), mean(*source, *target))
    with pytest.raises(ValueError, match="source and target must hold equally many"):
        by_image(*(each[:1] for each in source), *target)


def test_the_published_sizes() -> None:
    def weights(discriminator: nn.Module) -> dict[str, tuple[int, ...]]:
        named = discriminator.named_parameters()
        return {name.removesuffix(".weight"): tuple(p.shape) for name, p in named if name.endswith("weight")}

    output = [(64, 19, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 4, 4)]
    assert [*weights(si.OutputDiscriminator(19)).values()] == output
    assert weights(si.FineGrainedDiscriminator(2048, 19)) == {
        "conv1": (256, 2048, 3, 3),
        "conv2": (128, 256, 3, 3),
        "source": (19, 128, 3, 3),
        "target": (19, 128, 3, 3),
    }


# ------------------------------------------------------------------ objectives, and what the discriminator sees

OBJECTIVES = ("bce", "least_squares")
SEEN = ("probabilities", "entropy")


def plain_loss(objective: str, of: str, discriminator: nn.Module, logits: torch.Tensor, label: int) -> float:
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
    plain = partial(plain_loss, objective, of, discriminator)
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


Array = NDArray[np.float64]
ENCODINGS = ("soft", "hard")
REFERENCE_NAMES = {"D.0": "conv1", "D.2": "conv2", "cls1": "source", "cls2": "target"}


def recorded_fine_grained(golden: dict[str, np.ndarray]) -> si.FineGrainedDiscriminator:
    discriminator = si.FineGrainedDiscriminator(16, 19, width=32)
    weights = {}
    for name, value in golden.items():
        if name.startswith("fada_D."):
            layer, _, kind = name.removeprefix("fada_D.").rpartition(".")
            weights[f"{REFERENCE_NAMES[layer]}.{kind}"] = torch.from_numpy(value)
    discriminator.load_state_dict(weights)
    return discriminator


def recorded(golden: dict[str, np.ndarray], domain: str) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(golden[f"fada_{domain}_features"]), torch.from_numpy(golden[f"fada_{domain}_logits"])


def recorded_loss(golden: dict[str, np.ndarray]) -> si.FineGrainedAdversarialLoss:
    loss = si.FineGrainedAdversarialLoss(recorded_fine_grained(golden))
    assert loss.temperature == pytest.approx(float(golden["fada_temperature"]))
    assert loss.clip == pytest.approx(float(golden["fada_clip"]))
    return loss


def test_recorded_generator_loss_and_gradient(golden_baselines: dict[str, np.ndarray]) -> None:
    features, logits = recorded(golden_baselines, "target")
    value = recorded_loss(golden_baselines).generator_loss(features.requires_grad_(), logits)
    assert value.item() == pytest.approx(float(golden_baselines["fada_adv"]), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, features)
    expected = golden_baselines["fada_adv_grad"]
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-5, atol=1e-5 * float(np.abs(expected).max()))


def test_recorded_discriminator_losses(golden_baselines: dict[str, np.ndarray]) -> None:
    loss = recorded_loss(golden_baselines)
    (source, source_logits), (target, target_logits) = (recorded(golden_baselines, d) for d in ("source", "target"))
    nothing = torch.zeros(0, 16, 10, 14), torch.zeros(0, 19, 20, 28)  # an empty batch costs 0: one half alone is left
    on_source = loss.discriminator_loss(source, source_logits, *nothing)
    on_target = loss.discriminator_loss(*nothing, target, target_logits)
    assert 2 * on_source.item() == pytest.approx(float(golden_baselines["fada_d_source"]), rel=1e-5)
    assert 2 * on_target.item() == pytest.approx(float(golden_baselines["fada_d_target"]), rel=1e-5)
    both = loss.discriminator_loss(source, source_logits, target, target_logits)
    torch.testing.assert_close(both, on_source + on_target)


# ------------------------------------------------------------------ the formula, pixel by pixel


def encoding_of(scores: Array, encoding: str, temperature: float, clip: float) -> Array:
    if encoding == "hard":
        return np.asarray(np.arange(len(scores)) == scores.argmax(), dtype=np.float64)
    return np.minimum(oracles.softmax(scores / temperature), clip)


def oracle(output: Tensor, logits: Tensor, domain: int, encoding: str, temperature: float, clip: float) -> float:
    """SCE with the target [a, 0] of domain 0 or [0, a] of domain 1."""
    total, pixels = 0.0, 0
    resized = F.interpolate(output.detach().double(), logits.shape[2:], mode="bilinear", align_corners=True)
    for large, scores in zip(resized.numpy(), logits.double().numpy(), strict=True):
        classes, height, width = scores.shape
        for i in range(height):
            for j in range(width):
                a = encoding_of(scores[:, i, j], encoding, temperature, clip)
                target = np.concatenate((np.zeros(classes), a) if domain else (a, np.zeros(classes)))
                total -= float((target * np.log(oracles.softmax(large[:, i, j]))).sum())
                pixels += 1
    return total / pixels


def of_outputs(*options: Any, **named: Any) -> si.FineGrainedAdversarialLoss:
    """The loss of a discriminator that returns its input, so that a test gives the outputs."""
    return si.FineGrainedAdversarialLoss(nn.Identity(), *options, **named)


def outputs_and_logits(batch: int = 2, size: tuple[int, int] = (7, 9), dtype: torch.dtype = torch.float64) -> Any:
    return torch.randn(batch, 8, 3, 5, dtype=dtype), 4 * torch.randn(batch, 4, *size, dtype=dtype)


@pytest.mark.parametrize("size", [(7, 9), (3, 5), (1, 1)])
@pytest.mark.parametrize(("temperature", "clip"), [(1.8, 0.9), (1.0, 1.0), (0.5, 0.3)])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_losses_equal_the_oracle(encoding: Any, temperature: float, clip: float, size: tuple[int, int]) -> None:
    loss = of_outputs(temperature, clip, encoding)
    options = (encoding, temperature, clip)
    (source, source_logits), (target, target_logits) = outputs_and_logits(3), outputs_and_logits(size=size)
    fooling = loss.generator_loss(target, target_logits)
    assert fooling.item() == pytest.approx(oracle(target, target_logits, 0, *options), rel=1e-12)
    halves = 0.5 * oracle(source, source_logits, 0, *options) + 0.5 * oracle(target, target_logits, 1, *options)
    value = loss.discriminator_loss(source, source_logits, target, target_logits)
    assert value.item() == pytest.approx(halves, rel=1e-12)


def test_values_by_hand() -> None:
    output = torch.zeros(1, 4, 2, 2)  # undecided between two classes in two domains
    certain = torch.tensor([100.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    assert of_outputs().generator_loss(output, certain).item() == pytest.approx(0.9 * math.log(4))
    hard = of_outputs(encoding="hard")
    assert hard.generator_loss(output, certain).item() == pytest.approx(math.log(4))
    of_source = torch.tensor([9.0, 0, 0, 0], dtype=torch.float64).view(1, 4, 1, 1)  # says: class 0 of the source
    of_target = torch.tensor([0, 0, 9.0, 0], dtype=torch.float64).view(1, 4, 1, 1)
    right = hard.discriminator_loss(of_source, certain, of_target, certain)
    wrong = hard.discriminator_loss(of_source, certain, of_source, certain)
    assert right.item() == pytest.approx(math.log(1 + 3 * math.exp(-9)))
    assert wrong.item() == pytest.approx(4.5, abs=1e-3)


# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_gradcheck_of_the_discriminator(encoding: Any) -> None:
    (source, source_logits), (target, target_logits) = outputs_and_logits(1, (4, 6)), outputs_and_logits(2, (3, 5))

    def of_shift(shift: Tensor) -> Tensor:
        """The discriminator's loss, of its own parameter."""
        loss = si.FineGrainedAdversarialLoss(lambda features: features + shift, encoding=encoding)
        return loss.discriminator_loss(source, source_logits, target, target_logits)

    assert torch.autograd.gradcheck(of_shift, (torch.randn(8, 1, 1, dtype=torch.float64, requires_grad=True),))
