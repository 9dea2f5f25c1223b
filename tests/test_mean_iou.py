"""Mean IoU: recorded values, subsets of classes, streams, and errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import stuffinstance as si
from tests import oracles


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


def test_mistakes_outside_the_subset_still_count() -> None:
    score = si.MeanIoU(3)
    score.update(torch.tensor([[[0, 2]]]), torch.tensor([[[0, 0]]]))
    assert score.compute(classes=(0, 1)).mean == pytest.approx(0.5)


def test_classes_by_name() -> None:
    metric = si.MeanIoU(3, names=("road", "sky", "car"))
    metric.update(torch.tensor([[[0, 2, 1, 2]]]), torch.tensor([[[0, 0, 1, 2]]]))
    assert metric.compute(["car", "sky"]).mean == metric.compute((2, 1)).mean == pytest.approx(0.75)


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
