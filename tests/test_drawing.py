"""Pictures hold what they are drawn from: colours, names, numbers and places, not pixels on a screen."""

from __future__ import annotations

import io
import itertools
import random
import re
import sys
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

import stuffinstance as si
from stuffinstance import drawing
from stuffinstance.drawing.matches import _Row, _uncrossed

SPACE = si.LabelSpace(
    names=("road", "sky", "car", "person"),
    stuff=(0, 1),
    things=(2, 3),
    palette=[(128, 64, 128), (70, 130, 180), (0, 0, 142), (220, 20, 60)],
)
PLAIN = si.LabelSpace(names=("one class",), stuff=(0,))
LABELS = torch.tensor([[[1, 1, 1, 1, 255], [2, 2, 0, 2, 2], [2, 2, 0, 2, 0], [0, 0, 0, 0, 0]]])
REGIONS = si.instance_regions(LABELS, SPACE.things, 3)
SCORE = si.IoU(0.5, torch.tensor([0.9, 0.35, 0.25, torch.nan], dtype=torch.float64))


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def legend(ax: Axes) -> set[str]:
    found = ax.get_legend()
    return {text.get_text() for text in found.get_texts()} if found else set()


def rows(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]


def render(ax: Axes) -> bytes:
    """What a warning in drawing would come from."""
    buffer = io.BytesIO()
    ax.figure.figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


def settings() -> dict[str, Any]:
    """All but the backend: to read that one is to choose one."""
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


def bank(rows_of_class: dict[int, torch.Tensor], capacity: int = 4) -> si.StuffBank:
    """A bank that was given these rows, (n, D), one after another."""
    filled = si.StuffBank(tuple(rows_of_class), next(iter(rows_of_class.values())).shape[1], capacity)
    for class_id, features in rows_of_class.items():
        for row in features:
            filled.update(row[None, :, None, None], torch.full((1, 1, 1), class_id))
    return filled


def seen_rule(labels: torch.Tensor | None = None, **choices: Any) -> tuple[si.ClassBalancedThreshold, torch.Tensor]:
    probabilities = torch.randn(2, 4, 16, 16).mul(2).softmax(1)
    probabilities[:, 3] = 0
    rule = si.ClassBalancedThreshold(4, **choices)
    rule.update(probabilities / probabilities.sum(1, keepdim=True))
    return rule, probabilities / probabilities.sum(1, keepdim=True)


def matched() -> tuple[Any, si.InstanceBank]:
    source = si.InstanceBank(SPACE.things, feature_dim=3, capacity=5, max_instances=3)
    source.update(torch.randn(1, 3, 4, 5), LABELS)
    return si.InstanceMatchingLoss(source).matches(torch.randn(1, 3, 4, 5), LABELS), source


CALLS: dict[str, Callable[..., Axes]] = {
    "draw_label_map": lambda **kw: drawing.draw_label_map(LABELS, SPACE, **kw),
    "draw_regions": lambda **kw: drawing.draw_regions(REGIONS, **kw),
    "draw_matches": lambda **kw: drawing.draw_matches(*matched(), SPACE, **kw),
    "draw_bank_fill": lambda **kw: drawing.draw_bank_fill(bank({0: torch.randn(3, 2)}), SPACE, **kw),
    "draw_bank_rows": lambda **kw: drawing.draw_bank_rows(bank({0: torch.randn(3, 2)}), SPACE, **kw),
    "draw_iou": lambda **kw: drawing.draw_iou({"a": SCORE, "b": SCORE}, SPACE, **kw),
    "draw_confidences": lambda **kw: drawing.draw_confidences(seen_rule()[0], SPACE, **kw),
    "draw_kept_shares": lambda **kw: drawing.draw_kept_shares(torch.rand(4), torch.rand(4), SPACE, cap=0.9, **kw),
}


@pytest.mark.parametrize("name", drawing.__all__)
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


@pytest.mark.parametrize("name", drawing.__all__)
def test_axes_of_another_kind_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match="ax must be matplotlib Axes or None, got Figure"):
        CALLS[name](ax=Figure())


