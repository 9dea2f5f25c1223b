"""The report of hand-made experiments: numbers, gaps, figures, and a page without external resources."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import stuffinstance as si
from examples.gta5_to_cityscapes.data import read_classes
from examples.gta5_to_cityscapes.methods import loss_titles
from examples.gta5_to_cityscapes.recipes import ABLATION, depends_on, parts
from examples.gta5_to_cityscapes.report import write_report
from examples.gta5_to_cityscapes.report.charts import draw_banks, legend_shape, recipe_lines
from examples.gta5_to_cityscapes.report.images import plot_regions, preview_runs
from examples.gta5_to_cityscapes.report.pages import headline_numbers
from examples.gta5_to_cityscapes.report.results import in_order, read_banks, read_experiment, read_run, title
from examples.gta5_to_cityscapes.report.tables import (
    ablation,
    adapted_recipes,
    class_scores,
    cost_text,
    loss_curve,
    score_curve,
    spread,
    thresholds,
)

from .test_systems import LOSSES as LOSSES_OF_PARTS

SCORES = {  # by recipe, one mIoU per seed, in percent
    "source": (20.0, 22.0, 24.0),
    "aa": (25.0, 26.0, 30.0),
    "aa+it": (30.0, 31.0, 32.0),
    "aa+it+sim": (33.0, 33.0, 36.0),
    "aa+it+sim+ssl": (35.0, 36.0, 40.0),
    "target-only": (60.0, 61.0, 62.0),
}
CLASSES = ("road", "building", "car")
SYSTEMS = (
    *("source", "aa+it", "aa+tt", "aa+it+sym", "aa+tt+sym", "aa+it+sym+fused", "asn", "advent", "minent", "maxsq"),
    *("fada", "fada+distill", "cag", "cag2", "cag3", "sim+mix+mask", "cbst", "cbst2", "crst", "iast"),
)


def make_run(root: Path, recipe: str, seed: int, miou: float | None, *, steps: int = 100, **settings: Any) -> Path:
    """A run folder as training leaves it; without ``miou`` it stopped before its end."""
    folder = root / recipe / f"seed{seed}"
    folder.mkdir(parents=True)
    known = {"name": recipe, "seed": seed, "layouts": {"source": "gta5"}, "space": "cityscapes", "classes": CLASSES}
    write_json(folder / "recipe.json", {**known, "schedule": {"max_steps": steps}, **settings})
    write_json(folder / "environment.json", {"python": "3.11", "torch": "2.5", "libraries": {"numpy": "2.0"}})
    lines: list[dict[str, Any]] = []
    for step in range(10, (steps if miou else steps // 2) + 1, 10):
        losses = {f"loss/{n}": 1 / step for n in ("segmentation", "adversarial", "discriminator")}
        losses |= {f"loss/{n}": 2 / step if "sim" in recipe else 0.0 for n in ("stuff", "instance")}
        lines.append({"step": step, "kind": "train", **losses, "lr": 0.1, "seconds": step / 10})
        if step % 20 == 0:
            iou = {"road": 0.5, "building": 0.25, "car": None}
            lines.append({"step": step, "kind": "evaluation", "miou": (miou or 15.0) / 100 * step / steps, "iou": iou})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if miou:
        share = miou / 100
        iou = {"road": share + 0.1, "building": share - 0.1, "car": None, "sky": 0.9}
        result = {"recipe": recipe, "seed": seed, "step": steps, "miou": share, "iou": iou}
        write_json(folder / "result.json", {**result, "seconds_total": 50.0, "peak_memory_bytes": 2**30})
    return folder


def make_system_run(root: Path, recipe: str, seed: int = 0, miou: float = 20.0, **settings: Any) -> Path:
    """A run folder whose ``recipe.json`` names what the recipe depends on; a mean of networks has no steps."""
    needed = depends_on(recipe)
    folder = make_run(root, recipe, seed, miou, **needed._asdict(), **settings)
    if needed.fused_of:
        change_json(folder / "result.json", step=0, seconds_total=4.0)
        scores = {"step": 0, "kind": "evaluation", "miou": 0.3, "iou": {"road": 0.3}}
        (folder / "metrics.jsonl").write_text(json.dumps(scores) + "\n")
    return folder


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def change_json(path: Path, **changes: object) -> None:
    write_json(path, {**json.loads(path.read_text()), **changes})


def add_previews(folder: Path, count: int = 2) -> None:
    random = np.random.default_rng(0)
    (folder / "previews").mkdir()
    for number in range(count):
        labels = np.zeros((48, 96), np.uint8)
        labels[:20], labels[:4] = 2, 255
        labels[24:34, 10:26], labels[24:30, 50:60] = 13, 13  # two cars
        labels[0, 0] = 200  # outside the space: ignored
        prediction = labels.copy()
        prediction[labels == 255], prediction[40:, :8] = 10, 1
        image = random.integers(0, 256, (48, 96, 3), dtype=np.uint8)
        np.savez(folder / "previews" / f"{number}.npz", image=image, labels=labels, prediction=prediction)


def add_banks(folder: Path, *, stuff: int = 8) -> None:
    random = torch.Generator().manual_seed(0)
    state = {
        "stuff_bank.features": torch.randn(stuff, 5, 6, generator=random) + torch.arange(stuff)[:, None, None],
        "stuff_bank.written": torch.arange(stuff),
        "instance_bank.features": torch.randn(11, 20, 6, generator=random),
        "instance_bank.written": torch.full((11,), 30),
        "stuff_bank._extra_state": si.StuffBank(si.CITYSCAPES.stuff[:stuff], 6, 5).get_extra_state(),
        "instance_bank._extra_state": si.InstanceBank(si.CITYSCAPES.things, 6, 20).get_extra_state(),
    }
    (folder / "checkpoints").mkdir()
    torch.save({"network": {}, "sim": state}, folder / "checkpoints" / "last.pt")


def add_thresholds(folder: Path, value: float) -> None:
    content = {"thresholds": {"road": value, "car": 0.5}, "kept": {"road": 0.75, "car": 0.5}}
    content |= {"predicted_pixels": {"road": 300, "car": 100}}
    write_json(folder / "thresholds.json", {**content, "kept_total": 0.7})


@pytest.fixture
def ladder(tmp_path: Path) -> Path:
    """All six recipes with three seeds, numbers only."""
    for recipe, scores in SCORES.items():
        for seed, miou in enumerate(scores):
            make_run(tmp_path / "city", recipe, seed, miou)
    return tmp_path / "city"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One full report, of everything there can be: the slow part, done once."""
    root = tmp_path_factory.mktemp("full") / "<b>city"
    for recipe, scores in SCORES.items():
        folder = make_run(root, recipe, 0, scores[0])
        add_previews(folder)
        if "sim" in recipe:
            add_banks(folder)
    add_thresholds(root / "aa+it+sim+ssl" / "seed0", 0.9)
    return write_report(root)


