"""The report of hand-made experiments: numbers, gaps, figures, and a page that needs no network."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import stuffinstance as si
from examples.gta5_to_cityscapes.report import write_report
from examples.gta5_to_cityscapes.report.ablation_table import (
    Spread,
    adapted_recipe,
    build_ablation_table,
    minutes_text,
    per_class_rows,
)
from examples.gta5_to_cityscapes.report.bank_charts import draw_bank_fill, read_banks
from examples.gta5_to_cityscapes.report.costs import build_cost_rows, build_status_rows
from examples.gta5_to_cityscapes.report.curves import Curve, loss_curves, miou_curves, never_matched
from examples.gta5_to_cityscapes.report.markdown_tables import ablation_markdown, gain_text
from examples.gta5_to_cityscapes.report.page import gather_content, headline_numbers, render_page
from examples.gta5_to_cityscapes.report.region_pictures import draw_regions
from examples.gta5_to_cityscapes.report.results import read_experiment
from examples.gta5_to_cityscapes.report.threshold_charts import build_threshold_tables

SCORES = {  # by recipe, one mIoU per seed, in percent
    "source": (20.0, 22.0, 24.0),
    "aa": (25.0, 26.0, 30.0),
    "aa+it": (30.0, 31.0, 32.0),
    "aa+it+sim": (33.0, 33.0, 36.0),
    "aa+it+sim+ssl": (35.0, 36.0, 40.0),
    "target-only": (60.0, 61.0, 62.0),
}
CLASSES = ("road", "building", "car")


def make_run(root: Path, recipe: str, seed: int, miou: float | None, *, steps: int = 100) -> Path:
    """A run folder as training leaves it; without ``miou`` it stopped before its end."""
    folder = root / recipe / f"seed{seed}"
    folder.mkdir(parents=True)
    settings = {
        "name": recipe,
        "seed": seed,
        "layouts": {"source": "gta5", "target": "cityscapes"},
        "space": "cityscapes",
        "classes": CLASSES,
        "schedule": {"steps": steps},
    }
    write_json(folder / "recipe.json", settings)
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


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def add_previews(folder: Path, count: int = 2) -> None:
    random = np.random.default_rng(0)
    (folder / "previews").mkdir()
    for number in range(count):
        labels = np.zeros((48, 96), np.uint8)
        labels[:20], labels[:4] = 2, 255
        labels[24:34, 10:26], labels[24:30, 50:60] = 13, 13  # two cars
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
    write_json(
        folder / "thresholds.json",
        {**content, "kept_total": 0.7, "predicted_pixels": {"road": 300, "car": 100}},
    )


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
    root = tmp_path_factory.mktemp("full") / "city"
    for recipe, scores in SCORES.items():
        folder = make_run(root, recipe, 0, scores[0])
        add_previews(folder)
        if "sim" in recipe:
            add_banks(folder)
    add_thresholds(root / "aa+it+sim+ssl" / "seed0", 0.9)
    return write_report(root)


class Page(HTMLParser):
    """Collects what a test asks about: addresses, alternative texts, ids and links to them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.alts: list[str | None] = []
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.addresses += [values[k] or "" for k in ("src", "srcset", "href", "data", "poster") if k in values]
        self.ids |= {values["id"] or ""} if "id" in values else set()
        if tag == "img":
            self.alts.append(values.get("alt"))


def test_means_deviations_and_gains_are_those_computed_by_hand(ladder: Path) -> None:
    table = build_ablation_table(read_experiment(ladder))
    assert [row.title for row in table.rows] == [
        "source only",
        "+ AA",
        "+ IT",
        "+ SIM",
        "+ SSL",
        "target only",
    ]
    aa = table.rows[1]
    assert aa.miou == Spread(pytest.approx(27.0), pytest.approx(7**0.5), 3)  # 25, 26, 30
    assert aa.gain == Spread(pytest.approx(5.0), pytest.approx(1.0), 3)  # 5, 4, 6
    assert gain_text(aa) == "+5.0 ± 1.0"
    assert table.rows[0].gain is None
    assert [row.paper for row in table.rows] == [36.6, 41.4, 44.9, 46.2, 49.2, 65.1]
    assert table.rows[3].paper_gain == pytest.approx(1.3)