@pytest.mark.parametrize("name", drawing.__all__)
def test_without_matplotlib_the_error_says_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what the import system calls "not there"
    with pytest.raises(si.BackendUnavailableError, match=re.escape("pip install 'stuffinstance[draw]'")):
        CALLS[name]()


@pytest.mark.parametrize("name", drawing.__all__)
def test_pyplot_is_not_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it is now an error
    assert render(CALLS[name]())


@pytest.mark.parametrize("name", drawing.__all__)
def test_colours_of_text_follow_the_style(name: str) -> None:
    ink = {"text.color": "#102030", "axes.labelcolor": "#102030", "ytick.labelcolor": "#102030"}
    with matplotlib.rc_context(ink):
        ax = CALLS[name]()
    names = [text for text in (*ax.texts, *ax.get_yticklabels()) if not text.get_path_effects()]
    found = ax.get_legend()
    assert {text.get_color() for text in names if text.get_text()} <= {"#102030"}
    assert {text.get_color() for text in (found.get_texts() if found else ())} <= {"#102030"}


# Label maps


def test_label_map_has_the_palette_and_black_where_nothing_is_known() -> None:
    ax = drawing.draw_label_map(LABELS, SPACE)
    (picture,) = ax.images
    pixels = np.asarray(picture.get_array())
    assert pixels.shape == (4, 5, 4)
    for (y, x), number in np.ndenumerate(LABELS[0].numpy()):
        assert tuple(pixels[y, x]) == ((0, 0, 0, 255) if number == 255 else (*SPACE.palette[number], 255))  # type: ignore[index]
    assert legend(ax) == {"road", "sky", "car", "not labelled"}
    assert picture.get_extent() == [0, 5, 4, 0]
    colours = {patch.get_label(): patch.get_facecolor() for patch in ax.get_legend().get_patches()}
    assert colours["car"] == to_rgba("#00008e")


def test_labels_over_an_image_leave_it_visible() -> None:
    image = torch.rand(1, 3, 9, 11)
    ax = drawing.draw_label_map(LABELS, SPACE, image=image, opacity=0.4, legend=False)
    below, above = ax.images
    assert np.allclose(below.get_array(), image[0].permute(1, 2, 0).double())
    assert below.get_extent() == above.get_extent()  # whatever the image's own size
    alpha = np.asarray(above.get_array())[..., 3]
    assert (alpha[0, 4], alpha[0, 0]) == (0, 102)
    assert ax.get_legend() is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_one_pixel_of_one_class_is_a_picture(dtype: torch.dtype) -> None:
    ax = drawing.draw_label_map(torch.zeros(3, 1, 1, dtype=dtype), PLAIN, item=2)
    assert legend(ax) == {"one class"}
    assert render(ax)


def test_without_a_palette_colours_differ() -> None:
    space = si.LabelSpace(names=[str(k) for k in range(24)])
    ax = drawing.draw_label_map(torch.arange(24).view(1, 4, 6), space)
    assert len(np.unique(np.asarray(ax.images[0].get_array()).reshape(-1, 4), axis=0)) == 24


@pytest.mark.parametrize(("change", "message"), [
    ({"labels": LABELS[0]}, r"labels must be an integer tensor \(B, H, W\)"),
    ({"labels": LABELS + 4}, r"labels must hold class ids 0\.\.3"),
    ({"item": 1}, r"item must be the place of an image in the batch, 0\.\.0, got 1"),
    ({"opacity": 1.5}, "opacity must be between 0 and 1"),
    ({"image": torch.rand(2, 3, 4, 5)}, "image must be a tensor .* with the labels' B = 1"),
    ({"image": torch.randn(1, 3, 4, 5) * 9}, "image must be uint8, or floating within 0..1"),
])  # fmt: skip
def test_what_cannot_be_a_label_map_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawing.draw_label_map(**{"labels": LABELS, "space": SPACE, **change})


# Regions


def outline(ax: Axes) -> set[tuple[tuple[int, int], tuple[int, int]]]:
    return {
        tuple(map(tuple, np.asarray(segment).astype(int).tolist())) for segment in ax.collections[-1].get_segments()
    }