# --- scores


def test_means_deviations_and_gains_are_those_computed_by_hand(ladder: Path) -> None:
    table = ablation(read_experiment(ladder))
    assert list(table.titles.values()) == ["source only", "+ AA", "+ IT", "+ SIM", "+ SSL", "target only"]
    assert (table.scores["aa"].mean(), table.scores["aa"].std()) == pytest.approx((27.0, 7**0.5))  # 25, 26, 30
    assert table.gains["aa"].tolist() == pytest.approx([5, 4, 6])
    assert table.gains["source"].isna().all()
    frame = table.frame(name_compared=True)
    assert frame.loc[1].tolist() == ["+ AA", "27.0 ± 2.6", "+5.0 ± 1.0", "3", "41.4", "+4.8"]
    assert frame["mIoU, paper"].tolist() == ["36.6", "41.4", "44.9", "46.2", "49.2", "65.1"]
    assert frame.loc[3, "gain, paper"] == "+1.3"


def test_gains_use_only_the_seeds_that_both_rows_have(ladder: Path) -> None:
    (ladder / "aa+it" / "seed1" / "result.json").unlink()
    table = ablation(read_experiment(ladder))
    assert table.gains["aa+it"].dropna().to_dict() == pytest.approx({0: 5, 2: 2})
    assert table.frame().loc[2].tolist()[1:4] == ["31.0 ± 1.4", "+3.5 ± 2.1", "2 of 3"]


