"""Scores and thresholds: bars, marks, curves and the numbers beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

import stuffinstance as si
from stuffinstance import plotting
from tests.plotting.drawn import PLAIN, SCORE, SPACE, legend, marks, render, rows, seen_rule, texts


def test_iou_of_one_run_is_a_bar_per_class() -> None:
    ax = plotting.plot_iou(SCORE, SPACE)
    assert texts(ax) == ["90.0", "35.0", "25.0", "–"]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([90, 35, 25, 0])
    assert rows(ax) == list(SPACE.names)
    assert "mean 50.0" in ax.get_xlabel()
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first class at the top
    chosen = plotting.plot_iou(SCORE, SPACE, classes=(2, 0))
    assert (rows(chosen), texts(chosen)) == (["car", "road"], ["25.0", "90.0"])
    assert render(plotting.plot_iou(SCORE, SPACE, classes=()))
    assert render(plotting.plot_iou({"only": si.IoU(float("nan"), torch.full((1,), torch.nan))}, PLAIN))


def test_iou_of_several_runs_is_a_mark_each() -> None:
    other = si.IoU(0.6, torch.tensor([0.8, 0.6, torch.nan, torch.nan]))
    ax = plotting.plot_iou({"before": SCORE, "after": other}, SPACE, styles={"after": {"marker": "*", "color": "red"}})
    found = marks(ax)
    assert set(found) == legend(ax) == {"before, mean 50.0", "after, mean 60.0"}
    assert np.allclose(found["before, mean 50.0"].get_offsets(), [(90, 0), (35, 1), (25, 2)])
    assert np.allclose(found["after, mean 60.0"].get_offsets(), [(80, 0), (60, 1)])
    assert tuple(found["after, mean 60.0"].get_facecolor()[0]) == to_rgba("red")
    assert [tuple(line.get_xdata()) for line in ax.lines] == [pytest.approx(e) for e in ((80, 90), (35, 60), (25, 25))]


# Thresholds


@pytest.mark.parametrize("choices", [{}, {"quantile": 0.9, "cap": 0.6}, {"bins": 10}, {"quantile": 0.0}])
def test_confidences_say_the_share_that_the_rule_keeps(choices: dict[str, Any]) -> None:
    rule, probabilities = seen_rule(**choices)
    ax = plotting.plot_confidences(rule, SPACE)
    kept, counts = rule.pseudo_labels(probabilities), rule.counts()
    shares = [f"keeps {100 * float((kept == k).sum() / counts[k]):.0f} % of {int(counts[k])}" for k in range(3)]
    assert texts(ax) == [*shares, "never predicted"]
    at = [line.get_xdata()[0] for line in ax.lines if line.get_color() == "#d55e00"]
    assert at == pytest.approx(rule.compute()[:3].tolist())
    assert legend(ax) == {"pixels by confidence", "threshold", "share kept by a threshold there"}
    limits = rule.compute()
    limits[1] = float("nan")
    assert texts(plotting.plot_confidences(rule, SPACE, thresholds=limits))[1] == f"no threshold; {int(counts[1])}"


def test_the_curve_is_the_share_that_each_threshold_would_keep() -> None:
    rule, probabilities = seen_rule()
    ax = plotting.plot_confidences(rule, SPACE, thresholds=torch.full((4,), 0.5), classes=(1,))
    confidence, predicted = probabilities.max(1)
    own = confidence[predicted == 1]
    (curve,) = (line for line in ax.lines if len(line.get_xdata()) > 2)
    for x, y in zip(*curve.get_data(), strict=True):
        share = (0.4 - y) / 0.8  # the row's base is 0.4 below its middle, its height 0.8
        assert share == pytest.approx(float((own >= x).float().mean()), abs=1e-6)
    assert texts(ax)[0].startswith(f"keeps {100 * float((own >= 0.5).float().mean()):.0f} %")


def test_a_rule_that_saw_nothing_and_one_of_one_class_are_images() -> None:
    assert texts(plotting.plot_confidences(si.CBSTThreshold(4), SPACE)) == ["never predicted"] * 4
    certain = si.ClassBalancedThreshold(1)
    certain.update(torch.ones(1, 1, 2, 2))
    ax = plotting.plot_confidences(certain, PLAIN)
    assert texts(ax) == ["keeps 100 % of 4"]
    assert render(ax)


def test_kept_shares_are_bars_with_ticks_at_the_thresholds() -> None:
    kept = torch.tensor([0.5, 1.25, torch.nan, 0.0])
    ax = plotting.plot_kept_fractions(torch.tensor([0.9, 0.25, torch.nan, 0.0]), kept, SPACE, cap=0.9)
    assert [bar.get_width() for bar in ax.patches] == [50, 125, 0, 0]
    assert np.allclose(ax.lines[0].get_xdata(), [90, 25, np.nan, 0], equal_nan=True)
    assert ax.get_xlim()[1] > 125
    assert legend(ax) == {"share of pixels kept", "threshold on the confidence", "cap, 0.9"}
    assert legend(plotting.plot_kept_fractions(torch.rand(1), torch.rand(1), PLAIN)) == {
        "share of pixels kept",
        "threshold on the confidence",
    }
