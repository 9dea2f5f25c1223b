"""The most confident portion of each class: the recorded numbers, the oracle's, the bound, the schedule."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from stuffinstance.pseudo_labels import CBSTThreshold, ClassBalancedThreshold
from stuffinstance.pseudo_labels import threshold as confidences
from stuffinstance.pseudo_labels import threshold as threshold_rule

BOUND = 1 / 65536 + 1e-7  # documented: one bin, never above; and float32 of the softmax


def random_probabilities(batch: int, classes: int, height: int, width: int, scale: float = 2.0) -> Tensor:
    return (torch.randn(batch, classes, height, width) * scale).softmax(1)


def oracle_thresholds(probabilities: Tensor, portion: float) -> list[float]:
    """Per class the list, sorted descending, and the place floor(n p) - 1 of it."""
    pixels = probabilities.double().movedim(1, 3).flatten(0, 2).tolist()
    thresholds = []
    for k in range(probabilities.shape[1]):
        found = sorted((max(pixel) for pixel in pixels if pixel.index(max(pixel)) == k), reverse=True)
        count = math.floor(len(found) * portion)
        thresholds.append(found[count - 1] if count else 1.0)
    return thresholds


def oracle_labels(probabilities: Tensor, thresholds: list[float], ignore: int = 255) -> Tensor:
    """Pixel by pixel the class of the largest ratio, where that is 1 or more."""
    batch, _, height, width = probabilities.shape
    labels = torch.full((batch, height, width), ignore)
    for b, i, j in np.ndindex(batch, height, width):
        ratios = [p / k for p, k in zip(probabilities[b, :, i, j].double().tolist(), thresholds, strict=True)]
        if max(ratios) >= 1:
            labels[b, i, j] = ratios.index(max(ratios))
    return labels


def test_recorded_thresholds_and_labels(golden_baselines: dict[str, np.ndarray]) -> None:
    probabilities = torch.from_numpy(golden_baselines["cbst_logits"]).softmax(1)
    expected = torch.from_numpy(golden_baselines["cbst_thresholds"]).double()
    recorded = torch.from_numpy(golden_baselines["cbst_labels"]).long()
    threshold = CBSTThreshold(19, float(golden_baselines["cbst_portion"]))
    for image in probabilities:
        threshold.update(image[None])
    below = expected - threshold.compute()
    assert float(below.max()) <= BOUND
    assert float(below.min()) >= -1e-7
    assert torch.equal(threshold.pseudo_labels(probabilities), recorded)
    assert torch.equal(threshold.pseudo_labels(probabilities, expected), recorded)
    assert 0.1 < float((recorded != 255).float().mean()) < 0.3


@pytest.mark.parametrize("portion", [0.0, 0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (9, 17)])
def test_thresholds_and_labels_equal_the_oracles(portion: float, size: tuple[int, int]) -> None:
    probabilities = random_probabilities(2, 6, *size)
    threshold = CBSTThreshold(6, portion, max_portion=1.0)
    threshold.update(probabilities)
    exact = oracle_thresholds(probabilities, portion)
    below = torch.tensor(exact, dtype=torch.float64) - threshold.compute()
    assert float(below.min()) >= 0
    assert float(below.max()) <= BOUND
    given = threshold.pseudo_labels(probabilities, torch.tensor(exact, dtype=torch.float64))
    assert torch.equal(given, oracle_labels(probabilities, exact))
    found = threshold.compute().tolist()
    assert torch.equal(threshold.pseudo_labels(probabilities), oracle_labels(probabilities, found))


@pytest.mark.parametrize("bins", [50, 1000])
def test_coarse_bins_lose_no_pixel_and_change_only_what_the_bound_says(bins: int) -> None:
    probabilities = random_probabilities(2, 4, 12, 12)
    threshold = CBSTThreshold(4, 0.3, bins=bins)
    threshold.update(probabilities)
    exact = oracle_thresholds(probabilities, 0.3)
    smallest = float(threshold.compute().min())
    labels, expected = threshold.pseudo_labels(probabilities), oracle_labels(probabilities, exact)
    assert not bool(((labels == 255) & (expected != 255)).any())
    ratios = (probabilities.double() / torch.tensor(exact, dtype=torch.float64)[:, None, None]).topk(2, 1).values
    factor = 1 + 1 / (bins * smallest)
    doubtful = (ratios[:, 0] * factor >= 1) & ((ratios[:, 0] < 1) | (ratios[:, 1] * factor >= ratios[:, 0]))
    assert torch.equal(labels[~doubtful], expected[~doubtful])
    assert bool((labels != expected).any()) or bins > 50  # 50 bins are coarse enough to see it


def test_a_label_may_be_another_class_than_the_most_probable() -> None:
    threshold = CBSTThreshold(2)
    probabilities = torch.tensor([[[[0.625]], [[0.375]]]])
    assert threshold.pseudo_labels(probabilities, torch.tensor([0.9, 0.3])).item() == 1
    assert ClassBalancedThreshold(2).pseudo_labels(probabilities, torch.tensor([0.5, 0.3])).item() == 0


def test_a_probability_on_the_threshold_is_kept_and_one_below_is_not() -> None:
    for edge in torch.linspace(0.5, 0.99, 50).tolist():
        value = torch.tensor(edge)
        for p, label in ((value, 0), (torch.nextafter(value, torch.tensor(0.0)), 255)):
            probabilities = torch.stack([p, 1 - p])[None, :, None, None]
            thresholds = torch.tensor([float(value), 1.0], dtype=torch.float64)
            assert CBSTThreshold(2).pseudo_labels(probabilities, thresholds).item() == label


def test_the_portion_grows_round_by_round_and_stops() -> None:
    threshold = CBSTThreshold(4)
    for number in range(20):
        assert threshold.portion_at(number) == pytest.approx(min(0.2 + 0.05 * number, 0.5))
    probabilities = random_probabilities(2, 4, 20, 20)
    threshold.update(probabilities)
    for number in (0, 2, 9):
        exact = oracle_thresholds(probabilities, threshold.portion_at(number))
        np.testing.assert_allclose(threshold.compute(number), exact, atol=BOUND)
    assert bool((threshold.compute(9) < threshold.compute()).all())


def test_a_class_never_predicted_gets_one() -> None:
    threshold = CBSTThreshold(3)
    assert threshold.compute().tolist() == [1, 1, 1]
    threshold.update(torch.zeros(0, 3, 4, 4))
    assert threshold.counts().tolist() == [0, 0, 0]
    assert threshold.pseudo_labels(torch.zeros(0, 3, 4, 4)).shape == (0, 4, 4)
    certain = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    assert threshold.pseudo_labels(certain).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    probabilities = random_probabilities(1, 4, 12, 12).to(dtype)
    threshold = CBSTThreshold(4)
    threshold.update(probabilities)
    exact = oracle_thresholds(probabilities, 0.2)
    np.testing.assert_allclose(threshold.compute(), exact, atol=BOUND)
    assert torch.equal(
        threshold.pseudo_labels(probabilities), oracle_labels(probabilities, threshold.compute().tolist())
    )


def test_a_stream_in_parts_equals_one_batch_and_state_continues() -> None:
    probabilities = random_probabilities(6, 5, 10, 14)
    whole, first, second = (CBSTThreshold(5) for _ in range(3))
    whole.update(probabilities)
    first.update(probabilities[:2])
    loaded, copied = CBSTThreshold(5), copy.deepcopy(first)
    loaded.load_state_dict(first.state_dict())
    second.update(probabilities[2:])
    for one in (first, loaded, copied):
        one.merge(second)
        assert torch.equal(one.compute(), whole.compute())
        assert torch.equal(one.counts(), whole.counts())
    first.reset()
    assert first.compute().tolist() == [1] * 5
    assert int(copied.counts().sum()) == 6 * 10 * 14


def test_compiled_in_one_graph() -> None:
    torch.use_deterministic_algorithms(False)
    torch.compiler.reset()
    probabilities = random_probabilities(2, 5, 6, 7)
    plain, compiled = CBSTThreshold(5), CBSTThreshold(5)
    plain.update(probabilities)
    torch.compile(compiled.update, fullgraph=True, backend="aot_eager")(probabilities)
    assert torch.equal(plain.histogram, compiled.histogram)
    label = torch.compile(compiled.pseudo_labels, fullgraph=True, backend="aot_eager")
    assert torch.equal(label(probabilities), plain.pseudo_labels(probabilities))


def test_where_values_are_not_read_a_broken_pixel_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities = torch.tensor([0.875, 0.125]).view(1, 2, 1, 1).repeat(1, 1, 1, 3)
    probabilities[0, 0, 0, 1] = float("nan")
    for module in (confidences, threshold_rule):
        monkeypatch.setattr(module, "may_read", lambda *_: False)
    threshold = CBSTThreshold(2)
    threshold.update(probabilities)
    assert threshold.counts().tolist() == [2, 0]
    assert threshold.pseudo_labels(probabilities, torch.tensor([0.5, 0.5])).tolist() == [[[0, 255, 0]]]


@pytest.mark.parametrize(("options", "message"), [
    ({"portion": 1.5}, r"portion must be between 0 and 1, got 1.5"),
    ({"step": -0.1}, r"step must be .*-0.1"),
    ({"max_portion": 0.1}, r"max_portion must not be below portion = 0.2, got 0.1"),
    ({"bins": 0}, r"bins must be .*got 0"),
    ({"num_classes": 0}, r"num_classes must be .*got 0"),
    ({"ignore_index": 3}, r"ignore_index must not .*3"),
    ({"sync": "on"}, r"sync must be .*'on'"),
])  # fmt: skip
def test_settings_out_of_range_raise(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CBSTThreshold(**{"num_classes": 4, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [-1, 1.5, True, None])
def test_rounds_are_whole_numbers_from_0(number: object) -> None:
    with pytest.raises((TypeError, ValueError), match="round_number must be a whole number"):
        CBSTThreshold(2).portion_at(number)  # type: ignore[arg-type]


PROBABILITIES = torch.full((1, 4, 6, 6), 0.25)
POISONED = PROBABILITIES.repeat(1, 1, 40, 40)
POISONED[0, 2, 101, 77] = float("nan")


@pytest.mark.parametrize(("probabilities", "message"), [
    (PROBABILITIES[:, :3], r"probabilities must have K = 4 .*got 3"),
    (torch.randn(1, 4, 6, 6), r"probabilities must be .*softmax"),
    (POISONED, r"probabilities must be finite"),
    (PROBABILITIES.to("meta"), r"probabilities must be on .*device.*meta"),
], ids=["classes", "logits", "one-nan", "device"])  # fmt: skip
@pytest.mark.parametrize("method", ["update", "pseudo_labels"])
def test_values_that_are_not_probabilities_raise(method: str, probabilities: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(CBSTThreshold(4), method)(probabilities)


@pytest.mark.parametrize(("thresholds", "error", "message"), [
    (torch.ones(3), ValueError, r"thresholds must be .*\(4,\).*got torch.float32 \(3,\)"),
    (torch.ones(4).long(), ValueError, r"thresholds must be a floating"),
    ([1.0] * 4, TypeError, r"thresholds must be .*list"),
    (torch.tensor([0.5, 0, 1, 1]), ValueError, r"thresholds must all be above 0"),
])  # fmt: skip
def test_thresholds_out_of_range_raise(thresholds: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CBSTThreshold(4).pseudo_labels(PROBABILITIES, thresholds)


def test_rules_of_another_kind_cannot_be_merged() -> None:
    with pytest.raises(TypeError, match="other must be a CBSTThreshold, as this one is, got ClassBalanced"):
        CBSTThreshold(4).merge(ClassBalancedThreshold(4))
    with pytest.raises(ValueError, match=r"other must count \(K, bins\)"):
        CBSTThreshold(4).merge(CBSTThreshold(4, bins=7))
