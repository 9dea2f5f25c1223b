"""Metrics without labels: plain loops, values by hand, streams, ranks, ignored values and errors."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import stuffinstance as si
from stuffinstance.metrics.unsupervised import _on_grid

Array = NDArray[np.float64]
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


def test_what_was_not_looked_at_and_is_not_finite_is_ignored(
    make: Callable[[], Score], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where values are not read."""
    monkeypatch.setattr("stuffinstance.pseudo_labels.threshold.may_read", lambda *_: False)
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


# ------------------------------------------------------------------ errors
