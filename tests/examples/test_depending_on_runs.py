"""What happens where the runs that a recipe depends on are others than it needs, or are gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from examples.gta5_to_cityscapes.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from examples.gta5_to_cityscapes.config import LayoutConfig
from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.gta5_to_cityscapes.experiments.experiment import carry_out, plan
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolderError

from .commands import data, in_one_line, invoke, settings

CPU = torch.device("cpu")
Call = Callable[..., str]


@pytest.fixture
def few(quiet: list[str]) -> list[str]:
    return [*quiet, "schedule.max_steps=2", "anchors.min_pixels=1"]


@pytest.fixture
def call(streets: Folders, few: list[str], tmp_path: Path, in_process: list[str]) -> Call:
    """Train a recipe in a folder of this test; what is said comes back."""

    def train(recipe: str, *more: object) -> str:
        words = ["train", recipe, *data(streets), "--preset", "smoke", "--out", tmp_path, *settings(few)]
        return in_one_line(invoke(*words, *more))

    return train


def test_a_run_that_has_ended_needs_nothing_trained_again(call: Call, tmp_path: Path, in_process: list[str]) -> None:
    call("cag")
    assert in_process == ["source"]
    shutil.rmtree(tmp_path / "source")
    assert "cag, seed 0, step 2" in call("cag")
    assert in_process == ["source"]


def test_a_folder_that_holds_another_run_is_rejected_before_anything_is_trained(
    call: Call, tmp_path: Path, in_process: list[str]
) -> None:
    call("cag")
    shutil.rmtree(tmp_path / "source")
    with pytest.raises(RunFolderError, match=r"anchors\.margin: 0\.5 -> 0\.25"):
        call("cag", "--set", "anchors.margin=0.25")
    assert in_process == ["source"]


def test_a_run_that_has_ended_does_not_pass_for_one_from_another_checkpoint(call: Call, tmp_path: Path) -> None:
    call("cag")
    call("sim")
    source, other = tmp_path / "source" / "seed0", tmp_path / "sim" / "seed0"
    call("cag", "--from", source)
    with pytest.raises(RunFolderError, match=r"data\.first_stage_weights"):
        call("cag", "--from", other)
    shutil.rmtree(tmp_path / "source")
    call("cag", "--from", source)  # it has ended, and what it began with is gone


def test_a_stage_begins_with_its_own_network_only_and_leaves_the_folder_free(call: Call, tmp_path: Path) -> None:
    call("asn")
    with pytest.raises(CheckpointError, match=r"of the network that cag begins with .*'auxiliary': True"):
        call("cag", "--from", tmp_path / "asn" / "seed0")
    assert not (tmp_path / "cag").exists()


def test_labels_of_other_classes_are_rejected(streets: Folders, few: list[str], tmp_path: Path) -> None:
    first, second = plan(["ssl"], [0], "smoke", tmp_path, overrides=few)
    carry_out(first, streets, CPU)
    saved = load_checkpoint(first.run.checkpoint)
    synthia = compose_recipe("source", "smoke", layouts=LayoutConfig(source="synthia"), overrides=few)
    saved["recipe"] = synthia.model_dump(mode="json")
    head = {key: value for key, value in saved["network"].items() if value.ndim and value.shape[0] == 19}
    saved["network"] |= {key: value[:16] for key, value in head.items()}
    save_checkpoint(first.run.checkpoint, saved)
    with pytest.raises(CheckpointError, match=r"expected a network of the classes cityscapes .* one of synthia16"):
        carry_out(second, streets, CPU)
    assert not second.run.path.exists()


def test_a_mean_of_two_models_has_no_checkpoint_and_says_whose_are(
    call: Call, streets: Folders, tmp_path: Path, in_process: list[str]
) -> None:
    call("it+fused")
    assert in_process == ["it", "tt"]
    folder = tmp_path / "it+fused" / "seed0"
    for words in (["evaluate", folder], ["pseudo-label", folder, "--out", tmp_path / "labels"]):
        with pytest.raises(CheckpointError, match="the mean of it and tt, which has no checkpoint"):
            invoke(*words, "--target", streets.target)


def test_labels_do_not_replace_those_of_a_run(call: Call, streets: Folders, tmp_path: Path) -> None:
    call("ssl")
    folder = tmp_path / "ssl" / "seed0"
    before = json.loads((folder / "thresholds.json").read_text())
    words = ["pseudo-label", folder, "--target", streets.target, "--out", folder, "--quantile", "0.1"]
    assert "is a run folder" in in_one_line(invoke(*words, code=2))
    assert json.loads((folder / "thresholds.json").read_text()) == before
