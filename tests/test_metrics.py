"""Mean IoU, class center distance and metrics without labels: recorded numbers, plain loops, values by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import stuffinstance as si
from stuffinstance.metrics.unsupervised import _on_grid
from tests import oracles
from tests.label_maps import IGNORE, blocks


def test_recorded_scores(golden_baselines: dict[str, np.ndarray]) -> None:
    predictions = torch.from_numpy(golden_baselines["miou_predictions"])
    labels = torch.from_numpy(golden_baselines["miou_labels"])
    score = si.MeanIoU(19)
    for one, ground_truth in zip(predictions, labels, strict=True):
        score.update(one[None], ground_truth[None])
    np.testing.assert_array_equal(score.confusion.numpy(), golden_baselines["miou_confusion"])
    mean, per_class = score.compute()
    expected = golden_baselines["miou_per_class"]
    assert per_class.dtype == torch.float64
    np.testing.assert_allclose(per_class.numpy(), expected, rtol=1e-12)
    assert mean == pytest.approx(np.nanmean(expected))
    subset = score.compute(classes=(0, 13, 16))
    assert subset.mean == pytest.approx(np.nanmean(expected[[0, 13, 16]]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_scores_equal_the_oracles(dtype: torch.dtype) -> None:
    predictions, labels = torch.randint(5, (3, 7, 9)), torch.randint(5, (3, 7, 9))
    labels[torch.rand(labels.shape) < 0.2] = 255
    score = si.MeanIoU(5)
    score.update(predictions.to(dtype), labels.to(dtype))
    matrix = oracles.confusion(predictions.numpy(), labels.numpy(), 5)
    np.testing.assert_array_equal(score.confusion.numpy(), matrix)
    np.testing.assert_allclose(score.compute().per_class.numpy(), oracles.iou(matrix))


def test_logits_are_reduced_to_ids() -> None:
    logits, labels = torch.randn(2, 5, 6, 6), torch.randint(5, (2, 6, 6))
    by_logits, by_ids = si.MeanIoU(5), si.MeanIoU(5)
    by_logits.update(logits, labels)
    by_ids.update(logits.argmax(1), labels)
    assert torch.equal(by_logits.confusion, by_ids.confusion)


def test_ids_outside_the_classes_are_named_with_what_to_do() -> None:
    score, labels = si.MeanIoU(5), torch.zeros(1, 2, 2, dtype=torch.long)
    for strange in (-1, 255):
        with pytest.raises(ValueError, match=rf"preds must hold .* got also \[{strange}\]\. A prediction"):
            score.update(torch.full_like(labels, strange), labels)
    with pytest.raises(ValueError, match="Where 254 marks pixels without a class, pass it as ignore_index"):
        score.update(labels, torch.full_like(labels, 254))
    with pytest.raises(TypeError, match=r"got dict with 'out': torch\.float32 \(1, 5, 2, 2\) on cpu"):
        score.update({"out": torch.zeros(1, 5, 2, 2)}, labels)  # type: ignore[arg-type]
    assert not score.confusion.any()


def test_mistakes_outside_the_subset_still_count() -> None:
    score = si.MeanIoU(3)
    score.update(torch.tensor([[[0, 2]]]), torch.tensor([[[0, 0]]]))
    assert score.compute(classes=(0, 1)).mean == pytest.approx(0.5)


def test_classes_by_name() -> None:
    metric = si.MeanIoU(3, names=("road", "sky", "car"))
    metric.update(torch.tensor([[[0, 2, 1, 2]]]), torch.tensor([[[0, 0, 1, 2]]]))
    assert metric.compute(["car", "sky"]).mean == metric.compute((2, 1)).mean == pytest.approx(0.75)
    with pytest.raises(TypeError, match=r"without names, got \['car'\]\. Pass names=space\.names to MeanIoU"):
        si.MeanIoU(3).compute(["car"])


def test_absent_and_ignored_classes() -> None:
    """Class 0 is right, 1 only predicted (IoU 0, in the mean), 2 absent (NaN, not in the mean)."""
    metric = si.MeanIoU(3)
    metric.update(torch.tensor([[[0, 1, 2]]]), torch.tensor([[[0, 0, 255]]]))
    mean, per_class = metric.compute()
    np.testing.assert_allclose(per_class.numpy(), [0.5, 0, math.nan])
    assert mean == 0.25


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("strange", [20, 19, -1, 10**6])
def test_where_values_are_not_read_a_prediction_outside_the_classes_is_a_miss(strange: int) -> None:
    score = si.MeanIoU(19)
    score.update(torch.tensor([[[strange, 0]]]), torch.tensor([[[0, 0]]]))
    assert score.compute().mean == 0.5
    assert score.confusion.sum() == 1
    assert score.unclassed[0] == 1


K, D = 5, 3
Array = NDArray[Any]


def batch(seed: int, images: int = 2, ids: tuple[int, ...] = (0, 1, 3, 4, IGNORE)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, D, 6, 8, generator=generator, dtype=torch.float64)
    return features, blocks(6, 8, ids, seed, images, cell=2)


def plain_distance(features: Array, labels: Array) -> Array:
    """As the formula is written, in two loops over all pixels; K counts the classes that are present."""
    pixels = [features[b, :, y, x] for b, y, x in np.ndindex(labels.shape)]
    members = {
        i: [x for x, y in zip(pixels, labels.reshape(-1), strict=True) if y == i and np.isfinite(x).all()]
        for i in range(K)
    }
    centers = {i: np.mean(xs, 0) for i, xs in members.items() if xs}
    result = np.full(K, np.nan)
    for i, center in centers.items():
        within = np.mean([((x - center) ** 2).sum() for x in members[i]])
        terms = [within / np.sqrt(((center - other) ** 2).sum()) for j, other in centers.items() if j != i]
        if terms:
            result[i] = sum(terms) / len(terms)
    return result


@pytest.mark.parametrize("ids", [(0, 1, 2, 3, 4), (0, 1, 3, 4, IGNORE), (2, 4), (3, IGNORE), (IGNORE,)])
def test_equals_the_plain_version(ids: tuple[int, ...]) -> None:
    features, labels = batch(1, 3, ids)
    actual = si.class_center_distance(features, labels, K)
    expected = plain_distance(features.numpy(), labels.numpy())
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    assert np.isfinite(expected).sum() == (len({*ids} - {IGNORE}) if len({*ids} - {IGNORE}) > 1 else 0)


def test_by_hand() -> None:
    """Centers 0, 3 and 4; the spread of class 0 is (1 + 1) / 2, so CCD(0) = (1/3 + 1/4) / 2."""
    features = torch.tensor([[[[-1.0, 1.0, 3.0, 4.0]]]])
    actual = si.class_center_distance(features, torch.tensor([[[0, 0, 1, 2]]]), 3)
    torch.testing.assert_close(actual, torch.tensor([7 / 24, 0, 0]))


def test_far_from_the_origin_nothing_is_lost() -> None:
    """Squares of sums would cancel here."""
    features, labels = batch(2)
    moved = features + 1e6
    expected = si.class_center_distance(features, labels, K)
    assert expected.isfinite().any()
    torch.testing.assert_close(si.class_center_distance(moved, labels, K), expected, rtol=1e-7, atol=0, equal_nan=True)


def test_labels_are_resized_and_any_layout_and_precision_serves() -> None:
    features, labels = batch(4)
    expected = si.class_center_distance(features, labels, K)
    large = labels.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
    torch.testing.assert_close(si.class_center_distance(features, large, K), expected, equal_nan=True)
    last = features.to(memory_format=torch.channels_last)
    torch.testing.assert_close(si.class_center_distance(last, labels, K), expected, equal_nan=True)
    with torch.autocast("cpu", torch.bfloat16):
        half = si.class_center_distance(features.bfloat16(), labels, K)
    torch.testing.assert_close(half, expected.float(), rtol=0.02, atol=0, equal_nan=True)
    assert half.dtype == torch.float32


def test_pixels_that_are_not_finite_are_ignored() -> None:
    features, labels = batch(5)
    features[0, 1, 2, 3], features[1, 0, 0, 0] = torch.nan, torch.inf
    expected = plain_distance(features.numpy(), labels.numpy())
    np.testing.assert_allclose(si.class_center_distance(features, labels, K), expected, rtol=1e-12)
    assert np.isfinite(expected).any()


def test_nothing_seen_is_nan_and_same_centers_are_infinitely_bad() -> None:
    distance = si.ClassCenterDistance(K, D)
    assert distance.compute().isnan().all()
    distance.update(*batch(0, 0))
    assert distance.compute().isnan().all()
    features = torch.tensor([[[[-1.0, 1.0, 0.0]]]])
    assert si.class_center_distance(features, torch.tensor([[[0, 0, 1]]]), 2)[0] == torch.inf


Score = si.PredictionEntropy | si.SoftNeighborhoodDensity
SCORES: dict[str, Callable[[], Score]] = {
    "entropy": lambda: si.PredictionEntropy(4),
    "density": lambda: si.SoftNeighborhoodDensity(sample=12),
}


@pytest.fixture(params=SCORES)
def make(request: pytest.FixtureRequest) -> Callable[[], Score]:
    return SCORES[request.param]


def predictions(batch: int = 3, height: int = 5, width: int = 9, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(batch, 4, height, width, dtype=dtype)).softmax(1)


# ------------------------------------------------------------------ the formulas, pixel by pixel


def mean_entropy(probabilities: Array) -> float:
    batch, classes, height, width = probabilities.shape
    total = 0.0
    for b, i, j in np.ndindex(batch, height, width):
        total += sum(-p * math.log(p) / math.log(classes) for p in probabilities[b, :, i, j] if p > 0)
    return total / (batch * height * width)


def density_of_image(vectors: list[Array], temperature: float) -> float:
    unit = [vector / math.sqrt(sum(v**2 for v in vector)) for vector in vectors]
    total = 0.0
    for i, own in enumerate(unit):
        odds = [math.exp(float(own @ other) / temperature) for j, other in enumerate(unit) if j != i]
        total -= sum(o / sum(odds) * math.log(o / sum(odds)) for o in odds)
    return total / len(unit)


def sampled(image: Array, sample: int) -> list[Array]:
    """The pixel in the middle of each cell; the most rows that make cells no wider than they are high."""
    _, height, width = image.shape
    rows = max([r for r in range(1, min(height, sample) + 1) if r * r * width <= sample * height], default=1)
    columns = min(sample // rows, width)
    rows = min(sample // columns, height)
    middles = [(int((i + 0.5) * height / rows), int((j + 0.5) * width / columns)) for i, j in np.ndindex(rows, columns)]
    return [image[:, i, j] for i, j in middles]


# ------------------------------------------------------------------ values


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_entropy_equals_the_oracle(dtype: torch.dtype, close: float) -> None:
    exact, score = predictions(), si.PredictionEntropy(4)
    score.update(exact.to(dtype))
    assert score.compute() == pytest.approx(mean_entropy(exact.numpy()), rel=close)
    assert score.total == pytest.approx(score.compute() * 3 * 5 * 9)
    assert int(score.count) == 3 * 5 * 9


@pytest.mark.parametrize("size", [(5, 9), (9, 5), (1, 40), (40, 1), (2, 3), (16, 32)])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_density_equals_the_oracle(size: tuple[int, int], dtype: torch.dtype, close: float) -> None:
    exact, score = predictions(2, *size), si.SoftNeighborhoodDensity(0.1, 12)
    score.update(exact.to(dtype))
    expected = [density_of_image(sampled(image, 12), 0.1) for image in exact.numpy()]
    assert score.compute() == pytest.approx(sum(expected) / 2, rel=close)
    assert int(score.count) == 2


@pytest.mark.parametrize("sample", [2, 3, 12, 100, 101])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 4), (24, 48), (31, 17)])
def test_the_grid_is_even_and_never_larger_than_asked(size: tuple[int, int], sample: int) -> None:
    places = torch.stack(torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij"))[None]
    grid = _on_grid(places, sample)[0]
    count = grid[0].numel()
    assert min(sample, size[0] * size[1]) / 2 <= count <= sample
    assert len({tuple(place) for place in grid.flatten(1).T.tolist()}) == count
    for axis, length in enumerate(size):
        lines = grid[axis].unique()
        gaps = lines.diff()
        assert gaps.numel() == 0 or gaps.max() - gaps.min() <= 1
        assert abs(int(lines[0]) - (length - 1 - int(lines[-1]))) <= 1  # as far from either edge


def test_values_by_hand() -> None:
    sure = torch.eye(2).view(1, 2, 1, 2).repeat(1, 1, 2, 2)  # (1, 2, 2, 4): four pixels of each class
    entropy, density = si.PredictionEntropy(2), si.SoftNeighborhoodDensity(temperature=0.01)
    entropy.update(sure)
    density.update(sure)
    assert entropy.compute() == 0
    assert density.compute() == pytest.approx(math.log(3), abs=1e-6)  # three equally near, four out of reach
    unsure = torch.full((1, 2, 2, 4), 0.5)
    entropy.update(unsure)
    density.update(unsure)
    assert entropy.compute() == pytest.approx(0.5)
    assert density.compute() == pytest.approx((math.log(3) + math.log(7)) / 2, abs=1e-6)  # the same everywhere: highest


def test_classes_that_lie_apart_are_denser_than_noise() -> None:
    classes = torch.randint(4, (4, 20, 20))
    tidy = (8 * torch.nn.functional.one_hot(classes, 4).movedim(3, 1).float()).softmax(1)
    noisy = torch.rand(4, 4, 20, 20).pow(3)
    values = []
    for maps in (tidy, noisy / noisy.sum(1, keepdim=True)):
        score = si.SoftNeighborhoodDensity()
        score.update(maps)
        values.append(score.compute())
    assert values[0] > values[1]


# ------------------------------------------------------------------ streams


def test_images_of_two_sizes_count_by_pixels_or_by_images() -> None:
    sure, unsure = torch.zeros(1, 2, 1, 3), torch.full((1, 2, 1, 9), 0.5)
    sure[:, 0] = 1
    entropy, density = si.PredictionEntropy(2), si.SoftNeighborhoodDensity()
    for maps in (sure, unsure):
        entropy.update(maps)
        density.update(maps)
    assert entropy.compute() == pytest.approx(9 / 12)
    assert density.compute() == pytest.approx((math.log(2) + math.log(8)) / 2, abs=1e-6)


def test_a_single_pixel_has_no_neighbor() -> None:
    score = si.SoftNeighborhoodDensity()
    score.update(predictions(2, 1, 1))
    assert math.isnan(score.compute())


@pytest.mark.usefixtures("unread")
def test_where_values_are_not_read_broken_pixels_are_ignored(make: Callable[[], Score]) -> None:
    maps = predictions(2, 3, 4)
    broken = maps.clone()
    broken[0, 1, 0, 0] = torch.nan
    score, alone = make(), make()
    score.update(broken)
    whole = [*maps[0].flatten(1).T.numpy()[1:]]
    if isinstance(score, si.PredictionEntropy):
        rest = np.concatenate([np.stack(whole), maps[1].flatten(1).T.numpy()])
        assert score.compute() == pytest.approx(mean_entropy(rest[:, :, None, None]))
    else:
        expected = density_of_image(whole, 0.05) + density_of_image([*maps[1].flatten(1).T.numpy()], 0.05)
        assert score.compute() == pytest.approx(expected / 2)
    alone.update(torch.full_like(maps, torch.nan))
    assert math.isnan(alone.compute())
    assert int(alone.count) == 0
