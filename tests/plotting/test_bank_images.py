"""Banks: which rows are shown, where they lie, and where the names stand."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch

import stuffinstance as si
from stuffinstance import plotting
from tests.plotting.drawn import SPACE, bank, marks, render, rows, texts


def test_a_bank_shows_filled_rows_in_the_colors_of_their_classes() -> None:
    held = bank({0: torch.randn(3, 6), 1: torch.randn(9, 6), 2: torch.zeros(0, 6)})
    ax = plotting.plot_bank_rows(held, SPACE)
    assert {name: len(found.get_offsets()) for name, found in marks(ax).items()} == {"road": 3, "sky": 4}
    assert tuple(marks(ax)["sky"].get_facecolor()[0][:3]) == pytest.approx([c / 255 for c in (70, 130, 180)])
    assert sorted(texts(ax)) == ["road", "sky"]


def test_the_two_axes_are_those_of_largest_variance() -> None:
    flat = torch.randn(40, 2, dtype=torch.float64) * torch.tensor([5.0, 1.0])
    turned, _ = torch.linalg.qr(torch.randn(8, 2, dtype=torch.float64))
    ax = plotting.plot_bank_rows(bank({0: (flat @ turned.T).float()}, 40), SPACE)
    shown = torch.from_numpy(np.asarray(marks(ax)["road"].get_offsets()))
    assert torch.allclose(torch.pdist(shown), torch.pdist(flat), atol=1e-4)  # the plane they lie in
    first, second = (int(re.search(r"(\d+) %", text)[1]) for text in (ax.get_xlabel(), ax.get_ylabel()))
    assert first + second == pytest.approx(100, abs=1)
    assert first > 80


def test_classes_weigh_the_same_however_many_rows_they_have() -> None:
    many = torch.randn(60, 3) * torch.tensor([0.0, 0.0, 1.0])
    two = torch.tensor([[9.0, 0, 0], [9.0, 3, 0]])
    shown = marks(plotting.plot_bank_rows(bank({0: many, 1: two}, 60), SPACE))
    gap = np.asarray(shown["sky"].get_offsets()).mean(0) - np.asarray(shown["road"].get_offsets()).mean(0)
    assert abs(gap[0]) > 8.5  # the first axis is what separates the classes


def test_names_stand_by_their_own_rows_and_not_on_each_other() -> None:
    space = si.LabelSpace(names=[f"name of class {k}" for k in range(16)])
    centers = torch.randn(16, 5) * 3
    held = bank({k: centers[k] + 0.3 * torch.randn(12, 5) for k in range(16)}, 12)
    ax = plotting.plot_bank_rows(held, space)
    render(ax)
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    for text in ax.texts:
        own = np.asarray(marks(ax)[text.get_text()].get_offsets())
        assert np.isclose(own, text.xy).all(1).any()  # the line ends at a row of the class
        assert np.hypot(*text.get_position()) < 110  # points


@pytest.mark.parametrize("held", [si.StuffBank((0, 1), 4), [si.StuffBank((0,), 4), si.InstanceBank((2,), 4)], []])
def test_empty_banks_are_images(held: Any) -> None:
    ax = plotting.plot_bank_rows(held, SPACE)
    assert (texts(ax), marks(ax)) == ([], {})
    assert all(" / " in text for text in texts(plotting.plot_bank_fill(held, SPACE)))
    assert render(ax)
    for count in (1, 2):
        few = plotting.plot_bank_rows(bank({0: torch.ones(count, 1)}), SPACE)
        assert len(marks(few)["road"].get_offsets()) == count
        assert render(few)


def test_another_projection_gets_all_rows_and_at_most_so_many_of_a_class() -> None:
    seen = []

    def first_two(given: np.ndarray) -> np.ndarray:
        seen.append(given.shape)
        return given[:, :2]

    held = bank({0: torch.arange(60.0).view(10, 6), 1: torch.randn(2, 6)}, 10)
    ax = plotting.plot_bank_rows(held, SPACE, projection=first_two, rows_per_class=4)
    assert seen == [(6, 6)]
    assert np.asarray(marks(ax)["road"].get_offsets())[:, 0].tolist() == [0, 18, 36, 54]
    assert ax.get_xlabel() == ""


def test_bank_fill_counts_rows_held_and_written() -> None:
    stuff, things = bank({0: torch.randn(3, 2), 1: torch.randn(9, 2)}), si.InstanceBank((2,), 2, capacity=8)
    ax = plotting.plot_bank_fill([stuff, things], SPACE)
    assert texts(ax) == ["3 / 4   (3 written)", "4 / 4   (9 written)", "0 / 8   (0 written)"]
    assert rows(ax) == ["road  ●", "sky  ●", "car  ▲"]
    assert [bar.get_width() for bar in ax.patches[1::2]] == [75, 100, 0]
