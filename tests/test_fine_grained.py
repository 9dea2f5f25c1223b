"""Fine-grained adversarial loss: recorded values, plain loops, gradients, and who gets them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import stuffinstance as si

Array = NDArray[np.float64]
ENCODINGS = ("soft", "hard")
REFERENCE_NAMES = {"D.0": "conv1", "D.2": "conv2", "cls1": "source", "cls2": "target"}


def recorded_discriminator(golden: dict[str, np.ndarray]) -> si.FineGrainedDiscriminator:
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
    loss = si.FineGrainedAdversarialLoss(recorded_discriminator(golden))
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


def resized(maps: Array, height: int, width: int) -> Array:
    """Bilinear with aligned corners, (C, h, w) to (C, H, W)."""
    result = np.empty((len(maps), height, width))
    for i in range(height):
        for j in range(width):
            y = i * (maps.shape[1] - 1) / max(1, height - 1)
            x = j * (maps.shape[2] - 1) / max(1, width - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, maps.shape[1] - 1), min(left + 1, maps.shape[2] - 1)
            upper = (1 - x + left) * maps[:, top, left] + (x - left) * maps[:, top, right]
            lower = (1 - x + left) * maps[:, bottom, left] + (x - left) * maps[:, bottom, right]
            result[:, i, j] = (1 - y + top) * upper + (y - top) * lower
    return result


def softmax(scores: Array) -> Array:
    odds = np.exp(scores - scores.max())
    return np.asarray(odds / odds.sum())


def encoding_of(scores: Array, encoding: str, temperature: float, clip: float) -> Array:
    if encoding == "hard":
        return np.asarray(np.arange(len(scores)) == scores.argmax(), dtype=np.float64)
    return np.minimum(softmax(scores / temperature), clip)


def oracle(output: Tensor, logits: Tensor, domain: int, encoding: str, temperature: float, clip: float) -> float:
    """SCE with the target [a, 0] of domain 0 or [0, a] of domain 1."""
    total, pixels = 0.0, 0
    for seen, scores in zip(output.detach().double().numpy(), logits.double().numpy(), strict=True):
        classes, height, width = scores.shape
        large = resized(seen, height, width)
        for i in range(height):
            for j in range(width):
                a = encoding_of(scores[:, i, j], encoding, temperature, clip)
                target = np.concatenate((np.zeros(classes), a) if domain else (a, np.zeros(classes)))
                total -= float((target * np.log(softmax(large[:, i, j]))).sum())
                pixels += 1
    return total / pixels


def of_outputs(*options: Any, **named: Any) -> si.FineGrainedAdversarialLoss:
    """The loss of a discriminator that returns its input, so that a test gives the outputs."""
    return si.FineGrainedAdversarialLoss(torch.nn.Identity(), *options, **named)


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


def test_discriminator_loss_by_image() -> None:
    loss, by_image = of_outputs(), of_outputs(reduction="none")
    output, logits = outputs_and_logits(3)
    both = output, logits, output + 1, logits
    assert by_image.discriminator_loss(*both).shape == (3,)
    torch.testing.assert_close(by_image.discriminator_loss(*both).mean(), loss.discriminator_loss(*both))
    with pytest.raises(ValueError, match=r"source and target must hold equally many .*B = 3 and B = 2"):
        by_image.discriminator_loss(output, logits, output[:2], logits[:2])


# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_gradcheck_of_the_discriminator(encoding: Any) -> None:
    (source, source_logits), (target, target_logits) = outputs_and_logits(1, (4, 6)), outputs_and_logits(2, (3, 5))

    def of_shift(shift: Tensor) -> Tensor:
        """The discriminator's loss, of its own parameter."""
        loss = si.FineGrainedAdversarialLoss(lambda features: features + shift, encoding=encoding)
        return loss.discriminator_loss(source, source_logits, target, target_logits)

    assert torch.autograd.gradcheck(of_shift, (torch.randn(8, 1, 1, dtype=torch.float64, requires_grad=True),))


def test_gradients_reach_the_right_side() -> None:
    discriminator = si.FineGrainedDiscriminator(6, 4, width=4)
    loss = si.FineGrainedAdversarialLoss(discriminator)
    features = torch.randn(1, 6, 3, 5, requires_grad=True)
    logits = torch.randn(1, 4, 6, 10, requires_grad=True)
    loss.discriminator_loss(features, logits, features, logits).backward()
    assert features.grad is None
    assert logits.grad is None
    assert all(p.grad is not None and p.grad.any() for p in discriminator.parameters())
    loss.generator_loss(features, logits).backward()
    assert logits.grad is None
    assert features.grad is not None
    assert bool(features.grad.any())


# ------------------------------------------------------------------ state, errors


def test_the_published_size() -> None:
    shapes = {name: tuple(p.shape) for name, p in si.FineGrainedDiscriminator(2048, 19).named_parameters()}
    assert {name: shape for name, shape in shapes.items() if name.endswith("weight")} == {
        "conv1.weight": (256, 2048, 3, 3),
        "conv2.weight": (128, 256, 3, 3),
        "source.weight": (19, 128, 3, 3),
        "target.weight": (19, 128, 3, 3),
    }