@pytest.mark.parametrize(
    ("scores", "gains", "adapted"),
    [
        (  # over the nearest row above that has a result
            {"source": 20.0, "aa+it": 19.0},
            dict.fromkeys(ABLATION, "–") | {"aa+it": "−1.0 (over source only)"},
            ["aa+it"],
        ),
        (  # beside the whole ladder, and compared with source only
            {"source": 20.0, "aa": 25.0, "it": 23.0, "aa+sim": 28.0},
            {"source": "–", "aa": "+5.0", "it": "+3.0 (over source only)", "aa+sim": "+8.0 (over source only)"},
            ["aa", "aa+sim"],
        ),
        (  # rungs that were not run have no row beside other recipes
            {"source": 18.0, "fada": 21.0, "fada+distill": 21.0},
            {"source": "–", "fada": "+3.0", "fada+distill": "+3.0 (over source only)"},
            ["fada+distill"],
        ),
    ],
)
def test_gains_name_the_row_that_they_are_over(
    tmp_path: Path, scores: dict[str, float], gains: dict[str, str], adapted: list[str]
) -> None:
    for recipe, miou in scores.items():
        make_system_run(tmp_path, recipe, miou=miou)
    experiment = read_experiment(tmp_path)
    table = ablation(experiment)
    assert dict(zip(table.titles, table.frame(name_compared=True)["gain"], strict=True)) == gains
    assert adapted_recipes(experiment) == adapted


def test_synthia_is_shown_beside_the_papers_synthia_column(tmp_path: Path) -> None:
    make_run(tmp_path, "source", 0, 20.0, layouts={"source": "synthia", "target": "cityscapes"})
    assert ablation(read_experiment(tmp_path)).published.tolist() == [38.6, 45.9, 46.0, 47.1, 52.1, 71.7]


def test_class_scores_hold_nan_for_a_class_that_never_occurs(ladder: Path) -> None:
    scores = class_scores(read_experiment(ladder))["aa"]
    assert list(scores) == list(CLASSES)  # "sky" has a score but is not among the classes scored
    assert scores["road"].tolist() == pytest.approx([35, 36, 40])
    assert scores["car"].isna().all()


def test_markdown_holds_the_numbers_and_the_classes(ladder: Path) -> None:
    text = write_report(ladder).with_name("table.md").read_text()
    assert "| `aa` | + AA | 27.0 ± 2.6 | +5.0 ± 1.0 | 3 | 41.4 | +4.8 | 100 | 0.8 ± 0.0 |" in text
    assert "3 classes (road, building, car). The mean is over the 2 that occur; these never do: car." in text
    assert "| car | – | – | – | – | – | – |" in text
    assert "sky" not in text


def test_means_over_different_classes_are_said_to_be(tmp_path: Path) -> None:
    """A class without a pixel in the labels counts where a run predicts it."""
    for recipe in ("source", "aa"):
        make_run(tmp_path, recipe, 0, 20.0)
    change_json(tmp_path / "aa/seed0/result.json", iou={"road": 0.3, "building": 0.1, "car": 0.0})
    text = write_report(tmp_path).with_name("table.md").read_text()
    assert "In the runs it is over 2 to 3 classes" in text


def test_a_row_beside_the_ladder_says_what_it_does(tmp_path: Path) -> None:
    for recipe in ("source", "wmix"):
        make_system_run(tmp_path, recipe)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "class mixing from the weights of the recipe without it; depends on source" in text


