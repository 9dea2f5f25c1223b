"""What single threshold rules do beyond the contract: ties, rounding, schedules, values by hand, coarse bins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si
from tests.test_threshold_contract import BIN, SINGLE, largest_ratio, portion


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
