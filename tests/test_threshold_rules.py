"""What every threshold rule does, by its oracle; and what single ones do beyond: rounding, schedules, coarse bins."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si
from tests import oracles

K = 6
# Documented: one bin of 65536, never above the exact threshold; and float32 of softmax and of percentiles.
BIN, SINGLE = 1 / 65536, 1e-6
Thresholds = list[float]


def pixels_by_class(probabilities: Tensor) -> list[list[float]]:
    """The sorted confidences of every class."""
    confidence, predicted = (part.double().flatten() for part in probabilities.max(1))
    return [sorted(confidence[predicted == k].tolist()) for k in range(probabilities.shape[1])]


def median(batches: list[Tensor], quantile: float = 0.5, cap: float = 0.9) -> Thresholds:
    images = [image for batch in batches for image in batch.double().numpy()]
    return oracles.class_thresholds(images, quantile, cap).tolist()


def portion(batches: list[Tensor], share: float = 0.2) -> Thresholds:
    """Per class the list, sorted descending, and the place floor(n p) - 1 of it."""
    of_class = [
        [value for found in lists for value in found] for lists in zip(*map(pixels_by_class, batches), strict=True)
    ]
    places = [math.floor(len(found) * share) for found in of_class]
    return [sorted(found)[-place] if place else 1.0 for found, place in zip(of_class, places, strict=True)]


def online(batches: list[Tensor], alpha: float = 0.2, beta: float = 0.9, gamma: float = 8.0) -> Thresholds:
    """Batch by batch and class by class, with numpy's linear percentile."""
    thresholds = [0.9] * batches[0].shape[1]
    for batch in batches:
        for c, (old, values) in enumerate(zip(thresholds, pixels_by_class(batch), strict=True)):
            moved = np.percentile([*values, old], 100 * (1 - alpha * old**gamma))
            new = beta * old + (1 - beta) * float(moved)
            thresholds[c] = 0.999 if new >= 1 else new
    return thresholds


def confident(probabilities: Tensor, thresholds: Thresholds, ignore: int = 255) -> Tensor:
    """The most probable class where it reaches its threshold."""
    confidence, predicted = probabilities.double().max(1)
    return torch.where(confidence >= torch.tensor(thresholds, dtype=torch.float64)[predicted], predicted, ignore)


def largest_ratio(probabilities: Tensor, thresholds: Thresholds, ignore: int = 255) -> Tensor:
    """Pixel by pixel the class of the largest ratio, where that is 1 or more."""
    labels = torch.full(probabilities[:, 0].shape, ignore)
    for b, i, j in np.ndindex(labels.shape):
        ratios = [p / k for p, k in zip(probabilities[b, :, i, j].double().tolist(), thresholds, strict=True)]
        if max(ratios) >= 1:
            labels[b, i, j] = ratios.index(max(ratios))
    return labels


class Rule(NamedTuple):
    """A rule, its thresholds of a stream of batches, its labels, and where a class without pixels stands."""

    make: Callable[..., Any]
    oracle: Callable[[list[Tensor]], Thresholds]
    labels: Callable[..., Tensor]
    unseen: float


FAST, FORGETFUL = {"alpha": 0.5, "beta": 0.5, "gamma": 1.0}, {"alpha": 1.0, "beta": 0.0}
RULES = {
    **{
        f"ClassBalancedThreshold, {q}, {cap}": Rule(
            partial(si.ClassBalancedThreshold, quantile=q, cap=cap),
            partial(median, quantile=q, cap=cap),
            confident,
            0.0,
        )
        for q, cap in ((0.5, 0.9), (0.0, 0.3), (0.2, 1.0), (0.8, 1.0), (1.0, 0.9))
    },
    **{
        f"CBSTThreshold, {share}": Rule(
            partial(si.CBSTThreshold, portion=share, max_portion=1.0), partial(portion, share=share), largest_ratio, 1.0
        )
        for share in (0.2, 0.0, 0.05, 1.0)
    },
    **{
        f"IASTThreshold{name}": Rule(partial(si.IASTThreshold, **options), partial(online, **options), confident, 0.9)
        for name, options in (("", {}), (", fast", FAST), (", forgetful", FORGETFUL))
    },
}
ONE_OF_EACH = ("ClassBalancedThreshold, 0.5, 0.9", "CBSTThreshold, 0.2", "IASTThreshold")
every = pytest.mark.parametrize("name", RULES)
each = pytest.mark.parametrize("name", ONE_OF_EACH)
pytestmark = pytest.mark.filterwarnings("ignore:thresholds of no predictions:UserWarning")