def test_numbers_print_without_a_sign_of_zero_or_a_deviation_of_one() -> None:
    assert [spread([x], signed=True) for x in (-0.04, 0.04, -0.06, 0.06)] == ["0.0", "0.0", "−0.1", "+0.1"]
    assert spread([1.0, math.nan, 3.0]) == "2.0 ± 1.4"
    assert spread([math.nan]) == spread([]) == "–"
    minutes = (pd.Series([0.04, 0.05]), pd.Series([0.06]), pd.Series([], dtype=float))
    assert [cost_text("minutes", each) for each in minutes] == ["<0.1", "0.1", "–"]


@pytest.mark.parametrize(
    ("scores", "share"),
    [
        ((20.0, 25.0, 30.0), "50 %"),
        ((20.0, 20.0, 30.0), "0 %"),
        ((20.0, 15.0, 30.0), None),  # adaptation lost
        ((20.0, 13.2, 21.9), None),  # so small a gap may be seed variance
        ((20.0, 22.0, 15.0), None),  # no gap
    ],
)
def test_the_share_of_the_gap_is_printed_where_it_means_something(
    tmp_path: Path, scores: tuple[float, ...], share: str | None
) -> None:
    for recipe, miou in zip(("source", "aa", "target-only"), scores, strict=True):
        make_run(tmp_path, recipe, 0, miou)
    numbers = headline_numbers(ablation(read_experiment(tmp_path)), ["aa"])
    assert [text for _, text in numbers[:3]] == [f"{miou:.1f}" for miou in scores]
    assert [text for _, text in numbers[3:]] == ([share] if share else [])


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_seed_is_reported_as_one(tmp_path: Path, seeds: int) -> None:
    for seed in range(seeds):
        for recipe, miou in (("source", 20.0), ("aa", 22.0)):
            make_run(tmp_path / "city", recipe, seed, miou + seed)
    page = write_report(tmp_path / "city")
    for text in (page.read_text(), page.with_name("table.md").read_text()):
        assert ("ne seed: a difference of a point or two" in text) == (seeds == 1)
        assert bool(re.search(r"\d ± \d", text)) == (seeds > 1)


# --- partial and damaged runs


def test_unfinished_and_missing_runs_are_named_and_not_counted(tmp_path: Path) -> None:
    make_run(tmp_path, "source", 0, 20.0)
    make_run(tmp_path, "source", 1, None)
    make_run(tmp_path, "aa", 0, 25.0)
    experiment = read_experiment(tmp_path)
    assert ablation(experiment).unfinished(begun=True).values.tolist() == [
        ["source only", "seed 1: step 50 of 100, last evaluation 6.0 mIoU at step 40"],
        ["+ AA", "seed 1: not begun"],
    ]
    assert ablation(experiment).frame().loc[0].tolist()[1:4] == ["20.0", "–", "1 of 2"]
    text = write_report(tmp_path).read_text()
    assert "step 50 of 100" in text
    assert "No checkpoint holds banks yet" in text


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "city" / "aa" / "seed0").mkdir(parents=True)
    write_json(tmp_path / "city" / "aa" / "seed0" / "recipe.json", {"schedule": [], "start": None})
    assert "Not complete" in write_report(tmp_path / "city").read_text()
    assert not list(tmp_path.rglob("*.png"))


def test_damaged_files_become_sentences_not_failures(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "aa+it+sim", 0, 20.0)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": Infinity, "kind": "train"}\n[1]\n{"step": 110, "kind": "tr\xff')
    (folder / "thresholds.json").write_text("{")
    change_json(folder / "result.json", seconds_total="long", iou=[1], peak_memory_bytes=True)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.pt").write_bytes(b"half a checkpoint")
    (folder / "previews").mkdir()
    (folder / "previews" / "0.npz").write_bytes(b"half an image")
    problems = read_experiment(tmp_path).runs[0].problems
    assert [
        name in text for name, text in zip(("thresholds.json", "3 line(s) of metrics.jsonl"), problems, strict=True)
    ]
    page = write_report(tmp_path)
    assert "last.pt cannot be read" in page.read_text()
    assert not list(page.parent.glob("previews*"))


