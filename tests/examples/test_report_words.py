"""What the report says beside its numbers, and the points of its curves."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from examples.gta5_to_cityscapes.recipes import ABLATION, PARTS, stands_on
from examples.gta5_to_cityscapes.report import write_report
from examples.gta5_to_cityscapes.report.ablation_table import Spread, build_ablation_table
from examples.gta5_to_cityscapes.report.costs import build_cost_rows
from examples.gta5_to_cityscapes.report.curves import LOSSES, _binned, miou_curves
from examples.gta5_to_cityscapes.report.drawn_figure import LIGHT, legend_shape, recipe_lines
from examples.gta5_to_cityscapes.report.markdown_tables import ablation_markdown, gain_text
from examples.gta5_to_cityscapes.report.recipe_names import LADDER, PART_TITLES, in_order, title
from examples.gta5_to_cityscapes.report.results import read_experiment
from examples.gta5_to_cityscapes.report.threshold_charts import build_threshold_tables

from .test_report import add_thresholds, make_run, write_json
from .test_systems import LOSSES as LOSSES_OF_PARTS


@pytest.mark.parametrize("steps", [1300, 650, 1298, 10])
def test_no_point_of_a_loss_curve_stands_on_a_bin_cut_short(steps: int) -> None:
    training = [{"step": step, "loss/stuff": float(step)} for step in range(1, steps + 1)]
    run = SimpleNamespace(training=training, last_step=steps)
    points = _binned(run, "loss/stuff", 22)  # type: ignore[arg-type]
    starts = [*points, steps + 1]
    widths = [after - start for start, after in pairwise(starts)]
    assert steps < 22 or min(widths) >= 22
    last = range(max(1, starts[-2]), steps + 1)
    assert points[starts[-2]] == pytest.approx(sum(last) / len(last))


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_seed_is_said_to_be_one(tmp_path: Path, seeds: int) -> None:
    for seed in range(seeds):
        for recipe, miou in (("source", 20.0), ("aa", 22.0)):
            make_run(tmp_path / "city", recipe, seed, miou + seed)
    page = write_report(tmp_path / "city")
    words, table = page.read_text(), page.with_name("table.md").read_text()
    assert ("differences of a point or two may be luck" in words) == (seeds == 1)
    assert ("one seed: differences of a point or two may be luck" in table) == (seeds == 1)
    for text in (words, table):
        assert ("±" in text) == (seeds > 1)


SYSTEMS = (
    *("source", "aa+it", "aa+tt", "aa+it+sym", "aa+tt+sym", "aa+it+sym+fused", "asn", "advent", "minent", "maxsq"),
    *("fada", "fada+distill", "cag", "cag2", "cag3", "sim+mix+mask", "cbst", "cbst2", "crst", "iast"),
)


def make_system_run(root: Path, recipe: str, seed: int = 0, miou: float = 20.0) -> Path:
    """A run folder whose ``recipe.json`` names what the recipe stands on; a mean of networks has no steps."""
    folder = make_run(root, recipe, seed, miou)
    needed = stands_on(recipe)
    settings = json.loads((folder / "recipe.json").read_text()) | needed._asdict()
    write_json(folder / "recipe.json", settings)
    if needed.fused_of:
        result = json.loads((folder / "result.json").read_text())
        write_json(folder / "result.json", {**result, "step": 0, "seconds_total": 4.0})
        scores = {"step": 0, "kind": "evaluation", "miou": 0.3, "iou": {"road": 0.3}}
        (folder / "metrics.jsonl").write_text(json.dumps(scores) + "\n")
    return folder


def test_every_part_and_loss_has_a_title_and_the_ladder_is_that_of_the_recipes() -> None:
    assert set(PART_TITLES) == set(PARTS)
    assert set().union(*LOSSES_OF_PARTS.values()) <= set(LOSSES)
    assert LADDER == ABLATION


def test_recipes_beside_the_ladder_stand_in_the_order_of_their_parts() -> None:
    order = in_order(sorted(SYSTEMS))
    assert order[:2] == ("source", "aa+it")
    assert [name for name in order if name.startswith("cag")] == ["cag", "cag2", "cag3"]
    for before, after in (
        ("fada", "fada+distill"),
        ("aa+it+sym", "aa+it+sym+fused"),
        ("maxsq", "fada"),
        ("cag", "cbst"),
    ):
        assert order.index(before) < order.index(after)
    assert in_order(["unheard-of", "iast", "it", "source"]) == ("source", "it", "iast", "unheard-of")


@pytest.mark.parametrize(
    ("recipe", "printed"),
    [
        ("asn", "AdaptSegNet"),
        ("fada+distill", "FADA + distillation"),
        ("cbst2", "CBST round 2"),
        ("aa+it+sym+fused", "AA + IT + symmetric + fused"),
        ("aa+it", "+ IT"),
        ("unheard-of", "unheard-of"),
        ("aa+unheard", "aa+unheard"),
    ],
)
def test_recipes_are_printed_as_the_sum_of_their_parts(recipe: str, printed: str) -> None:
    assert title(recipe) == printed


def test_systems_are_compared_with_source_and_rungs_that_were_not_run_have_no_row(tmp_path: Path) -> None:
    make_system_run(tmp_path, "source", miou=18.0)
    for recipe in ("fada", "fada+distill"):
        make_system_run(tmp_path, recipe, miou=21.0)
    table = build_ablation_table(read_experiment(tmp_path))
    assert [row.recipe for row in table.rows] == ["source", "fada", "fada+distill"]
    assert [gain_text(row) for row in table.rows[1:]] == ["+3.0 (over source only)"] * 2


def test_steps_in_all_count_every_run_that_a_recipe_stands_on_once(tmp_path: Path) -> None:
    for recipe in ("source", "cbst", "cbst2", "aa+it", "aa+tt", "aa+it+sym", "aa+tt+sym", "aa+it+sym+fused", "cag2"):
        make_system_run(tmp_path, recipe)
    experiment = read_experiment(tmp_path)
    table = build_ablation_table(experiment)
    steps = {row.recipe: row.steps for row in table.rows}
    assert (steps["source"], steps["cbst2"], steps["aa+it+sym"], steps["aa+it+sym+fused"]) == (
        "100",
        "300",
        "300",
        "400",
    )
    assert steps["cag2"] == "–"  # cag is not here
    costs = {row.title: row for row in build_cost_rows(experiment)}
    fused = costs["AA + IT + symmetric + fused"]
    assert (fused.iterations, fused.rate, fused.iterations_in_all) == ("0", "–", "400")
    assert fused.minutes_in_all == f"{(4 * 50 + 4) / 60:.1f}"
    assert costs["CAG round 2"].minutes_in_all == "–"
    text = ablation_markdown(table, (), ())
    assert "| `cbst2` | CBST round 2 | 20.0 | 0.0 (over source only) | 1 | – | – | 300 | 2.5 |" in text


def test_a_mean_of_networks_has_no_curve(tmp_path: Path) -> None:
    for recipe in ("it", "it+fused"):
        make_system_run(tmp_path, recipe)
    assert set(miou_curves(read_experiment(tmp_path))) == {"it"}


def test_thresholds_of_different_recipes_are_not_averaged(tmp_path: Path) -> None:
    for recipe, value in (("cbst", 0.25), ("iast", 0.75)):
        folder = make_system_run(tmp_path / "city", recipe)
        settings = json.loads((folder / "recipe.json").read_text())
        rule = PARTS[recipe].changes["rule"]
        write_json(folder / "recipe.json", {**settings, "pseudo_labels": {"rule": rule}})
        add_thresholds(folder, value)
    first, second = build_threshold_tables(read_experiment(tmp_path / "city"))
    assert (first.recipe, first.rows[0].threshold) == ("cbst", Spread(0.25, None, 1))
    assert (second.recipe, second.rows[0].threshold) == ("iast", Spread(0.75, None, 1))
    page = write_report(tmp_path / "city")
    words = page.read_text()
    assert "<h3>CBST</h3>" in words
    assert "largest multiple" in words
    assert "shown are the last ones" in words
    assert {"thresholds_cbst.png", "thresholds_iast-dark.png"} <= {path.name for path in page.parent.iterdir()}


def test_many_recipes_look_different_and_their_legend_fits() -> None:
    lines = recipe_lines(SYSTEMS, LIGHT)
    assert len(set(lines.values())) == len(SYSTEMS)
    names = [title(name) for name in SYSTEMS]
    columns, height = legend_shape(names, 7, 6)
    assert 1 <= columns <= 3
    assert height > legend_shape(names[:2], 7, 6)[1]
