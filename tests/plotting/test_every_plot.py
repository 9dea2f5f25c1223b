"""Where every function draws, and charts of scores and thresholds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

import stuffinstance as si
from stuffinstance import plotting
from tests.plotting.drawn import (
    LABELS,
    PLAIN,
    REGIONS,
    SCORE,
    SPACE,
    bank,
    legend,
    marks,
    matched,
    render,
    rows,
    seen_rule,
    settings,
    texts,
)
from tests.wrong_arguments import fault_of

IMAGE = torch.rand(1, 3, 4, 5)
# Right arguments, all of them.
PLOTS: dict[str, Callable[[], dict[str, Any]]] = {
    "plot_label_map": lambda: {
        "labels": LABELS,
        "space": SPACE,
        "image": IMAGE,
        "item": 0,
        "opacity": 0.5,
        "legend": True,
    },
    "plot_regions": lambda: {"regions": REGIONS, "image": IMAGE, "item": 0, "number": "ids", "opacity": 0.5},
    "plot_matches": lambda: dict(
        zip(("matches", "bank", "space", "image", "item", "most"), (*matched(), SPACE, IMAGE, 0, 3), strict=True)
    ),
    "plot_bank_fill": lambda: {"banks": bank({0: torch.randn(3, 2)}), "space": SPACE},
    "plot_bank_rows": lambda: {
        "banks": bank({0: torch.randn(3, 2)}),
        "space": SPACE,
        "projection": "pca",
        "rows_per_class": 3,
    },
    "plot_iou": lambda: {"scores": SCORE, "space": SPACE, "classes": (0, "car"), "styles": None},
    "plot_confidences": lambda: {
        "rule": seen_rule()[0],
        "space": SPACE,
        "thresholds": torch.full((4,), 0.5),
        "classes": (0, "car"),
    },
    "plot_kept_fractions": lambda: {
        "thresholds": torch.rand(4),
        "fractions": torch.rand(4),
        "space": SPACE,
        "cap": 0.9,
    },
}
WRONG_KINDS = (255.5, "car", [3], {"a": 1}, object(), np.ones((2, 2)), torch.ones(2, dtype=torch.complex64), Figure())
every = pytest.mark.parametrize("name", plotting.__all__)


def plot(name: str, **more: Any) -> Axes:
    return getattr(plotting, name)(**PLOTS[name](), **more)


@every
def test_axes_are_the_callers_or_new_ones(name: str) -> None:
    before = settings()
    figure = Figure(layout="constrained")
    part = figure.subfigures(1, 2)[1]  # a figure of the paper is often made of parts
    ax = part.subplots()
    assert plot(name, ax=ax) is ax
    new = plot(name)
    assert new.figure is not figure
    assert len(new.figure.axes) == 1
    assert all(map(render, (ax, new)))
    assert settings() == before


@every
def test_a_wrong_argument_is_an_error_that_names_it(name: str) -> None:
    right = {**PLOTS[name](), "ax": None}
    for argument in right:
        for wrong in WRONG_KINDS:
            fault = fault_of(getattr(plotting, name), None, {**right, argument: wrong})
            assert fault is None, (argument, wrong)


@every
def test_without_matplotlib_the_error_says_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what the import system calls "not there"
    with pytest.raises(si.BackendUnavailableError, match="pip install matplotlib"):
        plot(name)


@every
def test_pyplot_is_not_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it is now an error
    assert render(plot(name))


@every
def test_colors_of_text_follow_the_style(name: str) -> None:
    ink = {"text.color": "#102030", "axes.labelcolor": "#102030", "ytick.labelcolor": "#102030"}
    with matplotlib.rc_context(ink):
        ax = plot(name)
    names = [text for text in (*ax.texts, *ax.get_yticklabels()) if not text.get_path_effects()]
    found = ax.get_legend()
    assert {text.get_color() for text in names if text.get_text()} <= {"#102030"}
    assert {text.get_color() for text in (found.get_texts() if found else ())} <= {"#102030"}


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