def predictions(batch: int = 2, height: int = 9, width: int = 17, scale: float = 2.0) -> Tensor:
    return (torch.randn(batch, K, height, width) * scale).softmax(1)


def fed(name: str, *batches: Tensor) -> Any:
    made = RULES[name].make(K)
    for batch in batches:
        made.update(batch)
    return made


def state_size(made: Any) -> int:
    return sum(value.nbytes for value in made.state_dict().values())


@every
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (9, 17)])
def test_thresholds_and_labels_equal_the_oracles(name: str, size: tuple[int, int]) -> None:
    rule, batches = RULES[name], [predictions(2, *size, scale=1 + step / 3) for step in range(8)]
    made = fed(name, *batches)
    exact, found = rule.oracle(batches), made.compute()
    below = torch.tensor(exact, dtype=torch.float64) - found
    assert float(below.max()) <= BIN + SINGLE
    assert float(below.min()) >= -SINGLE
    assert found.dtype == torch.float32
    assert int(made.counts().sum()) == 8 * 2 * size[0] * size[1]
    for thresholds in (torch.tensor(exact, dtype=torch.float64), found):
        given = made.pseudo_labels(batches[-1], thresholds)
        assert given.dtype == torch.int64
        assert torch.equal(given, rule.labels(batches[-1], thresholds.tolist()))
    assert torch.equal(made.pseudo_labels(batches[-1]), given)


@pytest.mark.parametrize(("name", "golden"), [
    ("ClassBalancedThreshold, 0.5, 0.9", "pseudo"), ("CBSTThreshold, 0.2", "cbst")
])  # fmt: skip
def test_recorded_thresholds_and_labels(name: str, golden: str, golden_baselines: dict[str, np.ndarray]) -> None:
    probabilities = torch.from_numpy(golden_baselines[f"{golden}_logits"]).softmax(1)
    expected = torch.from_numpy(golden_baselines[f"{golden}_thresholds"]).double()
    recorded = torch.from_numpy(golden_baselines[f"{golden}_labels"]).long()
    made = RULES[name].make(19)
    for image in probabilities:
        made.update(image[None])
    below = expected - made.compute()
    assert float(below.max()) <= BIN + SINGLE
    assert float(below.min()) >= -SINGLE
    confidence, predicted = probabilities.double().max(1)
    on_the_edge = (confidence - expected[predicted]).abs() <= 2e-5 if golden == "pseudo" else torch.zeros(1).bool()
    for labels in (made.pseudo_labels(probabilities), made.pseudo_labels(probabilities, expected)):
        assert torch.equal(labels.masked_fill(on_the_edge, 255), recorded.masked_fill(on_the_edge, 255))
    assert float(on_the_edge.float().mean()) < 0.01
    assert 0.1 < float((recorded != 255).float().mean()) < 0.7


@each
def test_confidences_on_the_threshold_are_kept_and_those_below_are_not(name: str) -> None:
    for edge in torch.linspace(0.5, 0.99, 50).tolist():
        value = torch.tensor(edge)
        for p, label in ((value, 0), (torch.nextafter(value, torch.tensor(0.0)), 255)):
            probabilities = torch.stack([p, 1 - p])[None, :, None, None]
            thresholds = torch.tensor([float(value), 1.0], dtype=torch.float64)
            assert RULES[name].make(2).pseudo_labels(probabilities, thresholds).item() == label