def test_lines_of_a_resumed_run_replace_the_earlier_ones(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "source", 0, 20.0)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 40, "kind": "evaluation", "miou": 0.99, "iou": {}}) + "\n")
    curve = score_curve(read_experiment(tmp_path).runs, "miou")
    assert curve.index.tolist() == [20, 40, 60, 80, 100]
    assert curve.loc[40].tolist() == [0.99]


def test_an_empty_folder_is_an_error_that_names_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"<recipe>/seed<k>/.*Train at least one recipe") as error:
        write_report(tmp_path)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_report(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


# --- curves, thresholds, costs


def test_curves_join_seeds_that_stopped_at_different_steps(tmp_path: Path) -> None:
    for seed, miou in enumerate((20.0, None)):
        make_run(tmp_path, "aa", seed, miou)
    curve = score_curve(read_experiment(tmp_path).of("aa"), "miou")
    assert (curve.index.tolist(), curve.count(axis=1).tolist()) == ([20, 40, 60, 80, 100], [2, 2, 1, 1, 1])
    assert curve.mean(axis=1).tolist() == pytest.approx([0.035, 0.07, 0.12, 0.16, 0.2])


def test_a_loss_that_stays_zero_has_no_curve_and_matching_losses_are_named(tmp_path: Path) -> None:
    make_run(tmp_path, "aa+it", 0, 20.0)
    metrics = make_run(tmp_path, "aa+it+sim", 0, 20.0) / "metrics.jsonl"
    metrics.write_text(re.sub(r'"loss/instance": [^,]+', '"loss/instance": 0.0', metrics.read_text()))
    experiment = read_experiment(tmp_path)
    empty = {
        (recipe, loss): loss_curve(experiment.of(recipe), loss, 100).empty
        for recipe in ("aa+it", "aa+it+sim")
        for loss in ("stuff", "instance")
    }
    assert [key for key, value in empty.items() if not value] == [("aa+it+sim", "stuff")]
    assert "Instance matching: nothing was matched by + SIM." in write_report(tmp_path).read_text()


@pytest.mark.parametrize("steps", [1300, 650, 1298, 10])
def test_loss_curve_has_no_point_of_a_bin_cut_short(tmp_path: Path, steps: int) -> None:
    lines = ({"step": step, "kind": "train", "loss/stuff": float(step)} for step in range(1, steps + 1))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    points = loss_curve([read_run(tmp_path, recipe="sim", seed=0)], "stuff", 1300)[0]
    starts = [*points.index, steps + 1]
    assert steps < 22 or min(after - start for start, after in pairwise(starts)) >= 22
    last = range(max(1, starts[-2]), steps + 1)
    assert points[starts[-2]] == pytest.approx(sum(last) / len(last))


def test_thresholds_and_costs_are_means_over_seeds(ladder: Path) -> None:
    for seed, value in enumerate((0.7, 0.9)):
        add_thresholds(ladder / "aa+it+sim+ssl" / f"seed{seed}", value)
    experiment = read_experiment(ladder)
    found = thresholds(experiment.of("aa+it+sim+ssl")[:2])
    assert found["threshold"]["road"].tolist() == [0.7, 0.9]
    assert found["predicted"]["road"].tolist() == [75, 75]
    costs = ablation(experiment).costs["source"]
    assert costs[["steps", "steps per second", "peak memory, GiB"]].values.tolist() == [[100, 2, 1]] * 3
    assert costs[["ms per step", "data wait, %"]].isna().all(axis=None)  # an earlier version did not time steps


def test_what_steps_took_is_in_the_cost_table(tmp_path: Path) -> None:
    means = {"seconds_per_step": 0.125, "images_per_second": 16.0, "data_share": 0.25}
    for recipe in ("aa+it", "aa+it+sim"):
        change_json(make_run(tmp_path, recipe, 0, 20.0) / "result.json", **means)
    with (tmp_path / "aa+it/seed0/metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": 100, "kind": "cost", **means}) + "\n")
    experiment = read_experiment(tmp_path)
    assert not [problem for run in experiment.runs for problem in run.problems]
    names = ["ms per step", "images per second", "data wait, %"]
    assert ablation(experiment).cost_frame(names)[names].values.tolist() == [
        ["125.0", "16.0", "25.0"],
        ["125.0", "16.0", "25.0"],
    ]
    assert ">125.0</td>" in write_report(tmp_path).read_text().split('id="cost"')[1]


