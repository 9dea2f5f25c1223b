"""A method is one class: defining it gives it settings, a word in recipe names, losses in a step and report titles."""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from examples.gta5_to_cityscapes.cli.commands import parts as print_parts
from examples.gta5_to_cityscapes.config import Weight
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.methods import (
    Loss,
    Method,
    MethodConfig,
    Part,
    Setup,
    StepContext,
    loss_titles,
    method,
    registered_methods,
)
from examples.gta5_to_cityscapes.recipes import RecipeError, compose_recipe, preset_named
from examples.gta5_to_cityscapes.report import write_report
from examples.gta5_to_cityscapes.report.results import read_experiment, title
from examples.gta5_to_cityscapes.run_dir import RunFolder
from examples.gta5_to_cityscapes.training.loop import train

from .made_steps import made_step


class ToyConfig(MethodConfig):
    """Weight of the toy loss."""

    weight: Weight = 0.5


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[Method]:
    """A method that exists during one test."""
    monkeypatch.setattr(method, "_REGISTERED", dict(method._REGISTERED))

    class Toy(Method):
        group, config, rank = "toy", ToyConfig, 35
        parts = (Part("toy", "Toy", "square of the logits"),)
        presets = MappingProxyType({"smoke": ToyConfig(weight=0.25)})
        losses = MappingProxyType({"toy": "Toy: mean square"})
        needs_forward = True

        def __init__(self, config: ToyConfig, setup: Setup) -> None:
            self.weight = config.weight

        def on_target(self, context: StepContext) -> list[Loss]:
            return [Loss("toy", context.unlabeled.logits().square().mean(), self.weight)]

    return Toy


def test_a_method_is_gone_with_its_registry() -> None:
    assert "toy" not in registered_methods()
    with pytest.raises(RecipeError, match="sum of aa, "):
        compose_recipe("toy")


@pytest.mark.usefixtures("toy")
def test_defining_a_method_is_all_that_training_and_report_need(
    streets: Folders, quiet: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preset_named("smoke").methods["toy"] == ToyConfig(weight=0.25)
    overrides = [*quiet, "toy.weight=0.125", *(f"schedule.{name}=2" for name in ("max_steps", "evaluate_every"))]
    recipe = compose_recipe("toy+minent", "smoke", overrides=[*overrides, "schedule.log_every=1"])
    assert recipe.name == "minent+toy"  # by rank
    assert recipe.methods["toy"] == ToyConfig(weight=0.125)
    assert recipe.needs_target

    run = RunFolder(tmp_path / recipe.name / "seed0")
    result = train(recipe, run, open_training_data(recipe, streets), device=torch.device("cpu"))
    assert result.step == 2
    (logged,) = read_experiment(tmp_path).runs
    assert (logged.training["loss/toy"] > 0).all()
    assert logged.setting("toy", "weight") == 0.125

    assert loss_titles()["toy"] == "Toy: mean square"
    assert title(recipe.name) == "MinEnt + Toy"
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert re.search(r"Line chart [^.]*Toy: mean square, with a line for each of MinEnt \+ Toy", page)
    print_parts()
    assert "square of the logits" in capsys.readouterr().out


@pytest.mark.usefixtures("toy")
def test_recipes_of_other_methods_do_not_depend_on_a_new_one() -> None:
    assert "toy" not in compose_recipe("aa+it+sim").methods


def test_losses_that_begin_after_the_last_step_are_named(caplog: pytest.LogCaptureFixture) -> None:
    for first in (11, 12):
        made_step(compose_recipe("pcon", "smoke", overrides=[f"prototype_contrast.start_step={first}"]))
    assert caplog.messages == ["prototype_contrast.start_step=12: its losses never begin in a run of 12 steps."]