def test_regions_are_outlined_between_pixels_and_numbered() -> None:
    ax = drawing.draw_regions(REGIONS)
    assert texts(ax) == ["1", "2"]
    tint = np.asarray(ax.images[0].get_array())
    assert np.array_equal(tint[..., 3] > 0, (LABELS[0] == 2).numpy())
    assert len(np.unique(tint[tint[..., 3] > 0][:, :3], axis=0)) == 2
    left = {((x, y), (x + 1, y)) for x in (0, 1) for y in (1, 3)} | {
        ((x, y), (x, y + 1)) for x in (0, 2) for y in (1, 2)
    }
    assert {side for side in outline(ax) if max(side)[0] <= 2} == left


def test_numbers_are_ids_or_ranks_or_none() -> None:
    labels = torch.zeros(1, 6, 12, dtype=torch.long)
    labels[0, :3, :3], labels[0, :, 5:] = 2, 2  # the second one is larger
    regions = si.instance_regions(labels, SPACE.things)
    by_place = {"ids": ["1", "2"], "rank": ["2", "1"], None: []}
    for number, expected in by_place.items():
        ax = drawing.draw_regions(regions, number=number)  # type: ignore[arg-type]
        found = sorted(ax.texts, key=lambda text: text.get_position()[0])
        assert [text.get_text() for text in found] == expected


def test_a_number_stands_inside_its_region() -> None:
    labels = torch.zeros(1, 20, 20, dtype=torch.long)
    labels[0, 2:18, 2:18], labels[0, 2:14, 6:14] = 2, 0  # a U, whose mean lies between its arms
    (text,) = drawing.draw_regions(si.instance_regions(labels, (2,))).texts
    x, y = text.get_position()
    assert (x % 1, y % 1) == (0.5, 0.5)
    up, down, left, right = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
    assert all(labels[0, int(row), int(column)] == 2 for row, column in ((y, x), up, down, left, right))


def test_small_regions_are_outlined_without_a_number() -> None:
    labels = torch.zeros(1, 200, 400, dtype=torch.long)
    labels[0, 5, 5] = 2
    ax = drawing.draw_regions(si.instance_regions(labels, (2,)), image=torch.rand(1, 3, 20, 40))
    assert texts(ax) == []
    assert len(outline(ax)) == 4


@pytest.mark.parametrize("labels", [torch.full((1, 3, 4), 255), torch.zeros(2, 1, 1, dtype=torch.long)])
def test_no_region_is_a_picture_too(labels: torch.Tensor) -> None:
    ax = drawing.draw_regions(si.instance_regions(labels, SPACE.things))
    assert (texts(ax), outline(ax)) == ([], set())
    assert render(ax)


def test_what_cannot_be_regions_is_refused() -> None:
    with pytest.raises(TypeError, match="regions must be Regions"):
        drawing.draw_regions(REGIONS.map)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="number must be 'ids', 'rank' or None"):
        drawing.draw_regions(REGIONS, number="area")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="opacity must be"):
        drawing.draw_regions(REGIONS, opacity=2)


# Matches


def test_every_matched_region_is_listed_with_its_slot_and_distance() -> None:
    matches, source = matched()
    ax = drawing.draw_matches(matches, source, SPACE, image=torch.rand(1, 3, 8, 10))
    words = texts(ax)
    assert words[:4] == ["region", "slots of its class", "nearest", "distance"]
    listed = {words[k]: (words[k + 1], words[k + 2]) for k in range(4, len(words), 3)}
    assert listed == {
        f"car {rank + 1}": (str(int(matches.slot[0, 0, rank])), f"{float(matches.distance[0, 0, rank]):.3g}")
        for rank in range(2)
    }
    assert render(ax)


def test_only_the_largest_are_listed() -> None:
    matches, source = matched()
    assert texts(drawing.draw_matches(matches, source, SPACE, most=1))[4] == "car 1"
    assert "car 2" not in texts(drawing.draw_matches(matches, source, SPACE, most=1))


@pytest.mark.parametrize("labels", [LABELS, torch.full((1, 1, 1), 255)])
def test_a_cold_bank_matches_nothing(labels: torch.Tensor) -> None:
    cold = si.InstanceBank(SPACE.things, feature_dim=3)
    matches = si.InstanceMatchingLoss(cold).matches(torch.randn(1, 3, *labels.shape[1:]), labels)
    ax = drawing.draw_matches(matches, cold, SPACE)
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