def test_costs_in_all_count_every_run_that_a_recipe_depends_on_once(tmp_path: Path) -> None:
    for recipe in ("source", "cbst", "cbst2", "aa+it", "aa+tt", "aa+it+sym", "aa+tt+sym", "aa+it+sym+fused", "cag2"):
        make_system_run(tmp_path, recipe)
    experiment = read_experiment(tmp_path)
    assert score_curve(experiment.of("aa+it+sym+fused"), "miou").empty  # a mean of networks has no steps
    costs = ablation(experiment).costs
    steps = {recipe: each["steps in all"].item() for recipe, each in costs.items()}
    assert [steps[name] for name in ("source", "cbst2", "aa+it+sym", "aa+it+sym+fused")] == [100, 300, 300, 400]
    assert math.isnan(steps["cag2"])  # cag is not here
    fused = costs["aa+it+sym+fused"].iloc[0]
    assert (fused["steps"], fused["minutes in all"]) == (0, pytest.approx((4 * 50 + 4) / 60))
    assert math.isnan(fused["steps per second"])


def test_thresholds_of_different_recipes_are_not_averaged(tmp_path: Path) -> None:
    for recipe, value in (("cbst", 0.25), ("iast", 0.75)):
        rule = parts()[recipe][1].changes["rule"]
        add_thresholds(make_system_run(tmp_path / "city", recipe, pseudo_labels={"rule": rule}), value)
    page = write_report(tmp_path / "city")
    words = page.read_text()
    first, second = words.split("<h3>CBST</h3>")[1].split("<h3>IAST</h3>")
    assert ("0.250" in first, "0.750" in second) == (True, True)
    assert "0.750" not in first
    assert ("largest multiple" in first, "last thresholds" in second) == (True, True)
    assert {"thresholds_cbst.png", "thresholds_iast.png"} <= {path.name for path in page.parent.iterdir()}


# --- figures


@pytest.mark.parametrize("stuff", [8, 7])
def test_banks_show_only_rows_that_were_written_for_the_same_classes(tmp_path: Path, stuff: int) -> None:
    add_banks(make_run(tmp_path, "aa+it+sim", 0, 20.0), stuff=stuff)
    banks, problems = read_banks(read_experiment(tmp_path))
    if banks is None:
        assert "holds 7 classes, the space has 8" in problems[0]
        return
    assert (stuff, problems) == (8, ())
    assert banks.stuff.filled.sum(1).tolist() == [0, 1, 2, 3, 4, 5, 5, 5]
    assert banks.things.filled.sum(1).tolist() == [20] * 11
    assert "14 of 19 classes are full." in draw_banks(banks, si.CITYSCAPES)[0].alt


def test_regions_are_counted_and_at_most_ten_are_outlined() -> None:
    labels = torch.zeros(1, 40, 480, dtype=torch.long)
    for car in range(12):
        labels[0, 10:18, 10 * car + 2 : 10 * car + 9] = 13
    labels[0, 30, 10] = labels[0, 31, 11] = 17  # one region, since corners join
    axes = Figure().subplots()
    assert plot_regions(axes, np.full((40, 480, 3), 128, np.uint8), labels, si.CITYSCAPES, 10) == (13, 11)
    outline = np.concatenate(axes.collections[-1].get_segments())
    assert outline[:, 0].max() == 99  # the last two cars are equal in area and come later
    base, tint = axes.images[-2].get_array(), axes.images[-1].get_array()
    assert tuple(base[14, 103, :3]) == si.CITYSCAPES.palette[13]  # so they keep the color of their class
    assert base[14, 5, 3] == 0
    assert len(np.unique(tint[14, 5:100:10, :3], axis=0)) > 6