def test_gains_use_only_the_seeds_that_both_rows_have(ladder: Path) -> None:
    (ladder / "aa+it" / "seed1" / "result.json").unlink()
    row = build_ablation_table(read_experiment(ladder)).row("aa+it")
    assert row is not None
    assert (row.seed_text, row.missing) == ("2 of 3", (1,))
    assert row.miou == Spread(pytest.approx(31.0), pytest.approx(2**0.5), 2)
    assert row.gain is not None
    assert row.gain.mean == pytest.approx((5 + 2) / 2)  # seeds 0 and 2


def test_gain_over_a_missing_row_names_the_row_it_is_over(tmp_path: Path) -> None:
    make_run(tmp_path, "source", 0, 20.0)
    make_run(tmp_path, "aa+it", 0, 19.0)
    table = build_ablation_table(read_experiment(tmp_path))
    assert table.rows[1].miou is None
    assert gain_text(table.rows[2]) == "−1.0 (over source only)"


def test_recipes_beside_the_ladder_follow_it_and_compare_with_source_only(ladder: Path) -> None:
    make_run(ladder, "it", 0, 23.0)
    make_run(ladder, "aa+sim", 0, 28.0)
    table = build_ablation_table(read_experiment(ladder))
    assert [row.recipe for row in table.rows[-3:]] == ["target-only", "it", "aa+sim"]
    assert gain_text(table.rows[-2]) == "+3.0 (over source only)"
    assert adapted_recipe(read_experiment(ladder)) == "aa+it+sim+ssl"


def test_synthia_is_shown_beside_the_papers_synthia_column(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "source", 0, 20.0)
    settings = json.loads((folder / "recipe.json").read_text())
    write_json(folder / "recipe.json", {**settings, "layouts": {"source": "synthia", "target": "cityscapes"}})
    table = build_ablation_table(read_experiment(tmp_path))
    assert [row.paper for row in table.rows] == [38.6, 45.9, 46.0, 47.1, 52.1, 71.7]
    assert "SYNTHIA" in table.paper_name


def test_markdown_holds_the_numbers_the_classes_and_the_warning(ladder: Path) -> None:
    experiment = read_experiment(ladder)
    text = ablation_markdown(build_ablation_table(experiment), per_class_rows(experiment), experiment.finished_recipes)
    assert "| + AA | 27.0 ± 2.6 | +5.0 ± 1.0 | 3 | 41.4 | +4.8 |" in text
    assert "3 classes (road, building, car). The mean is over the 2 that occur; these never do: car." in text
    assert "other data, a larger network" in text
    assert "| car | – | – | – | – | – | – |" in text
    assert "sky" not in text  # has a score but is not among the classes scored


def test_unfinished_and_missing_runs_are_named_and_not_counted(tmp_path: Path) -> None:
    make_run(tmp_path, "source", 0, 20.0)
    make_run(tmp_path, "source", 1, None)
    make_run(tmp_path, "aa", 0, 25.0)
    experiment = read_experiment(tmp_path)
    states = [(row.title, row.seed, row.state) for row in build_status_rows(experiment)]
    assert states == [("source only", 1, "unfinished"), ("+ AA", 1, "missing")]
    assert build_status_rows(experiment)[0].detail == "step 50 of 100; last evaluation 6.0 mIoU at step 40"
    assert build_ablation_table(experiment).rows[0].miou == Spread(20.0, None, 1)
    text = render_page(gather_content(experiment))
    assert "Not complete" in text
    assert "step 50 of 100" in text
    assert "No checkpoint holds banks yet" in text


@pytest.mark.parametrize(("mean", "text"), [(-0.04, "0.0"), (0.04, "0.0"), (-0.06, "−0.1"), (0.06, "+0.1")])
def test_a_gain_that_rounds_to_nothing_has_no_sign(mean: float, text: str) -> None:
    assert Spread(mean, None, 1).text(signed=True) == text
    assert Spread(mean, 0.6, 3).text(signed=True) == f"{text} ± 0.6"


@pytest.mark.parametrize(
    ("scores", "share"),
    [
        ((20.0, 25.0, 30.0), "50 %"),
        ((20.0, 20.0, 30.0), "0 %"),
        ((20.0, 15.0, 30.0), None),  # adaptation lost
        ((20.0, 13.2, 21.9), None),  # of so small a gap any share is luck
        ((20.0, 22.0, 15.0), None),  # no gap at all
    ],
)
def test_the_share_of_the_gap_is_told_where_it_means_something(
    tmp_path: Path, scores: tuple[float, ...], share: str | None
) -> None:
    for recipe, miou in zip(("source", "aa", "target-only"), scores, strict=True):
        make_run(tmp_path, recipe, 0, miou)
    numbers = headline_numbers(build_ablation_table(read_experiment(tmp_path)), "aa")
    assert [text for _, text in numbers[:3]] == [f"{miou:.1f}" for miou in scores]
    assert [text for _, text in numbers[3:]] == ([share] if share else [])


