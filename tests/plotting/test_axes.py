"""Where every function draws, what it needs, and what it leaves alone."""

from __future__ import annotations

import sys
from collections.abc import Callable

import matplotlib
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import stuffinstance as si
from stuffinstance import plotting
from tests.plotting.drawn import LABELS, REGIONS, SCORE, SPACE, bank, matched, render, seen_rule, settings

CALLS: dict[str, Callable[..., Axes]] = {
    "plot_label_map": lambda **kw: plotting.plot_label_map(LABELS, SPACE, **kw),
    "plot_regions": lambda **kw: plotting.plot_regions(REGIONS, **kw),
    "plot_matches": lambda **kw: plotting.plot_matches(*matched(), SPACE, **kw),
    "plot_bank_fill": lambda **kw: plotting.plot_bank_fill(bank({0: torch.randn(3, 2)}), SPACE, **kw),
    "plot_bank_rows": lambda **kw: plotting.plot_bank_rows(bank({0: torch.randn(3, 2)}), SPACE, **kw),
    "plot_iou": lambda **kw: plotting.plot_iou({"a": SCORE, "b": SCORE}, SPACE, **kw),
    "plot_confidences": lambda **kw: plotting.plot_confidences(seen_rule()[0], SPACE, **kw),
    "plot_kept_fractions": lambda **kw: plotting.plot_kept_fractions(
        torch.rand(4), torch.rand(4), SPACE, cap=0.9, **kw
    ),
}


@pytest.mark.parametrize("name", plotting.__all__)
def test_axes_are_the_callers_or_new_ones(name: str) -> None:
    before = settings()
    figure = Figure(layout="constrained")
    part = figure.subfigures(1, 2)[1]  # a figure of the paper is often made of parts
    ax = part.subplots()
    assert CALLS[name](ax=ax) is ax
    new = CALLS[name]()
    assert new.figure is not figure
    assert len(new.figure.axes) == 1
    assert all(map(render, (ax, new)))
    assert settings() == before


@pytest.mark.parametrize("name", plotting.__all__)
def test_axes_of_another_kind_raise(name: str) -> None:
    with pytest.raises(TypeError, match="ax must be matplotlib Axes or None, got Figure"):
        CALLS[name](ax=Figure())


@pytest.mark.parametrize("name", plotting.__all__)
def test_without_matplotlib_the_error_says_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what the import system calls "not there"
    with pytest.raises(si.BackendUnavailableError, match="pip install matplotlib"):
        CALLS[name]()


@pytest.mark.parametrize("name", plotting.__all__)
def test_pyplot_is_not_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it is now an error
    assert render(CALLS[name]())


@pytest.mark.parametrize("name", plotting.__all__)
def test_colors_of_text_follow_the_style(name: str) -> None:
    ink = {"text.color": "#102030", "axes.labelcolor": "#102030", "ytick.labelcolor": "#102030"}
    with matplotlib.rc_context(ink):
        ax = CALLS[name]()
    names = [text for text in (*ax.texts, *ax.get_yticklabels()) if not text.get_path_effects()]
    found = ax.get_legend()
    assert {text.get_color() for text in names if text.get_text()} <= {"#102030"}
    assert {text.get_color() for text in (found.get_texts() if found else ())} <= {"#102030"}
