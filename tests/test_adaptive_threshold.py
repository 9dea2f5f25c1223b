"""Thresholds that follow the batches: numpy's percentile class by class, and what must not move them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from stuffinstance.pseudo_labels import ClassBalancedThreshold, IASTThreshold
from stuffinstance.pseudo_labels import threshold as confidences
from stuffinstance.pseudo_labels import threshold as threshold_rule

CLOSE = 1e-6  # of float32 thresholds, and of percentiles whose place is a float32 share of the pixels


def random_probabilities(batch: int, classes: int, height: int, width: int, scale: float = 2.0) -> Tensor:
    return (torch.randn(batch, classes, height, width) * scale).softmax(1)


def oracle_step(
    theta: list[float], probabilities: Tensor, alpha: float = 0.2, beta: float = 0.9, gamma: float = 8.0
) -> list[float]:
    """One batch, class by class, with numpy's linear percentile."""
    confidence, predicted = (part.double().numpy() for part in probabilities.max(1))
    moved = []
    for c, old in enumerate(theta):
        values = np.append(confidence[predicted == c], old)
        new = beta * old + (1 - beta) * float(np.percentile(values, 100 * (1 - alpha * old**gamma)))
        moved.append(0.999 if new >= 1 else new)
    return moved


@pytest.mark.parametrize("options", [{}, {"alpha": 0.5, "beta": 0.5, "gamma": 1.0}, {"alpha": 1.0, "beta": 0.0}])
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (9, 17)])
def test_every_step_equals_the_oracles(options: dict[str, float], size: tuple[int, int]) -> None:
    threshold = IASTThreshold(7, **options)
    theta = [0.9] * 7
    for step in range(12):
        probabilities = random_probabilities(2, 7, *size, scale=1.0 + step / 3)
        threshold.update(probabilities)
        theta = oracle_step(theta, probabilities, **options)
        np.testing.assert_allclose(threshold.compute(), theta, rtol=0, atol=CLOSE)
        np.testing.assert_allclose(threshold.thresholds, theta, rtol=0, atol=CLOSE)
    assert max(abs(t - 0.9) for t in theta) > 1e-4
    assert int(threshold.counts().sum()) == 12 * 2 * size[0] * size[1]


def test_a_value_by_hand() -> None:
    """Of four confidences and the start 0.9 the percentile 100 (1 - 0.5 * 0.9^0) is the middle one."""
    p = torch.tensor([0.5625, 0.625, 0.75, 0.8125], dtype=torch.float64)
    probabilities = torch.stack([p, 1 - p])[None, :, None]
    threshold = IASTThreshold(2, alpha=0.5, gamma=0)
    threshold.update(probabilities)
    assert threshold.compute().tolist() == pytest.approx([0.9 * 0.9 + 0.1 * 0.75, 0.9], abs=CLOSE)


def test_present_thresholds_make_the_labels() -> None:
    threshold = IASTThreshold(3)
    probabilities = random_probabilities(2, 3, 16, 16, scale=4)
    confidence, predicted = probabilities.double().max(1)
    before = threshold.pseudo_labels(probabilities)
    assert torch.equal(before, torch.where(confidence >= 0.9, predicted, 255))
    for _ in range(30):
        threshold.update(probabilities)
    after = threshold.pseudo_labels(probabilities)
    assert torch.equal(after, torch.where(confidence >= threshold.compute()[predicted], predicted, 255))
    assert not torch.equal(before, after)


def test_a_class_that_is_not_in_the_batch_keeps_its_threshold_to_the_bit() -> None:
    threshold = IASTThreshold(3, start=0.7)
    threshold.update(random_probabilities(1, 3, 5, 5))
    before = threshold.compute()
    for _ in range(20):
        threshold.update(torch.tensor([0.25, 0.75, 0.0]).view(1, 3, 1, 1))
    after = threshold.compute()
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert before[1] != after[1]
    threshold.update(torch.zeros(0, 3, 4, 4))
    assert torch.equal(threshold.compute(), after)


def test_a_threshold_of_one_comes_down() -> None:
    threshold = IASTThreshold(2, start=1.0, alpha=0.0)
    certain = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    threshold.update(certain)
    assert threshold.thresholds.tolist() == [0.999, 1.0]
    assert threshold.pseudo_labels(certain).item() == 0


def test_what_was_read_does_not_move_later() -> None:
    threshold = IASTThreshold(2)
    read, seen = threshold.compute(), threshold.counts()
    threshold.update(random_probabilities(1, 2, 8, 8))
    assert torch.equal(read, torch.tensor([0.9, 0.9]))
    assert seen.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    probabilities = random_probabilities(1, 4, 12, 12).to(dtype)
    threshold = IASTThreshold(4)
    threshold.update(probabilities)
    np.testing.assert_allclose(threshold.compute(), oracle_step([0.9] * 4, probabilities), rtol=0, atol=CLOSE)


def test_state_continues_identically_and_can_be_forgotten() -> None:
    first, second = random_probabilities(2, 5, 8, 8), random_probabilities(2, 5, 8, 8)
    threshold, loaded = IASTThreshold(5), IASTThreshold(5)
    threshold.update(first)
    loaded.load_state_dict(threshold.state_dict())
    copied = copy.deepcopy(threshold)
    for one in (threshold, loaded, copied):
        one.update(second)
        assert torch.equal(one.compute(), threshold.compute())
        assert torch.equal(one.counts(), threshold.counts())
    threshold.reset()
    assert threshold.thresholds.tolist() == [0.9] * 5
    assert threshold.counts().tolist() == [0] * 5
    assert int(copied.counts().sum()) == 4 * 64


