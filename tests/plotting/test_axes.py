"""Where every function draws, what it needs, and what it leaves alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import stuffinstance as si
from stuffinstance import plotting
from tests.plotting.drawn import LABELS, REGIONS, SCORE, SPACE, bank, matched, render, seen_rule, settings
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
        **{"banks": bank({0: torch.randn(3, 2)}), "space": SPACE, "projection": "pca", "rows_per_class": 3}
    },
    "plot_iou": lambda: {"scores": SCORE, "space": SPACE, "classes": (0, "car"), "styles": None},
    "plot_confidences": lambda: {
        **{"rule": seen_rule()[0], "space": SPACE, "thresholds": torch.full((4,), 0.5), "classes": (0, "car")}
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