def test_many_recipes_look_different_and_their_legend_fits() -> None:
    assert len(set(recipe_lines(SYSTEMS).values())) == len(SYSTEMS)
    names = [title(name) for name in SYSTEMS]
    assert 1 <= legend_shape(names, 7)[0] <= 5
    assert legend_shape(names, 7)[1] > legend_shape(names[:2], 7)[1]


def test_the_page_fetches_nothing_and_describes_every_image(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    addresses = re.findall(r'(?:src|srcset|href|data|poster)="([^"]*)"', text)
    assert [a for a in addresses if not a.startswith(("data:", "#"))] == ["table.md"]
    assert not re.search(r"<(script|iframe|object|b)\b|url\(", text)  # the folder's name is escaped
    assert {a[1:] for a in addresses if a.startswith("#")} <= set(re.findall(r'id="([^"]*)"', text))
    alts = re.findall(r'<img [^>]*alt="([^"]*)"', text)
    assert len(alts) == 9
    assert all(len(alt) > 15 for alt in alts)
    for address in addresses:
        if address.startswith("data:image/"):
            Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1]))).verify()
    assert "38 %" in text  # of the gap: (35 - 20) / (60 - 20)


def test_previews_are_of_source_only_and_the_adapted_recipes_of_one_seed(tmp_path: Path) -> None:
    for recipe, seed in (("source", 0), ("source", 1), ("aa", 1), ("wmix", 0), ("wmix", 1), ("target-only", 1)):
        add_previews(make_system_run(tmp_path, recipe, seed))
    shown = preview_runs(read_experiment(tmp_path))
    assert [(run.recipe, run.seed) for run in shown] == [("source", 1), ("aa", 1), ("wmix", 1)]


def test_every_figure_is_written_and_shows_something(report: Path) -> None:
    names = {path.name for path in report.parent.iterdir()}
    charts = ("ablation", "class_scores", "miou_curves", "losses", "previews", "regions", "bank_fill", "bank_rows")
    assert {*(f"{chart}.png" for chart in charts), "thresholds_aa+it+sim+ssl.png", "index.html", "table.md"} == names
    for path in report.parent.glob("*.png"):
        colors = Image.open(path).convert("RGB").getcolors(maxcolors=2**24)
        assert colors is not None
        assert len(colors) > 10, path.name


# --- names


def test_every_part_and_loss_has_a_title() -> None:
    assert all(part.title and part.meaning for _, part in parts().values())
    assert set().union(*LOSSES_OF_PARTS.values()) <= set(loss_titles())


def test_recipes_beside_the_ladder_are_in_the_order_of_their_parts() -> None:
    order = in_order(sorted(SYSTEMS))
    assert order[:2] == ("source", "aa+it")
    assert [name for name in order if name.startswith("cag")] == ["cag", "cag2", "cag3"]
    pairs = (("fada", "fada+distill"), ("aa+it+sym", "aa+it+sym+fused"), ("maxsq", "fada"), ("cag", "cbst"))
    assert all(order.index(before) < order.index(after) for before, after in pairs)
    assert in_order(["unheard-of", "iast", "it", "source"]) == ("source", "it", "iast", "unheard-of")


def test_recipes_are_printed_as_the_sum_of_their_parts() -> None:
    recipes = ("asn", "fada+distill", "cbst2", "aa+it+sym+fused", "aa+it", "unheard-of", "aa+unheard")
    assert [title(recipe) for recipe in recipes] == [
        *("AdaptSegNet", "FADA + distillation", "CBST round 2", "AA + IT + symmetric + fused"),
        *("+ IT", "unheard-of", "aa+unheard"),
    ]


def test_only_the_papers_classes_stand_beside_its_scores(tmp_path: Path) -> None:
    spaces = ("cityscapes", *(read_classes(name).model_dump(mode="json") for name in ("synthia16", "idd7")))
    for place, space in enumerate(spaces):
        folder = tmp_path / str(place)
        make_run(folder, "source", 0, 20.0, space=space)
        page = write_report(folder).read_text(encoding="utf-8")
        assert ("mIoU, paper" in page) == (place < 2)
        assert ("In the paper" in page) == (place < 2)