def test_minutes_of_a_very_short_run_are_not_nothing() -> None:
    assert [minutes_text(Spread(value, 0.01, 3)) for value in (0.049, 0.06)] == ["<0.1", "0.1 ± 0.0"]
    assert minutes_text(None) == "–"


def test_the_page_says_why_a_matching_loss_has_no_line(tmp_path: Path) -> None:
    make_run(tmp_path, "aa+it", 0, 20.0)
    metrics = make_run(tmp_path, "aa+it+sim", 0, 20.0) / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines = [line | {"loss/instance": 0.0} if line["kind"] == "train" else line for line in lines]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (sentence,) = never_matched(read_experiment(tmp_path))
    assert sentence.startswith("Instance matching has no line for “+ SIM”: nothing was matched there")
    assert sentence in render_page(gather_content(read_experiment(tmp_path)))


def test_damaged_files_become_sentences_not_failures(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "aa+it+sim", 0, 20.0)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 110, "kind": "tr')
    (folder / "thresholds.json").write_text("{")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.pt").write_bytes(b"half a checkpoint")
    (folder / "previews").mkdir()
    (folder / "previews" / "0.npz").write_bytes(b"half a picture")
    experiment = read_experiment(tmp_path)
    assert [("metrics.jsonl" in p, "thresholds.json" in p) for p in experiment.runs[0].problems] == [
        (False, True),
        (True, False),
    ]
    content = gather_content(experiment)
    assert content.pictures is content.banks is None
    assert "last.pt cannot be read" in content.problems[-1]


def test_lines_of_a_resumed_run_replace_the_earlier_ones(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "source", 0, 20.0)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 40, "kind": "evaluation", "miou": 0.99, "iou": {}}) + "\n")
    curve = miou_curves(read_experiment(tmp_path))["source"]
    assert curve.steps.tolist() == [20, 40, 60, 80, 100]
    assert curve.mean[1] == pytest.approx(99.0)


def test_curves_join_seeds_that_stopped_at_different_steps(ladder: Path) -> None:
    curve = Curve.over([{10: 1.0, 20: 2.0}, {10: 3.0}])
    assert curve is not None
    assert (curve.mean.tolist(), curve.low.tolist(), curve.high.tolist()) == (
        [2.0, 2.0],
        [1.0, 2.0],
        [3.0, 2.0],
    )
    assert set(loss_curves(read_experiment(ladder), "stuff")) == {"aa+it+sim", "aa+it+sim+ssl"}


def test_an_empty_folder_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"<recipe>/seed<k>/.*Train at least one recipe") as error:
        write_report(tmp_path)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_thresholds_and_costs_are_means_over_seeds(ladder: Path) -> None:
    for seed, value in enumerate((0.7, 0.9)):
        add_thresholds(ladder / "aa+it+sim+ssl" / f"seed{seed}", value)
    experiment = read_experiment(ladder)
    (table,) = build_threshold_tables(experiment)
    road = table.rows[0]
    assert road.threshold is not None
    assert (road.name, road.threshold.mean) == ("road", pytest.approx(0.8))
    assert road.predicted_share == Spread(pytest.approx(75.0), pytest.approx(0.0), 2)
    assert table.seeds == (0, 1)
    cost = build_cost_rows(experiment)[0]
    assert (cost.rate, cost.memory, cost.iterations) == ("2.00 ± 0.00", "1.00 ± 0.00", "100")
    assert cost.step_milliseconds == cost.data_percent == "–"  # of an earlier version, which timed no steps


def test_what_steps_took_stands_in_the_cost_table(tmp_path: Path) -> None:
    means = {"seconds_per_step": 0.125, "images_per_second": 16.0, "data_share": 0.25, "matching_share": None}
    for recipe, matching in (("aa+it", None), ("aa+it+sim", 0.03)):
        file = make_run(tmp_path, recipe, 0, 20.0) / "result.json"
        write_json(file, {**json.loads(file.read_text()), **means, "matching_share": matching})
    with (tmp_path / "aa+it/seed0/metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": 100, "kind": "cost", **means}) + "\n")
    experiment = read_experiment(tmp_path)
    assert not [problem for run in experiment.runs for problem in run.problems]
    first, second = build_cost_rows(experiment)
    shown = (first.step_milliseconds, first.image_rate, first.data_percent, first.matching_percent)
    assert shown == ("125.0", "16.0", "25.0", "–")
    assert second.matching_percent == "3.0"
    shown_costs = write_report(tmp_path).read_text().split('id="cost"')[1]
    row = re.search(r'<th scope="row">\+ SIM</th>.*', shown_costs)
    assert row is not None
    assert ">125.0</td>" in row[0]


