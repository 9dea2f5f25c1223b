"""Thresholds and pseudo-labels: the recorded ones, the oracle's, streams, merging, memory."""

from __future__ import annotations

import copy
import resource
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si
from tests import oracles

BOUND = 2e-5  # documented: one bin of 65536, never above the exact threshold; plus float32 of the softmax


def random_probabilities(batch: int, classes: int, height: int, width: int, scale: float = 2.0) -> Tensor:
    return (torch.randn(batch, classes, height, width) * scale).softmax(1)


def oracle_thresholds(probabilities: Tensor, quantile: float = 0.5, cap: float = 0.9) -> Tensor:
    images = list(probabilities.double().numpy())
    return torch.from_numpy(oracles.class_thresholds(images, quantile, cap))


def test_recorded_thresholds_and_labels(golden_baselines: dict[str, np.ndarray]) -> None:
    logits = torch.from_numpy(golden_baselines["pseudo_logits"])
    expected = torch.from_numpy(golden_baselines["pseudo_thresholds"])
    threshold = si.ClassBalancedThreshold(19)
    for image in logits:
        threshold.update(image[None].softmax(1))
    found = threshold.compute()
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max()) <= BOUND
    labels = threshold.pseudo_labels(logits.softmax(1))
    assert labels.dtype == torch.int64
    recorded = torch.from_numpy(golden_baselines["pseudo_labels"]).long()
    confidence, predicted = logits.double().softmax(1).max(1)
    on_the_edge = (confidence - expected[predicted]).abs() <= BOUND
    assert torch.equal(labels[~on_the_edge], recorded[~on_the_edge])
    assert float(on_the_edge.float().mean()) < 0.01


