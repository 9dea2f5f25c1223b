"""Category anchors and the distance to them: recorded numbers, plain versions, saturation, assignment."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import stuffinstance as si
from stuffinstance.banks.class_anchors import running_mean
from stuffinstance.losses.anchors import _distance_of_means
from tests.label_maps import IGNORE, blocks

K, D = 4, 3
Array = NDArray[Any]


def batch(seed: int, images: int = 3, height: int = 8, width: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels of every class and of none, and logits that are right at about half of the pixels."""
    generator = torch.Generator().manual_seed(seed)
    labels = blocks(height, width, (0, 1, 2, 3, IGNORE), seed, images, cell=2)
    logits = torch.randn(images, K, height, width, generator=generator)
    logits += torch.nn.functional.one_hot(labels.clamp(max=K - 1), K).movedim(3, 1)
    return torch.randn(images, D, height, width, generator=generator), labels, logits


def agreed(labels: Tensor, logits: Tensor) -> Array:
    ground_truth, predicted = labels.numpy(), logits.numpy().argmax(1)
    return np.where(ground_truth == predicted, ground_truth, IGNORE)


class PlainAnchors:
    """Image by image and class by class, as the formula is written."""

    def __init__(self, classes: int, min_pixels: int, max_count: int) -> None:
        self.mean: dict[int, Array] = {}
        self.count = [0] * classes
        self.min_pixels, self.max_count = min_pixels, max_count

    def update(self, features: Array, labels: Array) -> None:
        for image, ground_truth in zip(features.astype(np.float64), labels, strict=True):
            for c in range(len(self.count)):
                pixels = [image[:, y, x] for y, x in zip(*np.nonzero(ground_truth == c), strict=True)]
                if len(pixels) < self.min_pixels:
                    continue
                row = sum(pixels) / len(pixels)
                if not np.isfinite(row).all():
                    continue
                n = self.count[c]
                self.mean[c] = (n * self.mean.get(c, 0) + row) / (n + 1)
                self.count[c] = min(n + 1, self.max_count)

    def assign(self, features: Array, margin: float) -> Array:
        result = np.full((features.shape[0], *features.shape[2:]), IGNORE)
        for b, y, x in np.ndindex(result.shape):
            pixel = features[b, :, y, x]
            ranked = sorted((float(np.sqrt(((a - pixel) ** 2).sum())), c) for c, a in self.mean.items())
            if len(ranked) > 1 and ranked[1][0] - ranked[0][0] >= margin:
                result[b, y, x] = ranked[0][1]
        return result


def check_state(anchors: si.CategoryAnchors, plain: PlainAnchors, atol: float = 1e-12) -> None:
    assert anchors.count.tolist() == plain.count
    for c in range(len(plain.count)):
        np.testing.assert_allclose(anchors.anchors_in(torch.float64)[c], plain.mean.get(c, np.zeros(D)), atol=atol)


def plain_loss(features: Array, labels: Array, plain: PlainAnchors, damp_above: float | None) -> tuple[float, Array]:
    """The code's form and its scaled gradient, region by region."""
    terms, slopes = [], []
    pixels = features.shape[2] * features.shape[3]
    for b, ground_truth in enumerate(labels):
        for c, anchor in plain.mean.items():
            inside = ground_truth == c
            if inside.sum() < plain.min_pixels:
                continue
            apart = features[b][:, inside].mean(1) - anchor
            term = np.where(abs(apart) < 1, apart**2 / 2, abs(apart) - 0.5).mean()
            slope = np.clip(apart, -1, 1) / len(apart)
            while damp_above is not None and term > damp_above:
                term, slope = term / 10, slope / 10
            terms.append(term)
            spread = np.zeros_like(features)
            spread[b][:, inside] = (slope * 2 * inside.sum() / pixels / inside.sum())[:, None]
            slopes.append(spread)
    n = max(1, len(terms))
    return 10 * sum(terms) / n, 10 * sum(slopes, np.zeros_like(features)) / n


def filled(min_pixels: int = 4, dtype: torch.dtype = torch.float64) -> tuple[si.CategoryAnchors, PlainAnchors]:
    """Anchors of three of the four classes."""
    anchors, plain = si.CategoryAnchors(K, D, min_pixels=min_pixels), PlainAnchors(K, min_pixels, 3000)
    for seed in range(3):
        features, labels, _ = batch(seed)
        labels = torch.where(labels == 2, IGNORE, labels)
        anchors.update(features.to(dtype), labels)
        plain.update(features.numpy(), labels.numpy())
    assert anchors.filled.tolist() == [True, True, False, True]
    return anchors, plain


def recorded_anchors(recorded: dict[str, Array]) -> si.CategoryAnchors:
    features = torch.from_numpy(recorded["cag_source_features"])
    anchors = si.CategoryAnchors(19, features.shape[2])
    for step in range(len(features)):
        labels, logits = (torch.from_numpy(recorded[f"cag_source_{name}"][step]) for name in ("labels", "logits"))
        anchors.update(features[step], labels, logits)
    return anchors


