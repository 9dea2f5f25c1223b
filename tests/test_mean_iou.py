"""Mean IoU: recorded values, subsets of classes, streams, and errors."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

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


def test_the_score_is_of_the_data_set_not_of_batches() -> None:
    """Class 0 is right on 1 of 2 pixels of one image and 8 of 8 of the other: 9/10, not 3/4."""
    score = si.MeanIoU(2)
    score.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]))
    score.update(torch.zeros(1, 1, 8, dtype=torch.int64), torch.zeros(1, 1, 8, dtype=torch.int64))
    assert score.compute(classes=(0,)).mean == pytest.approx(0.9)


def test_mistakes_outside_the_subset_still_count() -> None:
    score = si.MeanIoU(3)
    score.update(torch.tensor([[[0, 2]]]), torch.tensor([[[0, 0]]]))
    assert score.compute(classes=(0, 1)).mean == pytest.approx(0.5)


def test_classes_by_name() -> None:
    metric = si.MeanIoU(3, names=("road", "sky", "car"))
    metric.update(torch.tensor([[[0, 2, 1, 2]]]), torch.tensor([[[0, 0, 1, 2]]]))
    assert metric.compute(["car", "sky"]).mean == metric.compute((2, 1)).mean == pytest.approx(0.75)
    with pytest.raises(ValueError, match=r"classes must hold ids 0..2 or names .*'bus'.*road, sky, car"):
        metric.compute(["bus"])
    with pytest.raises(TypeError, match=r"classes must be a sequence of integer class ids"):
        si.MeanIoU(3).compute(["car"])
    with pytest.raises(ValueError, match=r"names must be K = 3 distinct class names, got 19"):
        si.MeanIoU(3, names=si.CITYSCAPES.names)
    with pytest.raises(ValueError, match=r"names must be K = 2 distinct class names, got 2"):
        si.MeanIoU(2, names=("car", "car"))
    for wrong in ("ab", 2, (1, 2)):
        with pytest.raises(TypeError, match=r"names must be K = 2 distinct class names"):
            si.MeanIoU(2, names=wrong)


def test_absent_and_ignored_classes() -> None:
    """Class 0 is right, 1 only predicted (IoU 0, in the mean), 2 absent (NaN, not in the mean)."""
    metric = si.MeanIoU(3)
    metric.update(torch.tensor([[[0, 1, 2]]]), torch.tensor([[[0, 0, 255]]]))
    mean, per_class = metric.compute()
    np.testing.assert_allclose(per_class.numpy(), [0.5, 0, math.nan])
    assert mean == 0.25
    assert repr(metric) == "MeanIoU(num_classes=3, ignore_index=255)"


def test_no_pixel_is_not_a_number() -> None:
    score = si.MeanIoU(3)
    score.update(torch.zeros(1, 4, 4, dtype=torch.int64), torch.full((1, 4, 4), 255))
    score.update(torch.zeros(0, 4, 4, dtype=torch.int64), torch.zeros(0, 4, 4, dtype=torch.int64))
    assert math.isnan(score.compute().mean)
    assert score.compute().per_class.isnan().all()


def test_parts_merge_and_state_continues() -> None:
    predictions, labels = torch.randint(4, (4, 6, 6)), torch.randint(4, (4, 6, 6))
    whole, first, second, loaded = (si.MeanIoU(4) for _ in range(4))
    whole.update(predictions, labels)
    first.update(predictions[:1], labels[:1])
    loaded.load_state_dict(first.state_dict())
    copied = copy.deepcopy(first)
    second.update(predictions[1:], labels[1:])
    for part in (first, loaded, copied):
        part.merge(second)
        assert torch.equal(part.confusion, whole.confusion)
    first.reset()
    assert not first.confusion.any()


IDS = torch.zeros(1, 4, 4, dtype=torch.int64)


@pytest.mark.parametrize(("preds", "target", "message"), [
    (IDS[0], IDS, r"preds must .*\(4, 4\)"),
    (IDS, IDS[0], r"target must .*\(4, 4\)"),
    (IDS, IDS.float(), r"target must .*float32"),
    (IDS, torch.zeros(1, 8, 8, dtype=torch.int64), r"preds must .*\(1, 8, 8\).*\(1, 4, 4\)"),
    (IDS, IDS + 3, r"target must .*3"),
    (IDS, IDS - 1, r"target must .*-1"),
    (IDS + 3, IDS, r"preds must .*3"),
    (IDS + 255, IDS, r"preds must .*255"),
    (torch.zeros(1, 4, 4, 4), IDS, r"preds must have K = 3 .*4"),
    (IDS.expand(2, 4, 4), IDS, r"preds.*target.*B = 2"),
    (torch.tensor([0.0, float("nan"), 1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4), IDS,
     r"preds must be numbers, got logits with NaN at 16 of 16 pixels"),
])  # fmt: skip
def test_arguments_that_do_not_fit_raise(preds: Tensor, target: Tensor, message: str) -> None:
    score = si.MeanIoU(3)
    with pytest.raises(ValueError, match=message):
        score.update(preds, target)
    assert not score.confusion.any()


def test_a_subset_must_be_of_the_classes() -> None:
    with pytest.raises(ValueError, match=r"classes must .*3"):
        si.MeanIoU(3).compute(classes=(3,))
