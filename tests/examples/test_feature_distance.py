"""Feature distance of things in a step: to the start weights, on labeled images, whatever has been trained since."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from examples.gta5_to_cityscapes.checkpoint import load_checkpoint
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.methods import Setup
from examples.gta5_to_cityscapes.methods.class_pixels import ClassPixels
from examples.gta5_to_cityscapes.methods.feature_distance import start_weights
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training.loop import train
from examples.gta5_to_cityscapes.training.recipe_network import start_network

from .made_steps import made_step

CPU = torch.device("cpu")


def test_it_is_zero_at_the_start_and_grows_as_things_are_learned_anew(quiet: list[str]) -> None:
    """With group normalization: in training mode the batch's own statistics would be a distance already."""
    recipe = compose_recipe("fd", "smoke", overrides=[*quiet, "network.options.norm=group", "optimizer.lr=0.1"])
    assert not recipe.needs_target
    step, context = made_step(recipe)
    context.labeled.labels.fill_(13)  # all cars
    first = step([context])
    assert set(first) == {"segmentation", "feature_distance"}
    assert first["feature_distance"].item() == pytest.approx(0, abs=1e-5)
    assert step([context])["feature_distance"] > 1e-3
    context.labeled.labels.fill_(0)  # all road, which is stuff
    assert step([context])["feature_distance"] == 0


@pytest.mark.parametrize("network", ["small", "efficientnet_lite"])
def test_the_distance_is_that_of_the_encoders_last_stage(network: str, quiet: list[str]) -> None:
    small = ["network.options.width=8", "network.options.feature_dim=8"]
    changes = [each for each in quiet if network == "small" or each not in small]
    step, context = made_step(compose_recipe("fd", "smoke", overrides=[*changes, f"network.name={network}"]))
    step([context])
    last = context.labeled.seen.last_stage
    assert last.shape[1] == {"small": 8, "efficientnet_lite": 320}[network]
    assert (last is context.labeled.seen.features) == (network == "small")


def test_the_start_weights_are_those_of_the_recipe_and_no_other_draw_changes(quiet: list[str]) -> None:
    recipe = compose_recipe("fd", "smoke", overrides=quiet)
    trained = start_network(recipe, CPU)
    expected = {name: value.clone() for name, value in trained.state_dict().items()}
    torch.nn.init.zeros_(next(trained.parameters()))
    before = torch.get_rng_state()
    frozen = start_weights(Setup(recipe, trained, CPU, ClassPixels(recipe.label_space, CPU))).network
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: torch.equal(value, expected[name]) for name, value in frozen.state_dict().items()} == dict.fromkeys(
        expected, True
    )


def test_a_run_that_goes_on_has_the_start_weights_again_and_saves_none(
    streets: Folders, quiet: list[str], tmp_path: Path
) -> None:
    recipe = compose_recipe("fd", "smoke", overrides=[*quiet, "feature_distance.weight=1"])
    data = lambda: open_training_data(recipe, streets)  # noqa: E731
    with pytest.raises(Stopped):
        train(recipe, RunFolder(tmp_path / "stopped"), data(), device=CPU, stop_after=5)
    saved = load_checkpoint(RunFolder(tmp_path / "stopped").checkpoint)
    assert not [key for key in saved if "distance" in key or "start" in key]
    results = [train(recipe, RunFolder(tmp_path / name), data(), device=CPU) for name in ("stopped", "whole")]
    assert results[0].weights_sha256 == results[1].weights_sha256