def test_matches_of_another_bank_are_refused() -> None:
    matches, source = matched()
    with pytest.raises(ValueError, match="bank must hold the C = 2 classes that were matched"):
        drawing.draw_matches(matches, si.InstanceBank((2,), feature_dim=3), SPACE)
    with pytest.raises(TypeError, match="matches must be"):
        drawing.draw_matches(matches.slot, source, SPACE)


# Banks


def marks(ax: Axes) -> dict[str, PathCollection]:
    return {str(found.get_label()): found for found in ax.collections if isinstance(found, PathCollection)}


def test_a_bank_shows_filled_rows_in_the_colours_of_their_classes() -> None:
    held = bank({0: torch.randn(3, 6), 1: torch.randn(9, 6), 2: torch.zeros(0, 6)})
    ax = drawing.draw_bank_rows(held, SPACE)
    assert {name: len(found.get_offsets()) for name, found in marks(ax).items()} == {"road": 3, "sky": 4}
    assert tuple(marks(ax)["sky"].get_facecolor()[0][:3]) == pytest.approx([c / 255 for c in (70, 130, 180)])
    assert sorted(texts(ax)) == ["road", "sky"]


def test_the_two_axes_are_those_of_largest_variance() -> None:
    flat = torch.randn(40, 2, dtype=torch.float64) * torch.tensor([5.0, 1.0])
    turned, _ = torch.linalg.qr(torch.randn(8, 2, dtype=torch.float64))
    ax = drawing.draw_bank_rows(bank({0: (flat @ turned.T).float()}, 40), SPACE)
    shown = torch.from_numpy(np.asarray(marks(ax)["road"].get_offsets()))
    assert torch.allclose(torch.pdist(shown), torch.pdist(flat), atol=1e-4)  # the plane they lie in
    first, second = (int(re.search(r"(\d+) %", text)[1]) for text in (ax.get_xlabel(), ax.get_ylabel()))  # type: ignore[index]
    assert first + second == pytest.approx(100, abs=1)
    assert first > 80


def test_classes_weigh_the_same_however_many_rows_they_have() -> None:
    many = torch.randn(60, 3) * torch.tensor([0.0, 0.0, 1.0])
    two = torch.tensor([[9.0, 0, 0], [9.0, 3, 0]])
    shown = marks(drawing.draw_bank_rows(bank({0: many, 1: two}, 60), SPACE))
    gap = np.asarray(shown["sky"].get_offsets()).mean(0) - np.asarray(shown["road"].get_offsets()).mean(0)
    assert abs(gap[0]) > 8.5  # the first axis is what tells the classes apart


def test_names_stand_by_their_own_rows_and_not_on_each_other() -> None:
    space = si.LabelSpace(names=[f"name of class {k}" for k in range(16)])
    centres = torch.randn(16, 5) * 3
    held = bank({k: centres[k] + 0.3 * torch.randn(12, 5) for k in range(16)}, 12)
    ax = drawing.draw_bank_rows(held, space)
    render(ax)
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    for text in ax.texts:
        own = np.asarray(marks(ax)[text.get_text()].get_offsets())
        assert np.isclose(own, text.xy).all(1).any()  # type: ignore[attr-defined]  # the line ends at a row of the class
        assert np.hypot(*text.get_position()) < 110  # points


@pytest.mark.parametrize("held", [si.StuffBank((0, 1), 4), [si.StuffBank((0,), 4), si.InstanceBank((2,), 4)], []])
def test_cold_banks_are_pictures(held: Any) -> None:
    ax = drawing.draw_bank_rows(held, SPACE)
    assert (texts(ax), marks(ax)) == ([], {})
    assert all(" / " in text for text in texts(drawing.draw_bank_fill(held, SPACE)))
    assert render(ax)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_rows_are_enough(count: int) -> None:
    ax = drawing.draw_bank_rows(bank({0: torch.ones(count, 1)}), SPACE)
    assert len(marks(ax)["road"].get_offsets()) == count
    assert render(ax)