@pytest.mark.parametrize("quantile", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("cap", [0.3, 0.9, 1.0])
def test_thresholds_equal_the_oracles(quantile: float, cap: float) -> None:
    for seed, size in enumerate([(1, 1), (3, 4), (9, 17)]):
        torch.manual_seed(seed)
        probabilities = random_probabilities(2, 6, *size)
        threshold = si.ClassBalancedThreshold(6, quantile=quantile, cap=cap)
        threshold.update(probabilities)
        expected = oracle_thresholds(probabilities, quantile, cap)
        assert float((threshold.compute() - expected).abs().max()) <= BOUND
        assert bool((threshold.compute() <= expected + 1e-7).all())


@pytest.mark.parametrize("count", range(1, 9))
def test_the_median_is_the_upper_one_with_bankers_rounding(count: int) -> None:
    """Of n sorted values the one at index round(n / 2): 1→0, 2→1, 3→2, 4→2, 5→2, 6→3, 7→4, 8→4."""
    values = 0.5 + torch.arange(1, count + 1) / 16
    probabilities = torch.stack([values, 1 - values])[None, :, None]
    threshold = si.ClassBalancedThreshold(2, cap=1.0)
    threshold.update(probabilities)
    index = min(round(count / 2), count - 1)
    assert threshold.compute()[0].item() == pytest.approx(values[index].item(), abs=BOUND)
    assert threshold.compute()[1].item() == 0


def test_labels_are_kept_from_the_threshold_on() -> None:
    """The reference implementation keeps S >= y; a class that was never predicted has threshold 0 and keeps all."""
    probabilities = torch.tensor([[[[0.75, 0.625, 0.875]], [[0.25, 0.375, 0.125]]]])
    threshold = si.ClassBalancedThreshold(2)
    threshold.update(probabilities)
    assert threshold.pseudo_labels(probabilities).tolist() == [[[255, 255, 0]]]
    assert threshold.counts().tolist() == [3, 0]
    other = torch.tensor([[[[0.25]], [[0.75]]]])
    assert threshold.pseudo_labels(other).tolist() == [[[1]]]


def test_ignored_id_can_be_chosen() -> None:
    threshold = si.ClassBalancedThreshold(2, ignore_index=-1)
    probabilities = torch.tensor([[[[0.75, 0.625, 0.875]], [[0.25, 0.375, 0.125]]]])
    threshold.update(probabilities)
    assert threshold.pseudo_labels(probabilities).tolist() == [[[-1, -1, 0]]]


def test_nothing_seen_is_threshold_zero_and_a_warning() -> None:
    threshold = si.ClassBalancedThreshold(3)
    with pytest.warns(UserWarning, match="thresholds of no predictions"):
        assert threshold.compute().tolist() == [0, 0, 0]
    threshold.update(torch.zeros(0, 3, 4, 4))
    assert threshold.counts().tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    probabilities = random_probabilities(1, 4, 12, 12).to(dtype)
    threshold = si.ClassBalancedThreshold(4)
    threshold.update(probabilities)
    assert float((threshold.compute() - oracle_thresholds(probabilities)).abs().max()) <= BOUND


@pytest.mark.parametrize("rule", [si.ClassBalancedThreshold, si.CBSTThreshold, si.IASTThreshold])
def test_scores_and_classes_in_any_memory_layout(rule: type[si.PseudoLabelThreshold]) -> None:
    scores, predicted = torch.rand(2, 5, 7), torch.randint(3, (2, 5, 7))
    straight, turned = rule(num_classes=3), rule(num_classes=3)
    straight.update_scores(scores, predicted)
    turned.update_scores(scores.mT.contiguous().mT, predicted.mT.contiguous().mT)
    assert torch.equal(turned.compute(), straight.compute())


def test_a_stream_in_parts_equals_one_batch() -> None:
    probabilities = random_probabilities(6, 5, 10, 14)
    whole, first, second = (si.ClassBalancedThreshold(5) for _ in range(3))
    whole.update(probabilities)
    for image in probabilities[:2]:
        first.update(image[None])
    second.update(probabilities[2:].contiguous(memory_format=torch.channels_last))
    first.merge(second)
    assert torch.equal(first.compute(), whole.compute())
    assert torch.equal(first.counts(), whole.counts())
    assert int(whole.counts().sum()) == 6 * 10 * 14


def test_state_continues_identically() -> None:
    probabilities = random_probabilities(4, 5, 8, 8)
    threshold = si.ClassBalancedThreshold(5)
    threshold.update(probabilities[:2])
    copied, loaded = copy.deepcopy(threshold), si.ClassBalancedThreshold(5)
    loaded.load_state_dict(threshold.state_dict())
    for one in (threshold, copied, loaded):
        one.update(probabilities[2:])
    assert torch.equal(copied.compute(), threshold.compute())
    assert torch.equal(loaded.compute(), threshold.compute())
    threshold.reset()
    with pytest.warns(UserWarning, match="thresholds of no predictions"):
        assert threshold.compute().tolist() == [0] * 5
    assert int(copied.counts().sum()) == 4 * 64


def test_memory_is_flat_while_images_stream_through() -> None:
    """State of fixed size, and no growth of the process once the first images have gone through."""
    threshold = si.ClassBalancedThreshold(19)
    image = random_probabilities(1, 19, 128, 256)
    size = sum(t.nbytes for t in threshold.state_dict().values())
    for _ in range(10):
        threshold.update(image)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(50):
        threshold.update(image)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 8 * 2**20
    assert sum(t.nbytes for t in threshold.state_dict().values()) == size <= 16 * 2**20
    assert int(threshold.counts().sum()) == 60 * 128 * 256


PROBABILITIES = torch.full((1, 4, 6, 6), 0.25)
POISONED = PROBABILITIES.repeat(1, 1, 40, 40)
POISONED[0, 2, 101, 77] = float("nan")


@pytest.mark.parametrize(("probabilities", "message"), [
    (PROBABILITIES[0], r"probabilities must be .*\(4, 6, 6\)"),
    (PROBABILITIES[:, :3], r"probabilities must have K = 4 .*got 3"),
    (PROBABILITIES.long(), r"probabilities must be .*int64"),
    (torch.randn(1, 4, 6, 6), r"probabilities must be .*softmax"),
    (PROBABILITIES * 2, r"probabilities must be .*sum"),
    (PROBABILITIES * float("nan"), r"probabilities must be finite"),
    (POISONED, r"probabilities must be finite"),
    (PROBABILITIES.to("meta"), r"probabilities must be on .*device.*meta"),
], ids=["rank", "classes", "dtype", "logits", "sum", "nan", "one-nan", "device"])  # fmt: skip
@pytest.mark.parametrize("method", ["update", "pseudo_labels"])
def test_values_that_are_not_probabilities_raise(method: str, probabilities: Tensor, message: str) -> None:
    threshold = si.ClassBalancedThreshold(4)
    threshold.update(PROBABILITIES)
    before = copy.deepcopy(threshold.state_dict())
    with pytest.raises(ValueError, match=message):
        getattr(threshold, method)(probabilities)
    assert all(torch.equal(before[key], value) for key, value in threshold.state_dict().items())


@pytest.mark.parametrize(("options", "message"), [
    ({"num_classes": 0}, r"num_classes must be .*got 0"),
    ({"quantile": 1.5}, r"quantile must be .*1.5"),
    ({"cap": -0.1}, r"cap must be .*-0.1"),
    ({"ignore_index": 2}, r"ignore_index must not .*2"),
])  # fmt: skip
def test_settings_out_of_range_raise(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        si.ClassBalancedThreshold(**{"num_classes": 4, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("ignore_index", [255.0, None])
def test_an_ignored_id_that_would_make_labels_floats_raises(ignore_index: float | None) -> None:
    with pytest.raises(TypeError, match="ignore_index must be a whole number, got"):
        si.ClassBalancedThreshold(2, ignore_index=ignore_index)  # type: ignore[arg-type]


def test_counts_of_other_classes_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match=r"other .*"):
        si.ClassBalancedThreshold(4).merge(si.ClassBalancedThreshold(5))