def test_banks_show_only_rows_that_were_written(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "aa+it+sim", 0, 20.0)
    add_banks(folder)
    banks, problems = read_banks(read_experiment(tmp_path), si.CITYSCAPES)
    assert banks is not None
    assert problems == ()
    assert banks.stuff.filled.sum(1).tolist() == [0, 1, 2, 3, 4, 5, 5, 5]
    assert banks.things.filled.sum(1).tolist() == [20] * 11
    assert banks.feature_dim == 6
    assert "14 of 19 classes are full; empty: road." in draw_bank_fill(banks, si.CITYSCAPES).alt


def test_banks_of_another_class_list_are_refused(tmp_path: Path) -> None:
    add_banks(make_run(tmp_path, "aa+it+sim", 0, 20.0), stuff=7)
    banks, problems = read_banks(read_experiment(tmp_path), si.CITYSCAPES)
    assert banks is None
    assert "holds 7 classes, the space has 8" in problems[0]


def test_regions_are_counted_and_at_most_ten_are_outlined() -> None:
    labels = np.zeros((40, 480), np.uint8)
    for car in range(12):
        labels[10:18, 10 * car + 2 : 10 * car + 9] = 13
    labels[30, 10] = labels[31, 11] = 17  # one region, since corners join
    image = np.full((40, 480, 3), 128, np.uint8)
    figure, total, outlined = draw_regions(image, labels, si.CITYSCAPES)
    assert (total, outlined) == (13, 11)
    (axes,) = figure.axes
    assert axes.get_position().bounds == (0, 0, 1, 1)
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 480), (40, 0))
    outline = np.concatenate(axes.collections[-1].get_segments())
    assert outline[:, 0].max() == 99  # the last two cars are equal in area and come later
    base, tint = axes.images[-2].get_array(), axes.images[-1].get_array()
    assert tuple(base[14, 103, :3]) == si.CITYSCAPES.palette[13]  # so they keep the colour of their class
    assert base[14, 5, 3] == 0
    assert len(np.unique(tint[14, 5:100:10, :3], axis=0)) > 6


def test_the_page_fetches_nothing_and_describes_every_picture(report: Path) -> None:
    page = Page(report.read_text(encoding="utf-8"))
    outside = [a for a in page.addresses if not a.startswith(("data:", "#"))]
    assert outside == ["table.md"]
    assert not page.tags & {"script", "iframe", "object"}
    assert "url(" not in report.read_text(encoding="utf-8")
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= page.ids
    assert len(page.alts) > 20
    assert all(alt and len(alt) > 15 for alt in page.alts)
    for address in page.addresses:
        if address.startswith("data:image/"):
            Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1]))).verify()


def test_the_page_names_its_headline_and_the_scored_classes(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    table = build_ablation_table(read_experiment(report.parents[1]))
    assert headline_numbers(table, "aa+it+sim+ssl")[-1][1] == "38 %"  # (35 - 20) / (60 - 20)
    for wanted in (
        "38 %",
        "road, building, car",
        "Table 2: GTA5 → Cityscapes",
        "prefers-color-scheme",
        "41.4",
    ):
        assert wanted in text


def test_every_figure_is_written_and_shows_something(report: Path) -> None:
    names = {path.name for path in report.parent.iterdir()}
    charts = {"ablation", "class_scores", "miou_curves", "thresholds", "bank_fill", "bank_rows", "loss_stuff"}
    assert {f"{c}{mode}.png" for c in charts for mode in ("", "-dark")} <= names
    assert {
        "index.html",
        "table.md",
        "pictures.png",
        "regions_1_truth.png",
        "regions_2_prediction.png",
    } <= names
    assert not [name for name in names if name.startswith(".")]  # nothing half-written left behind
    for path in report.parent.glob("*.png"):
        colors = Image.open(path).convert("RGB").getcolors(maxcolors=2**24)
        assert colors is not None
        assert len(colors) > 10, path.name
    light, dark = (np.asarray(Image.open(report.parent / f"ablation{m}.png").convert("L")) for m in ("", "-dark"))
    assert light.mean() > 150 > 90 > dark.mean()
