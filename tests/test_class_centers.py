"""Class center distance: the formula, streaming, absent classes, and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import stuffinstance as si
from tests.label_maps import IGNORE, blocks

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
