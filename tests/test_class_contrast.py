"""Class distributions, and contrast with them and with anchors, against plain versions in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import stuffinstance as si
from stuffinstance.banks.class_distributions import merged_moments
from tests import oracles
from tests.label_maps import IGNORE, blocks
from tests.test_matching import LargestTensor

K, D = 4, 3
Array = NDArray[Any]


def batch(seed: int, images: int = 3) -> tuple[Tensor, Tensor]:
    """Features (B, D, 6, 5), and labels four times as large of every class and of none."""
    generator = torch.Generator().manual_seed(seed)
    labels = blocks(24, 20, (0, 1, 2, 3, IGNORE), seed, images, cell=6)
    return 2 + torch.randn(images, D, 6, 5, generator=generator), labels


def cells_of(features: Tensor, labels: Tensor) -> list[tuple[int, int, Array]]:
    """Image, class and normalized feature of each cell whose majority has a class."""
    found = []
    for image, (maps, ids) in enumerate(zip(features.double().numpy(), labels.numpy(), strict=True)):
        majority = oracles.majority_labels(ids, *maps.shape[1:], 0.75)
        for (i, j), k in np.ndenumerate(majority):
            if k != IGNORE:
                found.append((image, int(k), maps[:, i, j] / np.linalg.norm(maps[:, i, j])))
    return found


def moments_of(cells: list[tuple[int, int, Array]]) -> tuple[Array, Array, list[int]]:
    mean, variance, count = np.zeros((K, D)), np.zeros((K, D)), [0] * K
    for k in range(K):
        rows = [feature for _, c, feature in cells if c == k]
        count[k] = len(rows)
        if rows:
            mean[k], variance[k] = np.mean(rows, 0), np.var(rows, 0)
    return mean, variance, count


def filled(without: int = 2) -> si.ClassDistributions:
    held = si.ClassDistributions(K, D)
    for seed in range(3):
        features, labels = batch(seed)
        held.update(features.double(), torch.where(labels == without, IGNORE, labels))
    return held


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_give_the_moments_of_all_cells_together(dtype: torch.dtype) -> None:
    """In batches of any size, with classes that come and go, and image by image."""
    held, single, cells = si.ClassDistributions(K, D), si.ClassDistributions(K, D), []
    for seed, images in enumerate((3, 1, 0, 4)):
        features, labels = batch(seed, images)
        labels = torch.where(labels == seed, IGNORE, labels)
        held.update(features.to(dtype), labels)
        for image in range(images):
            single.update(features[image : image + 1].to(dtype), labels[image : image + 1])
        cells += cells_of(features, labels)
    mean, variance, count = moments_of(cells)
    assert min(count) > 10
    for each in (held, single):
        assert each.count.tolist() == count
        moments = each.moments_in(torch.float64)
        tolerance = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 1e-6}
        np.testing.assert_allclose(torch.stack(moments), np.stack([mean, variance]), **tolerance)
        torch.testing.assert_close(torch.stack([each.mean, each.variance]), torch.stack(moments).float())


def test_a_narrow_class_far_from_the_origin_keeps_its_variance() -> None:
    """A mean of 1 and a standard deviation of 1e-4, in float32: mean squares minus squared means would be noise."""
    features = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1) + 1e-4 * torch.randn(1, 2, 50, 50)
    held = si.ClassDistributions(1, 2)
    for part in features.split(10, 2):
        held.update(part, torch.zeros(1, 10, 50, dtype=torch.int64))
    rows = features.double().flatten(2)[0]
    exact = (rows / rows.norm(dim=0)).var(1, correction=0)
    torch.testing.assert_close(held.variance[0, 1].double(), exact[1], rtol=1e-3, atol=0)


def test_a_thousand_batches_add_up_as_in_float64() -> None:
    numbers = torch.linspace(0, 1, 1000) ** 3
    moments, remainder, count = torch.zeros(2, 1, 1), torch.zeros(2, 1, 1), torch.tensor([0])
    for number in numbers:
        row = torch.stack([number, torch.zeros(())]).view(1, 2, 1, 1)
        moments, remainder, count = merged_moments(moments, remainder, count, row, torch.tensor([[1]]))
    mean, variance = (moments.double() + remainder.double()).flatten()
    torch.testing.assert_close(mean, numbers.double().mean(), rtol=0, atol=1e-9)
    torch.testing.assert_close(variance, numbers.double().var(correction=0), rtol=0, atol=1e-9)


def test_cells_that_are_not_finite_never_enter() -> None:
    features, labels = batch(0)
    features[0, 1, 2:] = torch.nan
    features[1, 0, 0] = torch.inf
    held, expected = si.ClassDistributions(K, D), si.ClassDistributions(K, D)
    held.update(features, labels)
    broken = ~features.isfinite().all(1)
    apart = torch.where(broken.repeat_interleave(4, 1).repeat_interleave(4, 2), IGNORE, labels)
    expected.update(torch.where(broken[:, None], 7.0, features), apart)
    assert 0 < int(held.count.sum()) < 90
    assert torch.equal(held.count, expected.count)
    torch.testing.assert_close(held.moments, expected.moments)


def plain_contrast(
    features: Tensor, labels: Tensor, held: si.ClassDistributions, temperature: float, ratio: float, weight: float
) -> list[float]:
    """Per image, cell by cell and class by class."""
    mean, variance = (each.numpy() for each in held.moments_in(torch.float64))
    known = [k for k in range(K) if held.count[k] > 0]
    losses, cells = [], cells_of(features, labels)
    for image in range(len(features)):
        own = [(k, f) for where, k, f in cells if where == image and k in known]
        if not own:
            losses.append(0.0)
            continue
        terms = []
        for y, f in own:
            half = {k: 0.5 * (f * (variance[k] * ratio / temperature) * f).sum() for k in known}
            score = {k: (f @ mean[k] + half[k]) / temperature for k in known}
            terms.append(-score[y] + math.log(sum(math.exp(s) for s in score.values())) + half[y] / temperature)
        center = np.mean([f for _, f in own], 0)
        exponents = [math.exp(center @ mean[k] / temperature) for k in known]
        logarithms = [math.log(e / sum(exponents)) for e in exponents]
        normalizer = len(known) * math.log(len(known))
        losses.append(float(np.mean(terms)) + weight * (sum(logarithms) / normalizer if normalizer else 0.0))
    return losses


@pytest.mark.parametrize(("temperature", "ratio", "weight"), [(100, 1, 1), (0.1, 1, 0), (0.2, 0, 1), (0.3, 2.5, 0.4)])
@pytest.mark.parametrize("without", [IGNORE, 2])
def test_distribution_contrast_equals_the_plain_version(
    temperature: float, ratio: float, weight: float, without: int
) -> None:
    held = filled(without)
    assert held.filled.tolist() == [True, True, without != 2, True]
    features, labels = batch(9)
    labels[1] = IGNORE
    expected = plain_contrast(features, labels, held, temperature, ratio, weight)
    options: Any = {"ratio": ratio, "regularizer_weight": weight}
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        loss = si.DistributionContrastLoss(held, temperature, **options, reduction="none")
        found = loss(features.to(dtype).requires_grad_(), labels)
        assert found.dtype == dtype
        torch.testing.assert_close(
            found.double(), torch.tensor(expected, dtype=torch.float64), rtol=tolerance, atol=tolerance
        )
    assert expected[1] == 0 != expected[0]


def test_one_known_class_leaves_its_variance_alone() -> None:
    """No other class to contrast with, and no regularizer: half the squared feature times the variance."""
    held = si.ClassDistributions(K, 2)
    held.update(torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]), torch.tensor([[[1, 1]]]))
    features = torch.tensor([[[[3.0]], [[4.0]]]], requires_grad=True)
    value = si.DistributionContrastLoss(held, 1.0)(features, torch.tensor([[[1]]]))
    assert value.item() == pytest.approx(0.5 * (0.36 * 0.25 + 0.64 * 0.25))


@pytest.mark.parametrize("temperature", [50.0, 0.1])
def test_prototype_contrast_equals_the_plain_version(temperature: float) -> None:
    anchors = si.CategoryAnchors(K, D, min_pixels=1)
    features, labels = batch(0)
    anchors.update(features.double(), torch.where(labels == 2, IGNORE, labels))
    features, labels = batch(9)
    features = features.double().requires_grad_()
    centers, known = anchors.anchors_in(torch.float64).numpy(), [0, 1, 3]
    losses = []
    for maps, ids in zip(features.detach().numpy(), labels.numpy(), strict=True):
        terms = []
        for (i, j), y in np.ndenumerate(oracles.resize_nearest(ids, *maps.shape[1:])):
            if y in known:
                f = maps[:, i, j]
                cosine = {k: f @ centers[k] / np.linalg.norm(f) / np.linalg.norm(centers[k]) for k in known}
                terms.append(math.log(sum(math.exp((cosine[k] - cosine[y]) / temperature) for k in known)))
        losses.append(np.mean(terms))
    assert int(anchors.filled.sum()) == 3
    value = si.PrototypeContrastLoss(anchors, temperature)(features, labels)
    assert value.item() == pytest.approx(np.mean(losses), rel=1e-12)


@pytest.mark.parametrize("loss", [
    si.DistributionContrastLoss(si.ClassDistributions(K, D)), si.PrototypeContrastLoss(si.CategoryAnchors(K, D)),
])  # fmt: skip
def test_contrast_with_nothing_is_zero_on_the_graph(loss: Any) -> None:
    features, labels = batch(0)
    value = loss(features.requires_grad_(), labels)
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, features)
    assert not gradient.any()
    other = filled() if isinstance(loss, si.DistributionContrastLoss) else None
    if other is not None:  # cells of the one class that has no distribution
        assert si.DistributionContrastLoss(other)(features, torch.full_like(labels, 2)).item() == 0


def test_features_of_any_length_and_zero_have_a_finite_gradient() -> None:
    loss = si.DistributionContrastLoss(filled(), 0.1)
    features, labels = batch(9)
    expected = loss(features, labels)
    scaled = (features.double() * 10.0 ** torch.arange(-30, 30, 2).view(6, 5)).requires_grad_()
    torch.testing.assert_close(loss(scaled, labels).float(), expected)
    nothing = torch.zeros_like(features).requires_grad_()
    loss(nothing, labels).backward()
    assert nothing.grad.isfinite().all()


def test_a_temperature_with_which_scores_overflow_is_an_error() -> None:
    held = si.ClassDistributions(2, 3)
    si.DistributionContrastLoss(held, 1e-14)
    with pytest.raises(ValueError, match=r"ratio / \(2 \* temperature\^2\) must be at most 1e\+30"):
        si.DistributionContrastLoss(held, 1e-16)


def test_no_tensor_of_pixels_by_classes_by_channels_is_built() -> None:
    pixels, classes, dim = 16 * 16, 12, 16
    held, anchors = si.ClassDistributions(classes, dim), si.CategoryAnchors(classes, dim, min_pixels=1)
    features, labels = torch.randn(1, dim, 16, 16), torch.randint(0, classes, (1, 16, 16))
    with LargestTensor() as largest:
        held.update(features, labels)
        anchors.update(features, labels)
        for loss in (si.DistributionContrastLoss(held), si.PrototypeContrastLoss(anchors)):
            loss(features.requires_grad_(), labels).backward()
    assert features.grad is not None
    assert features.grad.any()
    assert largest.numbers <= 2 * pixels * dim