def test_anchors_and_assignment_are_the_recorded_ones(golden_baselines: dict[str, Array]) -> None:
    anchors = recorded_anchors(golden_baselines)
    np.testing.assert_allclose(anchors.anchors, golden_baselines["cag_anchors"], rtol=1e-5, atol=1e-6)
    assert anchors.count.tolist() == golden_baselines["cag_counts"].tolist()
    target = torch.from_numpy(golden_baselines["cag_target_features"])
    labels = anchors.assign(target, margin=float(golden_baselines["cag_margin"]))
    np.testing.assert_array_equal(labels, golden_baselines["cag_assignment"])


@pytest.mark.parametrize("max_count", [1, 2, 5, 3000])
def test_batches_equal_images_one_by_one(max_count: int) -> None:
    """Through saturation, within a batch and between batches, with classes that come and go."""
    anchors = si.CategoryAnchors(K, D, min_pixels=6, max_count=max_count)
    plain = PlainAnchors(K, 6, max_count)
    for seed, images in enumerate((3, 1, 0, 4, 2)):
        features, labels, logits = batch(seed, images)
        anchors.update(features.double(), labels, logits)
        plain.update(features.numpy(), agreed(labels, logits))
        check_state(anchors, plain)
    assert (max(plain.count) == max_count) == (max_count < 3000)


def test_a_saturated_mean_fades() -> None:
    """From [1, 2, 3] with a count that stops at 2: 1, 3/2, (2 * 3/2 + 3) / 3 = 2, and then (2 * 2 + 8) / 3 = 4."""
    rows = torch.tensor([1.0, 2.0, 3.0, 8.0]).view(4, 1, 1)
    zero, valid = torch.zeros(1, 1), torch.ones(4, 1, dtype=torch.bool)
    mean, _, count = running_mean(zero, zero, torch.tensor([0]), rows, valid, max_count=2)
    assert mean.item() == pytest.approx(4.0)
    assert count.item() == 2


def test_one_batch_with_the_real_limit_saturates_like_the_loop() -> None:
    rows = torch.randn(3100, 2, D, dtype=torch.float64)
    valid = torch.rand(3100, 2) < torch.tensor([1.0, 0.5])
    zero = torch.zeros(2, D)
    high, low, count = running_mean(zero, zero, torch.zeros(2, dtype=torch.int64), rows, valid, 3000)
    mean = high.double() + low.double()
    for c in range(2):
        expected, n = np.zeros(D), 0
        for row, entering in zip(rows[:, c].numpy(), valid[:, c].tolist(), strict=True):
            if entering:
                expected, n = (n * expected + row) / (n + 1), min(n + 1, 3000)
        assert count[c].item() == n
        np.testing.assert_allclose(mean[c], expected, atol=1e-13)
    assert count[0].item() == 3000


def test_the_least_number_of_pixels_counts_at_feature_resolution() -> None:
    anchors = si.CategoryAnchors(2, 1, min_pixels=10)
    labels = torch.zeros(1, 1, 19, dtype=torch.int64)
    labels[..., 10:] = 1
    anchors.update(torch.ones(1, 1, 1, 19), labels)
    assert anchors.count.tolist() == [1, 0]
    anchors.update(torch.ones(1, 1, 2, 38), labels)  # four times the pixels
    assert anchors.count.tolist() == [2, 1]


def test_rows_that_are_not_finite_never_enter() -> None:
    anchors, _ = filled()
    features, labels, _ = batch(7, 2)
    features[0, 1] = torch.nan
    before = copy.deepcopy(anchors)
    only_first = torch.where(torch.tensor([True, False])[:, None, None], labels, IGNORE)
    anchors.update(features, only_first)
    assert torch.equal(anchors.anchors, before.anchors)
    anchors.update(features, labels)
    before.update(features[1:], labels[1:])
    assert torch.equal(anchors.count, before.count)
    torch.testing.assert_close(anchors.anchors, before.anchors)


def test_thousands_of_small_steps_add_up_as_in_float64() -> None:
    """From 1 to 2 in steps that float32 alone would round away or add up to another number."""
    anchors, plain = si.CategoryAnchors(1, 1, min_pixels=1, max_count=10**6), 0.0
    values = 1 + torch.linspace(0, 1, 1500)
    for n, value in enumerate(values):
        anchors.update(value.view(1, 1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64))
        plain = (n * plain + value.item()) / (n + 1)
    assert anchors.anchors_in(torch.float64).item() == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("margin", [0.0, 0.4, 2.5])
def test_assignment_equals_the_plain_version(margin: float) -> None:
    anchors, plain = filled()
    features = 2 * torch.randn(2, D, 7, 9, dtype=torch.float64)
    labels = anchors.assign(features, margin=margin)
    np.testing.assert_array_equal(labels, plain.assign(features.numpy(), margin))
    assert labels.dtype == torch.int64
    assert 2 not in labels  # no anchor, though it would lie at the origin


