"""Feature distance to a foundation model in a step: both domains, images without color changes, its own projection."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from examples.gta5_to_cityscapes.checkpoint import load_checkpoint
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.methods.foundation_distance import FoundationDistance
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder
from examples.gta5_to_cityscapes.training.loop import train
from examples.gta5_to_cityscapes.training.step import TrainingStep

from .made_steps import made_step
from .tiny_networks import save_transformer

LOSSES = {"foundation_distance_source", "foundation_distance_target"}


def method_of(step: TrainingStep) -> FoundationDistance:
    (method,) = (each for each in step.methods if isinstance(each, FoundationDistance))
    return method


def test_both_domains_learn_to_predict_the_features(quiet: list[str]) -> None:
    step, context = made_step(compose_recipe("ffd", "smoke", overrides=[*quiet, "foundation_distance.lr=0.01"]))
    projection = method_of(step).loss.project.weight
    before = projection.detach().clone()
    records = [step([context]) for _ in range(30)]
    assert set(records[0]) == {"segmentation", *LOSSES}
    assert all(records[-1][name] < 0.8 * records[0][name] for name in LOSSES)
    assert not torch.equal(projection, before)


def test_the_model_sees_images_as_they_were_before_their_colors_changed(quiet: list[str]) -> None:
    step, context = made_step(compose_recipe("ffd", "smoke", overrides=quiet))
    seen: list[Tensor] = []
    method_of(step).foundation.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    context.labeled.plain = torch.full_like(context.labeled.images, 0.25)
    step([context])
    assert seen[0] is context.labeled.plain
    assert seen[1] is context.unlabeled.images


def test_a_model_from_a_folder_and_what_a_checkpoint_holds(streets: Folders, quiet: list[str], tmp_path: Path) -> None:
    folder = save_transformer("dinov2", tmp_path / "dinov2")
    overrides = [*quiet, f"foundation_distance.model={folder}", "schedule.max_steps=2", "schedule.decay_steps=2"]
    recipe = compose_recipe("ffd", "smoke", overrides=overrides)
    method = method_of(made_step(recipe)[0])
    assert (method.loss.feature_dim, method.loss.foundation_dim) == (8, 16)
    assert method.foundation.network.style == "torchvision"
    assert method.foundation(torch.rand(1, 3, 20, 30)).last_stage.shape == (1, 16, 3, 4)
    data = open_training_data(recipe, streets)
    assert "foundation_distance.model" in data.inputs.sets["start_weights"]["weights"]
    run = RunFolder(tmp_path / "run")
    train(recipe, run, data, device=torch.device("cpu"))
    saved = load_checkpoint(run.checkpoint)["foundation_projection"]
    assert sorted(saved) == sorted(method.loss.state_dict())


def test_a_folder_without_a_model_is_named(quiet: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"its folder, or its content by name; there is no .*nowhere/config\.json"):
        made_step(compose_recipe("ffd", "smoke", overrides=[*quiet, f"foundation_distance.model={tmp_path}/nowhere"]))
