"""Label maps, regions, matches and banks: colors, outlines, numbers, lines, and where names stand."""

from __future__ import annotations

import itertools
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

import stuffinstance as si
from stuffinstance import plotting
from stuffinstance.plotting.regions import _Row, _uncrossed
from tests.plotting.drawn import LABELS, PLAIN, REGIONS, SPACE, bank, legend, marks, matched, render, rows, texts


def test_label_map_has_the_palette_and_black_where_nothing_is_known() -> None:
    ax = plotting.plot_label_map(LABELS, SPACE)
    (image,) = ax.images
    pixels = np.asarray(image.get_array())
    assert pixels.shape == (4, 5, 4)
    for (y, x), number in np.ndenumerate(LABELS[0].numpy()):
        assert tuple(pixels[y, x]) == ((0, 0, 0, 255) if number == 255 else (*SPACE.palette[number], 255))
    assert legend(ax) == {"road", "sky", "car", "not labeled"}
    assert image.get_extent() == [0, 5, 4, 0]
    colors = {patch.get_label(): patch.get_facecolor() for patch in ax.get_legend().get_patches()}
    assert colors["car"] == to_rgba("#00008e")


def test_labels_over_an_image_leave_it_visible() -> None:
    image = torch.rand(1, 3, 9, 11)
    ax = plotting.plot_label_map(LABELS, SPACE, image=image, opacity=0.4, legend=False)
    below, above = ax.images
    assert np.allclose(below.get_array(), image[0].permute(1, 2, 0).double())
    assert below.get_extent() == above.get_extent()  # whatever the image's own size
    alpha = np.asarray(above.get_array())[..., 3]
    assert (alpha[0, 4], alpha[0, 0]) == (0, 102)
    assert ax.get_legend() is None


def test_without_a_palette_colors_differ() -> None:
    space = si.LabelSpace(names=[str(k) for k in range(24)])
    ax = plotting.plot_label_map(torch.arange(24).view(1, 4, 6), space)
    assert len(np.unique(np.asarray(ax.images[0].get_array()).reshape(-1, 4), axis=0)) == 24
    for dtype in (torch.uint8, torch.int32, torch.int64):
        single = plotting.plot_label_map(torch.zeros(3, 1, 1, dtype=dtype), PLAIN, item=2)
        assert legend(single) == {"one class"}
        assert render(single)


# Regions


def outline(ax: Axes) -> set[tuple[tuple[int, int], tuple[int, int]]]:
    return {
        tuple(map(tuple, np.asarray(segment).astype(int).tolist())) for segment in ax.collections[-1].get_segments()
    }


def test_regions_are_outlined_between_pixels_and_numbered() -> None:
    ax = plotting.plot_regions(REGIONS)
    assert texts(ax) == ["1", "2"]
    tint = np.asarray(ax.images[0].get_array())
    assert np.array_equal(tint[..., 3] > 0, (LABELS[0] == 2).numpy())
    assert len(np.unique(tint[tint[..., 3] > 0][:, :3], axis=0)) == 2
    left = {((x, y), (x + 1, y)) for x in (0, 1) for y in (1, 3)} | {
        ((x, y), (x, y + 1)) for x in (0, 2) for y in (1, 2)
    }
    assert {side for side in outline(ax) if max(side)[0] <= 2} == left
    labels = torch.zeros(1, 200, 400, dtype=torch.long)
    labels[0, 5, 5] = 2  # too small for a number
    small = plotting.plot_regions(si.instance_regions(labels, (2,)), image=torch.rand(1, 3, 20, 40))
    assert (texts(small), len(outline(small))) == ([], 4)


def test_numbers_are_ids_or_ranks_or_none() -> None:
    labels = torch.zeros(1, 6, 12, dtype=torch.long)
    labels[0, :3, :3], labels[0, :, 5:] = 2, 2  # the second one is larger
    regions = si.instance_regions(labels, SPACE.things)
    by_place = {"ids": ["1", "2"], "rank": ["2", "1"], None: []}
    for number, expected in by_place.items():
        ax = plotting.plot_regions(regions, number=number)
        found = sorted(ax.texts, key=lambda text: text.get_position()[0])
        assert [text.get_text() for text in found] == expected


def test_a_number_stands_inside_its_region() -> None:
    labels = torch.zeros(1, 20, 20, dtype=torch.long)
    labels[0, 2:18, 2:18], labels[0, 2:14, 6:14] = 2, 0  # a U, whose mean lies between its arms
    (text,) = plotting.plot_regions(si.instance_regions(labels, (2,))).texts
    x, y = text.get_position()
    assert (x % 1, y % 1) == (0.5, 0.5)
    up, down, left, right = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
    assert all(labels[0, int(row), int(column)] == 2 for row, column in ((y, x), up, down, left, right))


@pytest.mark.parametrize("labels", [torch.full((1, 3, 4), 255), torch.zeros(2, 1, 1, dtype=torch.long)])
def test_no_region_is_an_image_too(labels: torch.Tensor) -> None:
    ax = plotting.plot_regions(si.instance_regions(labels, SPACE.things))
    assert (texts(ax), outline(ax)) == ([], set())
    assert render(ax)


# Matches


def test_every_matched_region_is_listed_with_its_slot_and_distance() -> None:
    matches, source = matched()
    ax = plotting.plot_matches(matches, source, SPACE, image=torch.rand(1, 3, 8, 10))
    words = texts(ax)
    assert words[:4] == ["region", "slots of its class", "nearest", "distance"]
    listed = {words[k]: (words[k + 1], words[k + 2]) for k in range(4, len(words), 3)}
    assert listed == {
        f"car {rank + 1}": (str(int(matches.slot[0, 0, rank])), f"{float(matches.distance[0, 0, rank]):.3g}")
        for rank in range(2)
    }
    assert render(ax)
    assert "car 2" not in texts(plotting.plot_matches(matches, source, SPACE, most=1))


@pytest.mark.parametrize("labels", [LABELS, torch.full((1, 1, 1), 255)])
def test_an_empty_bank_matches_nothing(labels: torch.Tensor) -> None:
    cold = si.InstanceBank(SPACE.things, feature_dim=3)
    matches = si.InstanceMatchingLoss(cold).matches(torch.randn(1, 3, *labels.shape[1:]), labels)
    ax = plotting.plot_matches(matches, cold, SPACE)
    assert texts(ax) == ["no region is matched"]
    assert outline(ax) == set()
    assert render(ax)


def test_lines_to_the_table_do_not_cross() -> None:
    draw = random.Random(0)
    for _ in range(20):
        places = [float(k) for k in range(12)]
        given = [_Row("", "", draw.uniform(0, 9), draw.uniform(0, 11), k, 1, 0.0) for k in range(12)]
        ordered = _uncrossed(given, places, 10.0)
        assert sorted(row.slot for row in ordered) == list(range(12))
        for (first, a), (second, b) in itertools.combinations(zip(ordered, places, strict=True), 2):
            later = max(first.x, second.x)
            at = [row.y + (place - row.y) * (later - row.x) / (10 - row.x) for row, place in ((first, a), (second, b))]
            assert at[0] <= at[1]


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
