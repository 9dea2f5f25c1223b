"""The tables of evidence: from result files to paired means and intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from examples.evidence import SCORES as SCORES_FILE
from examples.evidence import TRACKS, app, gains_of_matching, in_order, interval, means, without_matching
from examples.gta5_to_cityscapes.data import read_classes

SCORES = {
    "source": (30.0, 32.0, 31.0),
    "it": (33.0, 33.0, 36.0),
    "it+sim": (34.0, 35.0, 36.5),
    "target-only": (40.0, 42.0, 41.0),
}


def test_gains_are_paired_by_seed_with_students_interval() -> None:
    gains = pd.Series([1.0, 2.0, 0.5])
    low, high = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert interval(gains) == f"+1.2 ({low:+.1f} to {high:+.1f})"
    assert interval(gains[:1]) == "+1.0 (one seed)"
    by_seed = pd.DataFrame(SCORES)
    assert gains_of_matching(by_seed).to_dict("records") == [
        {"with matching": "it+sim", "without": "it", "seeds": 3, "gain": interval(gains)}
    ]
    by_seed.loc[2, "it"] = float("nan")  # not finished: the seed counts in neither
    assert gains_of_matching(by_seed).loc[0, "seeds"] == 2


@pytest.mark.parametrize(
    ("recipe", "without"),
    [
        ("sim", "source"), ("it+sim", "it"), ("rcon+ssl", "ssl"), ("sim+wmix", "wmix"), ("aa+it", "aa+it"),
        ("aa+it+sim+ssl", "aa+it+sim+ssl"), ("rcs+wmix+ssl", "rcs+wmix+ssl"),
        ("sim+wmix matching.labels=teacher", "wmix"),
    ],
)  # fmt: skip
def test_a_recipe_is_paired_with_the_same_from_the_same_start(recipe: str, without: str) -> None:
    assert without_matching(recipe) == without


def test_recipes_without_a_place_come_last() -> None:
    noted = "sim matching.weight=1"
    assert in_order(["rcs", "sim", "hrda", "ssl", noted, "source"]) == ["source", "sim", noted, "ssl", "hrda", "rcs"]


def test_means_say_how_much_of_the_gap_is_closed() -> None:
    rows = means(pd.DataFrame(SCORES)).set_index("recipe")
    assert rows["mIoU"].to_dict() == {"source": "31.0", "it": "34.0", "target-only": "41.0", "it+sim": "35.2"}
    assert rows["share of the gap"].to_dict() == {"source": "", "it": "30%", "target-only": "", "it+sim": "42%"}


def test_results_are_collected_beside_those_there_are(tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    for seed, miou in ((0, 0.25), (1, 0.5)):
        run = tmp_path / f"runs{seed}" / "city-idd" / "source" / f"seed{seed}"
        run.mkdir(parents=True)
        result = {"recipe": "source", "seed": seed, "miou": miou, "iou": {"sky": miou, "vehicles": None}}
        (run / "result.json").write_text(json.dumps(result))
        words = ["collect", str(tmp_path / f"runs{seed}"), "--scores", str(scores)]
        assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    assert [(row["seed"], row["miou"]) for row in json.loads(scores.read_text())] == [(0, 25.0), (1, 50.0)]
    assert CliRunner().invoke(app, [*words, "--note", "a.b=1"], catch_exceptions=False).exit_code == 0
    assert {row["recipe"] for row in json.loads(scores.read_text())} == {"source", "source a.b=1"}
    shown = CliRunner().invoke(app, ["tables", "--scores", str(scores)], catch_exceptions=False).output
    assert "| source | 37.5 | 25.0, 50.0 |" in shown


@pytest.mark.parametrize("name", TRACKS)
def test_tracks_have_the_class_files_that_they_name(name: str) -> None:
    assert read_classes(TRACKS[name].class_file).names


def test_the_page_shows_the_scores_that_the_repository_holds() -> None:
    shown = CliRunner().invoke(app, ["tables"], catch_exceptions=False).output
    assert shown.strip() in SCORES_FILE.with_suffix(".md").read_text(encoding="utf-8")