def test_another_projection_gets_all_rows_and_at_most_so_many_of_a_class() -> None:
    seen = []

    def first_two(given: np.ndarray) -> np.ndarray:
        seen.append(given.shape)
        return given[:, :2]

    held = bank({0: torch.arange(60.0).view(10, 6), 1: torch.randn(2, 6)}, 10)
    ax = drawing.draw_bank_rows(held, SPACE, projection=first_two, rows_per_class=4)
    assert seen == [(6, 6)]
    assert np.asarray(marks(ax)["road"].get_offsets())[:, 0].tolist() == [0, 18, 36, 54]
    assert ax.get_xlabel() == ""
    with pytest.raises(ValueError, match=r"projection must give \(N, 2\) = \(6, 2\), got \(6, 6\)"):
        drawing.draw_bank_rows(held, SPACE, projection=lambda given: given, rows_per_class=4)
    with pytest.raises(TypeError, match="projection must be 'pca' or a callable"):
        drawing.draw_bank_rows(held, SPACE, projection="tsne")  # type: ignore[arg-type]


def test_bank_fill_counts_rows_held_and_written() -> None:
    stuff, things = bank({0: torch.randn(3, 2), 1: torch.randn(9, 2)}), si.InstanceBank((2,), 2, capacity=8)
    ax = drawing.draw_bank_fill([stuff, things], SPACE)
    assert texts(ax) == ["3 / 4   (3 written)", "4 / 4   (9 written)", "0 / 8   (0 written)"]
    assert rows(ax) == ["road  ●", "sky  ●", "car  ▲"]
    assert [bar.get_width() for bar in ax.patches[1::2]] == [75, 100, 0]


def test_what_cannot_be_banks_is_refused() -> None:
    with pytest.raises(TypeError, match="banks must be a StuffBank, an InstanceBank or several, got str"):
        drawing.draw_bank_fill(["bank"], SPACE)  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"banks must hold classes of the space, 0\.\.3, got \(7,\)"):
        drawing.draw_bank_rows(si.StuffBank((7,), 2), SPACE)
    with pytest.raises(ValueError, match="banks must share one feature_dim"):
        drawing.draw_bank_rows([si.StuffBank((0,), 2), si.StuffBank((1,), 3)], SPACE)


# Scores


def test_iou_of_one_run_is_a_bar_per_class() -> None:
    ax = drawing.draw_iou(SCORE, SPACE)
    assert texts(ax) == ["90.0", "35.0", "25.0", "–"]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([90, 35, 25, 0])
    assert rows(ax) == list(SPACE.names)
    assert "mean 50.0" in ax.get_xlabel()
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first class at the top


def test_iou_of_several_runs_is_a_mark_each() -> None:
    other = si.IoU(0.6, torch.tensor([0.8, 0.6, torch.nan, torch.nan]))
    ax = drawing.draw_iou({"before": SCORE, "after": other}, SPACE, styles={"after": {"marker": "*", "color": "red"}})
    found = marks(ax)
    assert set(found) == legend(ax) == {"before, mean 50.0", "after, mean 60.0"}
    assert np.allclose(found["before, mean 50.0"].get_offsets(), [(90, 0), (35, 1), (25, 2)])
    assert np.allclose(found["after, mean 60.0"].get_offsets(), [(80, 0), (60, 1)])
    assert tuple(found["after, mean 60.0"].get_facecolor()[0]) == to_rgba("red")
    assert [tuple(line.get_xdata()) for line in ax.lines] == [pytest.approx(e) for e in ((80, 90), (35, 60), (25, 25))]


def test_iou_of_chosen_classes() -> None:
    ax = drawing.draw_iou(SCORE, SPACE, classes=(2, 0))
    assert (rows(ax), texts(ax)) == (["car", "road"], ["25.0", "90.0"])
    assert render(drawing.draw_iou(SCORE, SPACE, classes=()))
    assert render(drawing.draw_iou({"only": si.IoU(float("nan"), torch.full((1,), torch.nan))}, PLAIN))


