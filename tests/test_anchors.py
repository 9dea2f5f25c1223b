"""Category anchors: recorded numbers, the plain version, saturation, assignment, and what is nothing."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import stuffinstance as si
from stuffinstance.banks.class_anchors import running_mean
from tests.label_maps import IGNORE
from tests.plain_anchors import Array, D, K, PlainAnchors, agreed, batch, check_state, filled, recorded_anchors


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
    values = 1 + torch.linspace(0, 1, 4000)
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