def test_streams_cannot_be_merged() -> None:
    with pytest.raises(NotImplementedError, match=r"cannot be merged.*sync='auto'"):
        IASTThreshold(2).merge(IASTThreshold(2))


def test_where_values_are_not_read_a_broken_pixel_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities = random_probabilities(1, 3, 6, 6)
    broken = torch.cat([probabilities, torch.full((1, 3, 6, 2), float("nan"))], 3)
    for module in (confidences, threshold_rule):
        monkeypatch.setattr(module, "may_read", lambda *_: False)
    clean, threshold = IASTThreshold(3), IASTThreshold(3)
    clean.update(probabilities)
    threshold.update(broken)
    assert torch.equal(clean.compute(), threshold.compute())
    assert torch.equal(clean.counts(), threshold.counts())


def test_compiled_in_one_graph() -> None:
    torch.use_deterministic_algorithms(False)
    torch.compiler.reset()
    probabilities = random_probabilities(2, 5, 6, 7)
    plain, compiled = IASTThreshold(5), IASTThreshold(5)
    plain.update(probabilities)
    torch.compile(compiled.update, fullgraph=True, backend="aot_eager")(probabilities)
    torch.testing.assert_close(compiled.compute(), plain.compute())
    label = torch.compile(compiled.pseudo_labels, fullgraph=True, backend="aot_eager")
    assert torch.equal(label(probabilities), plain.pseudo_labels(probabilities))


SCORES, CLASSES = torch.full((1, 2, 3), 0.5), torch.zeros(1, 2, 3, dtype=torch.int64)


@pytest.mark.parametrize("make", [IASTThreshold, ClassBalancedThreshold])
def test_scores_of_ones_own_move_thresholds_too(make: type[IASTThreshold]) -> None:
    probabilities = random_probabilities(2, 4, 8, 8)
    scores, predicted = probabilities.max(1)
    by_probabilities, by_scores = make(4), make(4)
    by_probabilities.update(probabilities)
    by_scores.update_scores(scores, predicted.to(torch.uint8))
    assert torch.equal(by_probabilities.compute(), by_scores.compute())
    assert torch.equal(by_probabilities.pseudo_labels(probabilities), by_scores.filter(scores, predicted))
    predicted[:, 0] = 255
    before = by_scores.counts()
    by_scores.update_scores(scores, predicted)
    assert int((by_scores.counts() - before).sum()) == 2 * 7 * 8
    assert bool((by_scores.filter(scores, predicted)[:, 0] == 255).all())


def test_scores_that_are_not_finite_are_ignored() -> None:
    rule = ClassBalancedThreshold(2)
    scores = torch.tensor([[[float("inf"), float("-inf"), float("nan"), 0.5]]])
    rule.update_scores(scores, torch.zeros(1, 1, 4, dtype=torch.int64))
    assert rule.counts().tolist() == [1, 0]


@pytest.mark.parametrize(("scores", "predicted", "error", "message"), [
    (0.5, CLASSES, TypeError, r"scores must be .*\(B, H, W\), got float"),
    (SCORES[0], CLASSES, ValueError, r"scores must be .*\(2, 3\)"),
    (SCORES.long(), CLASSES, ValueError, r"scores must be a floating"),
    (SCORES * 3, CLASSES, ValueError, r"scores must be within 0..1, got 6 that are not, such as 1.5"),
    (SCORES, CLASSES[..., :2], ValueError, r"predicted must have the scores' size"),
    (SCORES, CLASSES + 2, ValueError, r"predicted must hold class ids 0..1 .*\[2\]"),
    (SCORES, CLASSES.float(), ValueError, r"predicted must be an integer"),
    (SCORES.to("meta"), CLASSES.to("meta"), ValueError, r"scores must be on the device"),
])  # fmt: skip
@pytest.mark.parametrize("method", ["update_scores", "filter"])
def test_scores_out_of_range_raise(
    method: str, scores: Tensor, predicted: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        getattr(IASTThreshold(2), method)(scores, predicted)


@pytest.mark.parametrize(("options", "message"), [
    ({"start": 1.5}, r"start must be between 0 and 1, got 1.5"),
    ({"alpha": -0.1}, r"alpha must be .*-0.1"),
    ({"beta": float("nan")}, r"beta must be .*nan"),
    ({"gamma": -1}, r"gamma must be at least 0, got -1"),
    ({"num_classes": 0}, r"num_classes must be .*got 0"),
])  # fmt: skip
def test_settings_out_of_range_raise(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IASTThreshold(**{"num_classes": 4, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["update", "pseudo_labels"])
def test_values_that_are_not_probabilities_raise(method: str) -> None:
    threshold = IASTThreshold(4)
    with pytest.raises(ValueError, match=r"probabilities must be .*softmax"):
        getattr(threshold, method)(torch.randn(1, 4, 6, 6))
    assert threshold.thresholds.tolist() == [0.9] * 4