@pytest.mark.parametrize("bins", [1000, 65536, 7])
@pytest.mark.parametrize("kind", [si.ClassBalancedThreshold, si.CBSTThreshold])
def test_thresholds_are_never_above_the_exact_ones(kind: Any, bins: int) -> None:
    """A pixel that is all of its class keeps itself, just below every edge between bins."""
    options = {"cap": 1.0} if kind is si.ClassBalancedThreshold else {"portion": 1.0, "max_portion": 1.0}
    below_edges = torch.nextafter(torch.arange(bins // 2 + 1, bins) / bins, torch.tensor(0.0))[:: max(1, bins // 500)]
    for confidence in below_edges.tolist():
        probabilities = torch.tensor([confidence, 1 - confidence]).view(1, 2, 1, 1)
        threshold = kind(2, bins=bins, **options)
        threshold.update(probabilities)
        assert threshold.pseudo_labels(probabilities).item() == 0


@pytest.mark.parametrize("name", [name for name in RULES if "IAST" not in name])
def test_a_stream_in_parts_equals_one_batch(name: str) -> None:
    whole = predictions(6, 10, 14)
    first, second = fed(name, *whole[:2, None]), fed(name, whole[2:].contiguous(memory_format=torch.channels_last))
    first.merge(second)
    assert torch.equal(first.compute(), fed(name, whole).compute())
    assert torch.equal(first.counts(), fed(name, whole).counts())


@each
def test_memory_is_flat_while_images_stream_through(name: str) -> None:
    """State of fixed size, and no growth of the process once the first images have gone through."""
    made, image = RULES[name].make(K), predictions(1, 128, 256)
    size = state_size(made)
    for _ in range(10):
        made.update(image)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(50):
        made.update(image)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 8 * 2**20
    assert state_size(made) == size <= 16 * 2**20
    assert int(made.counts().sum()) == 60 * 128 * 256


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(name: str, dtype: torch.dtype) -> None:
    probabilities = predictions().to(dtype)
    made = fed(name, probabilities)
    np.testing.assert_allclose(made.compute(), RULES[name].oracle([probabilities]), rtol=0, atol=BIN + SINGLE)
    assert torch.equal(made.pseudo_labels(probabilities), RULES[name].labels(probabilities, made.compute().tolist()))


@each
def test_a_class_without_pixels_and_no_image(name: str) -> None:
    made, nothing = RULES[name].make(2), torch.zeros(0, 2, 3, 4)
    made.update(nothing)
    assert made.compute().tolist() == pytest.approx([RULES[name].unseen] * 2)
    assert made.counts().tolist() == [0, 0]
    assert made.pseudo_labels(nothing).shape == (0, 3, 4)
    for _ in range(3):
        made.update(torch.tensor([0.75, 0.25]).view(1, 2, 1, 1).repeat(1, 1, 1, 4))
    assert made.compute()[1].item() == pytest.approx(RULES[name].unseen)
    assert made.counts().tolist() == [12, 0]
    certain = torch.tensor([[0.0, 1.0]]).view(1, 2, 1, 1)
    assert made.pseudo_labels(certain).item() == 1


@each
def test_scores_of_ones_own_are_thresholded_too(name: str) -> None:
    probabilities = predictions(2, 8, 8)
    scores, predicted = probabilities.max(1)
    made, by_scores = fed(name, probabilities), RULES[name].make(K)
    by_scores.update_scores(scores.mT.contiguous().mT, predicted.mT.contiguous().mT.to(torch.uint8))
    assert torch.equal(made.compute(), by_scores.compute())
    assert torch.equal(by_scores.filter(scores, predicted), confident(probabilities, made.compute().tolist()))
    predicted[:, 0] = 255
    before = by_scores.counts()
    by_scores.update_scores(scores, predicted)
    assert int((by_scores.counts() - before).sum()) == 2 * 7 * 8
    assert bool((by_scores.filter(scores, predicted)[:, 0] == 255).all())


@each
def test_a_map_of_ignored_classes_counts_nothing_and_stays_ignored(name: str) -> None:
    made = RULES[name].make(K, ignore_index=-1)
    scores, predicted = torch.rand(1, 4, 5), torch.full((1, 4, 5), -1)
    before = made.compute()
    made.update_scores(scores, predicted)
    assert torch.equal(made.compute(), before)
    assert not made.counts().any()
    assert torch.equal(made.filter(scores, predicted), predicted)
    unsure = torch.full((1, K, 1, 1), 1 / K)
    assert made.pseudo_labels(unsure, torch.full((K,), 0.9)).item() == -1


@each
@pytest.mark.usefixtures("unread")
def test_where_values_are_not_read_a_broken_pixel_counts_nothing(name: str) -> None:
    probabilities = predictions(1, 6, 6)
    broken = torch.cat([probabilities, torch.full((1, K, 6, 2), float("nan"))], 3)
    made, clean = fed(name, broken), fed(name, probabilities)
    assert torch.equal(made.compute(), clean.compute())
    assert torch.equal(made.counts(), clean.counts())
    assert bool((made.pseudo_labels(broken)[..., 6:] == 255).all())


@each
def test_scores_that_are_not_finite_are_ignored(name: str) -> None:
    made = RULES[name].make(2)
    scores = torch.tensor([[[float("inf"), float("-inf"), float("nan"), 0.5]]])
    made.update_scores(scores, torch.zeros(1, 1, 4, dtype=torch.int64))
    assert made.counts().tolist() == [1, 0]


@each
@pytest.mark.parametrize("method", ["update", "pseudo_labels"])
def test_one_nan_among_many_pixels_raises(name: str, method: str) -> None:
    probabilities = torch.full((1, K, 240, 240), 1 / K)
    probabilities[0, 2, 101, 77] = float("nan")
    with pytest.raises(ValueError, match="probabilities must be finite"):
        getattr(RULES[name].make(K), method)(probabilities)


@each
def test_what_was_read_does_not_move_later(name: str) -> None:
    made = RULES[name].make(K)
    read, seen = made.compute(), made.counts()
    kept = read.clone()
    made.update(predictions(scale=4.0))
    assert torch.equal(read, kept)
    assert not seen.any()


def two_classes(confidences: Tensor) -> Tensor:
    return torch.stack([confidences, 1 - confidences])[None, :, None]


@pytest.mark.parametrize("count", range(1, 9))
def test_the_median_is_the_upper_one_with_bankers_rounding(count: int) -> None:
    """Of n sorted values the one at index round(n / 2): 1→0, 2→1, 3→2, 4→2, 5→2, 6→3, 7→4, 8→4."""
    values = 0.5 + torch.arange(1, count + 1) / 16
    threshold = si.ClassBalancedThreshold(2, cap=1.0)
    threshold.update(two_classes(values))
    index = min(round(count / 2), count - 1)
    assert threshold.compute()[0].item() == pytest.approx(values[index].item(), abs=BIN + SINGLE)


def test_thresholds_of_nothing_warn() -> None:
    with pytest.warns(UserWarning, match="thresholds of no predictions"):
        si.ClassBalancedThreshold(3).compute()


@pytest.mark.parametrize("bins", [50, 1000])
def test_coarse_bins_lose_no_pixel_and_change_only_what_the_bound_says(bins: int) -> None:
    probabilities = (2 * torch.randn(2, 4, 12, 12)).softmax(1)
    threshold = si.CBSTThreshold(4, 0.3, bins=bins)
    threshold.update(probabilities)
    exact = portion([probabilities], 0.3)
    smallest = float(threshold.compute().min())
    labels, expected = threshold.pseudo_labels(probabilities), largest_ratio(probabilities, exact)
    assert not bool(((labels == 255) & (expected != 255)).any())
    ratios = (probabilities.double() / torch.tensor(exact, dtype=torch.float64)[:, None, None]).topk(2, 1).values
    factor = 1 + 1 / (bins * smallest)
    doubtful = (ratios[:, 0] * factor >= 1) & ((ratios[:, 0] < 1) | (ratios[:, 1] * factor >= ratios[:, 0]))
    assert torch.equal(labels[~doubtful], expected[~doubtful])
    assert bool((labels != expected).any()) or bins > 50  # 50 bins are coarse enough to see it


def test_a_label_of_the_portion_may_be_another_class_than_the_most_probable() -> None:
    probabilities = torch.tensor([[[[0.625]], [[0.375]]]])
    assert si.CBSTThreshold(2).pseudo_labels(probabilities, torch.tensor([0.9, 0.3])).item() == 1
    assert si.ClassBalancedThreshold(2).pseudo_labels(probabilities, torch.tensor([0.5, 0.3])).item() == 0


def test_the_portion_grows_round_by_round_and_stops() -> None:
    threshold = si.CBSTThreshold(4)
    for number in range(20):
        assert threshold.portion_at(number) == pytest.approx(min(0.2 + 0.05 * number, 0.5))
    probabilities = (2 * torch.randn(2, 4, 20, 20)).softmax(1)
    threshold.update(probabilities)
    for number in (0, 2, 9):
        exact = portion([probabilities], threshold.portion_at(number))
        np.testing.assert_allclose(threshold.compute(number), exact, atol=BIN + SINGLE)


def test_an_online_threshold_by_hand() -> None:
    """Of four confidences and the start 0.9 the percentile 100 (1 - 0.5 * 0.9^0) is the middle one."""
    threshold = si.IASTThreshold(2, alpha=0.5, gamma=0)
    threshold.update(two_classes(torch.tensor([0.5625, 0.625, 0.75, 0.8125])))
    assert threshold.compute().tolist() == pytest.approx([0.9 * 0.9 + 0.1 * 0.75, 0.9], abs=SINGLE)


def test_an_online_threshold_stays_to_the_bit_without_pixels_and_comes_down_from_one() -> None:
    threshold = si.IASTThreshold(3, start=0.7)
    threshold.update((2 * torch.randn(1, 3, 5, 5)).softmax(1))
    before = threshold.compute()
    for _ in range(20):
        threshold.update(torch.tensor([0.25, 0.75, 0.0]).view(1, 3, 1, 1))
    after = threshold.compute()
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert before[1] != after[1]
    certain, threshold = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), si.IASTThreshold(2, start=1.0, alpha=0.0)
    threshold.update(certain)
    assert threshold.thresholds.tolist() == [0.999, 1.0]
    assert threshold.pseudo_labels(certain).item() == 0