def test_nothing_is_assigned_without_two_anchors_or_from_broken_pixels() -> None:
    features = torch.randn(1, D, 4, 5)
    anchors = si.CategoryAnchors(K, D, min_pixels=1)
    assert bool((anchors.assign(features, 0) == IGNORE).all())
    anchors.update(features, torch.zeros(1, 4, 5, dtype=torch.int64))
    assert bool((anchors.assign(features, 0) == IGNORE).all())
    anchors.update(features + 9, torch.ones(1, 4, 5, dtype=torch.int64))
    features[0, 0, 0, 0], features[0, 1, 1, 1] = torch.nan, torch.inf
    labels = anchors.assign(features, 0)
    assert torch.equal((labels == IGNORE).nonzero(), torch.tensor([[0, 0, 0], [0, 1, 1]]))
    assert bool((si.CategoryAnchors(1, D).assign(features, 0) == IGNORE).all())


def test_loss_and_gradient_are_the_recorded_ones(golden_baselines: dict[str, Array]) -> None:
    """The recording used every default: agreement with the logits, 10 pixels, and the scaled gradient."""
    loss = si.AnchorDistanceLoss(recorded_anchors(golden_baselines))
    target = torch.from_numpy(golden_baselines["cag_target_features"]).requires_grad_()
    labels = torch.from_numpy(golden_baselines["cag_assignment"])
    value = loss(target, labels, torch.from_numpy(golden_baselines["cag_target_logits"]))
    assert value.item() == pytest.approx(float(golden_baselines["cag_distance_loss"][0]), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, target)
    expected = golden_baselines["cag_distance_grad"]
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("damp_above", [5.0, 0.02, None])
@pytest.mark.parametrize("scale", [1.0, 200.0, 3000.0])
def test_value_and_scaled_gradient_equal_the_plain_version(scale: float, damp_above: float | None) -> None:
    anchors, plain = filled()
    features, labels, logits = batch(9)
    features = (scale * features.double()).requires_grad_()
    value = si.AnchorDistanceLoss(anchors, damp_above=damp_above)(features, labels, logits)
    expected, slope = plain_loss(features.detach().numpy(), agreed(labels, logits), plain, damp_above)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    assert value.item() > 0
    (gradient,) = torch.autograd.grad(value, features)
    np.testing.assert_allclose(gradient, slope, atol=1e-12)


@pytest.mark.parametrize(("distance", "softened"), [(5.5, 5.0), (5.6, 0.51), (50.5, 5.0), (60.5, 0.6), (6000.5, 0.6)])
def test_softening_by_hand(distance: float, softened: float) -> None:
    row = torch.tensor([[[distance]]], dtype=torch.float64)
    value = _distance_of_means(row, torch.tensor([[True]]), torch.zeros(1, 1, dtype=torch.float64), 5.0)
    assert value.item() == pytest.approx(10 * softened)


def test_the_papers_form_equals_the_plain_version() -> None:
    anchors, plain = filled()
    features, labels, logits = batch(9)
    features = features.double().requires_grad_()
    value = si.AnchorDistanceLoss(anchors, preset="paper")(features, labels, logits)
    slope, terms = np.zeros(features.shape), []
    for b, y, x in zip(*np.nonzero(agreed(labels, logits) != IGNORE), strict=True):
        anchor = plain.mean.get(int(labels[b, y, x]))
        if anchor is not None:
            apart = features.detach().numpy()[b, :, y, x] - anchor
            terms.append((apart**2).sum())
            slope[b, :, y, x] = 2 * apart
    assert value.item() == pytest.approx(np.mean(terms))
    (gradient,) = torch.autograd.grad(value, features)
    np.testing.assert_allclose(gradient, slope / len(terms), atol=1e-12)


@pytest.mark.parametrize("options", [
    {"scale_gradient": False}, {"scale_gradient": False, "damp_above": 0.1}, {"preset": "paper"}
])  # fmt: skip
def test_the_function_is_the_module(options: dict[str, Any]) -> None:
    anchors, _ = filled()
    features, labels, logits = batch(9)
    value = si.anchor_distance_loss(features, labels, anchors, logits=logits, **options)
    assert value > 0
    assert torch.equal(value, si.AnchorDistanceLoss(anchors, **options)(features, labels, logits))


@pytest.mark.parametrize("form", ["code", "paper"])
def test_without_logits_all_labeled_pixels_count(form: Any) -> None:
    loss = si.AnchorDistanceLoss(filled()[0], form)
    features, labels, _ = batch(9)
    sure = torch.nn.functional.one_hot(labels.clamp(max=K - 1), K).movedim(3, 1).float()
    assert torch.equal(loss(features, labels), loss(features, labels, sure))


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("why", ["ignored", "no anchors", "class without anchor", "no image"])
def test_nothing_to_pull_is_zero_on_the_graph(form: Any, why: str) -> None:
    anchors = si.CategoryAnchors(K, D) if why == "no anchors" else filled()[0]
    features, labels, logits = batch(9, 0 if why == "no image" else 2)
    labels = {"ignored": torch.full_like(labels, IGNORE), "class without anchor": torch.full_like(labels, 2)}.get(
        why, labels
    )
    features.requires_grad_()
    value = si.AnchorDistanceLoss(anchors, form)(features, labels, None if why == "class without anchor" else logits)
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, features)
    assert not gradient.any()