def test_what_cannot_be_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="scores must hold at least one IoU"):
        drawing.draw_iou({}, SPACE)
    with pytest.raises(TypeError, match=r"scores\['a'\] must be an IoU"):
        drawing.draw_iou({"a": torch.zeros(4)}, SPACE)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="scores must be of the space's K = 1 classes"):
        drawing.draw_iou(SCORE, PLAIN)
    with pytest.raises(ValueError, match=r"classes must be ids 0\.\.3"):
        drawing.draw_iou(SCORE, SPACE, classes=(4,))


# Thresholds


@pytest.mark.parametrize("choices", [{}, {"quantile": 0.9, "cap": 0.6}, {"bins": 10}, {"quantile": 0.0}])
def test_confidences_say_the_share_that_the_rule_keeps(choices: dict[str, Any]) -> None:
    rule, probabilities = seen_rule(**choices)
    ax = drawing.draw_confidences(rule, SPACE)
    kept, counts = rule.pseudo_labels(probabilities), rule.counts()
    shares = [f"keeps {100 * float((kept == k).sum() / counts[k]):.0f} % of {int(counts[k])}" for k in range(3)]
    assert texts(ax) == [*shares, "never predicted"]
    at = [line.get_xdata()[0] for line in ax.lines if line.get_color() == "#d55e00"]
    assert at == pytest.approx(rule.compute()[:3].tolist())
    assert legend(ax) == {"pixels by confidence", "threshold", "share kept by a threshold there"}


def test_the_curve_is_the_share_that_each_threshold_would_keep() -> None:
    rule, probabilities = seen_rule()
    ax = drawing.draw_confidences(rule, SPACE, thresholds=torch.full((4,), 0.5), classes=(1,))
    confidence, predicted = probabilities.max(1)
    own = confidence[predicted == 1]
    (curve,) = (line for line in ax.lines if len(line.get_xdata()) > 2)
    for x, y in zip(*curve.get_data(), strict=True):
        share = (0.4 - y) / 0.8  # the row's base is 0.4 below its middle, its height 0.8
        assert share == pytest.approx(float((own >= x).float().mean()), abs=1e-6)
    assert texts(ax)[0].startswith(f"keeps {100 * float((own >= 0.5).float().mean()):.0f} %")


def test_a_rule_that_saw_nothing_and_one_of_one_class_are_pictures() -> None:
    assert texts(drawing.draw_confidences(si.PortionThreshold(4), SPACE)) == ["never predicted"] * 4
    certain = si.ClassBalancedThreshold(1)
    certain.update(torch.ones(1, 1, 2, 2))
    ax = drawing.draw_confidences(certain, PLAIN)
    assert texts(ax) == ["keeps 100 % of 4"]
    assert render(ax)


def test_rules_without_counts_or_of_other_classes_are_refused() -> None:
    with pytest.raises(TypeError, match=r"rule must keep counts of confidences.*got AdaptiveThreshold"):
        drawing.draw_confidences(si.AdaptiveThreshold(4), SPACE)
    with pytest.raises(ValueError, match="rule must be of the space's K = 4 classes, got K = 2"):
        drawing.draw_confidences(si.ClassBalancedThreshold(2), SPACE)


def test_kept_shares_are_bars_with_ticks_at_the_thresholds() -> None:
    kept = torch.tensor([0.5, 1.25, torch.nan, 0.0])
    ax = drawing.draw_kept_shares(torch.tensor([0.9, 0.25, torch.nan, 0.0]), kept, SPACE, cap=0.9)
    assert [bar.get_width() for bar in ax.patches] == [50, 125, 0, 0]
    assert np.allclose(ax.lines[0].get_xdata(), [90, 25, np.nan, 0], equal_nan=True)
    assert ax.get_xlim()[1] > 125
    assert legend(ax) == {"share of pixels kept", "threshold on the confidence", "cap, 0.9"}
    assert legend(drawing.draw_kept_shares(torch.rand(1), torch.rand(1), PLAIN)) == {
        "share of pixels kept",
        "threshold on the confidence",
    }
    with pytest.raises(ValueError, match=r"kept must be a floating-point tensor \(K,\)"):
        drawing.draw_kept_shares(torch.rand(4), torch.rand(3), SPACE)
