"""What happens where the runs that a recipe depends on are others than it needs, or are gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from examples.gta5_to_cityscapes.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from examples.gta5_to_cityscapes.cli import run_commands
from examples.gta5_to_cityscapes.cli.app import app
from examples.gta5_to_cityscapes.config import LayoutConfig
from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.gta5_to_cityscapes.experiments.experiment import Job, carry_out, plan
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolderError

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")
Call = Callable[..., str]


@pytest.fixture
def settings(quiet: list[str]) -> list[str]:
    return [*quiet, "schedule.max_steps=2", "anchors.min_pixels=1"]


@pytest.fixture
def trained_first(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that `train` carries out before the one that is asked for, in this process."""
    names: list[str] = []

    def here(jobs: Sequence[Job], folders: Folders, device: torch.device, watch: object) -> None:
        for job in jobs:
            names.append(job.recipe.name)
            carry_out(job, folders, device)

    monkeypatch.setattr(run_commands, "run_experiment", here)
    return names


@pytest.fixture
def call(streets: Folders, settings: list[str], tmp_path: Path, trained_first: list[str]) -> Call:
    """Train a recipe in a folder of this test; what is said comes back."""

    def train(recipe: str, *more: str, fails_with: type[Exception] | None = None, code: int = 0) -> str:
        words = ["train", recipe, "--source", str(streets.source), "--target", str(streets.target), "--preset", "smoke"]
        words += ["--out", str(tmp_path), *(word for item in settings for word in ("--set", item)), *more]
        result = CliRunner().invoke(app, words)
        if fails_with is not None:
            assert isinstance(result.exception, fails_with), result.output
            return str(result.exception)
        assert result.exit_code == code, result.output
        return " ".join(result.output.replace("│", " ").split())

    return train


def test_a_run_that_has_ended_needs_nothing_trained_again(call: Call, tmp_path: Path, trained_first: list[str]) -> None:
    call("cag")
    assert trained_first == ["source"]
    shutil.rmtree(tmp_path / "source")
    assert "cag, seed 0, step 2" in call("cag")
    assert trained_first == ["source"]


def test_a_folder_that_holds_another_run_is_rejected_before_anything_is_trained(
    call: Call, tmp_path: Path, trained_first: list[str]
) -> None:
    call("cag")
    shutil.rmtree(tmp_path / "source")
    said = call("cag", "--set", "anchors.margin=0.25", fails_with=RunFolderError)
    assert "anchors.margin: 0.5 -> 0.25" in said
    assert trained_first == ["source"]


def test_a_run_that_has_ended_does_not_pass_for_one_from_another_checkpoint(call: Call, tmp_path: Path) -> None:
    call("cag")
    call("sim")
    source, other = str(tmp_path / "source" / "seed0"), str(tmp_path / "sim" / "seed0")
    call("cag", "--from", source)
    assert "data.first_stage_weights" in call("cag", "--from", other, fails_with=RunFolderError)
    shutil.rmtree(tmp_path / "source")
    call("cag", "--from", source)  # it has ended, and what it began with is gone


def test_a_stage_begins_with_its_own_network_only_and_leaves_the_folder_free(call: Call, tmp_path: Path) -> None:
    call("asn")
    said = call("cag", "--from", str(tmp_path / "asn" / "seed0"), fails_with=CheckpointError)
    assert "expected weights of the network that cag begins with" in said
    assert "'auxiliary': True" in said
    assert not (tmp_path / "cag").exists()


def test_labels_of_other_classes_are_rejected(
    streets: Folders, settings: list[str], tmp_path: Path, trained_first: list[str]
) -> None:
    first, second = plan(["ssl"], [0], "smoke", tmp_path, overrides=settings)
    carry_out(first, streets, CPU)
    saved = load_checkpoint(first.run.checkpoint)
    synthia = compose_recipe("source", "smoke", layouts=LayoutConfig(source="synthia"), overrides=settings)
    saved["recipe"] = synthia.model_dump(mode="json")
    head = {key: value for key, value in saved["network"].items() if value.ndim and value.shape[0] == 19}
    saved["network"] |= {key: value[:16] for key, value in head.items()}
    save_checkpoint(first.run.checkpoint, saved)
    with pytest.raises(CheckpointError, match=r"expected a network of the classes cityscapes .* one of synthia16"):
        carry_out(second, streets, CPU)
    assert not second.run.path.exists()


def test_a_mean_of_two_models_has_no_checkpoint_and_says_whose_are(
    call: Call, streets: Folders, tmp_path: Path, trained_first: list[str]
) -> None:
    call("it+fused")
    assert trained_first == ["it", "tt"]
    folder = str(tmp_path / "it+fused" / "seed0")
    for words in (["evaluate", folder], ["pseudo-label", folder, "--out", str(tmp_path / "labels")]):
        result = CliRunner().invoke(app, [*words, "--target", str(streets.target)])
        assert isinstance(result.exception, CheckpointError)
        assert "the mean of it and tt, which has no checkpoint" in str(result.exception)


def test_labels_do_not_replace_those_of_a_run(call: Call, streets: Folders, tmp_path: Path) -> None:
    call("ssl")
    folder = tmp_path / "ssl" / "seed0"
    before = json.loads((folder / "thresholds.json").read_text())
    words = ["pseudo-label", str(folder), "--target", str(streets.target), "--out", str(folder), "--quantile", "0.1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "is a run folder" in " ".join(result.output.replace("│", " ").split())
    assert json.loads((folder / "thresholds.json").read_text()) == before
