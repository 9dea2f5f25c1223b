"""Contrast with classes in the pipeline: what it is compared with, which labels count, what is trained and kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import stuffinstance as si
from examples.gta5_to_cityscapes.checkpoint import load_checkpoint
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.methods import StepContext
from examples.gta5_to_cityscapes.methods.class_contrast import ClassContrast
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training.loop import train
from examples.gta5_to_cityscapes.training.step import TrainingStep

from .made_steps import made_step

CPU = torch.device("cpu")
GROUPS = {"dcon": "distribution_contrast", "pcon": "prototype_contrast"}
pytestmark = pytest.mark.usefixtures("one_thread")
both = pytest.mark.parametrize("name", GROUPS)


def contrast_step(name: str, quiet: list[str], *overrides: str) -> tuple[TrainingStep, StepContext, ClassContrast]:
    step, context = made_step(compose_recipe(name, "smoke", overrides=[*quiet, *overrides]))
    for domain in (context.labeled, context.unlabeled):  # cells of one class
        cells = domain.labels[:, ::8, ::8] % 3
        domain.labels = cells.repeat_interleave(8, 1).repeat_interleave(8, 2)
    (method,) = (each for each in step.methods if isinstance(each, ClassContrast))
    return step, context, method


@both
def test_a_step_is_compared_with_the_steps_before(name: str, quiet: list[str]) -> None:
    step, context, method = contrast_step(name, quiet)
    source, target = f"{GROUPS[name]}_source", f"{GROUPS[name]}_target"
    first = step([context])
    assert set(first) == {"segmentation", source, target}
    assert first[source] == first[target] == 0
    counted = method.latest.count.clone()
    assert int((counted > 0).sum()) == 3
    second = step([context])
    assert second[source] != 0 != second[target]
    assert all(math.isfinite(float(value)) for value in second.values())
    assert torch.equal(method.used.count, counted)


@both
def test_losses_begin_at_their_step_and_statistics_at_the_first(name: str, quiet: list[str]) -> None:
    step, context, method = contrast_step(name, quiet, f"{GROUPS[name]}.start_step=1")
    assert set(step([context])) == {"segmentation"}
    assert bool(method.latest.filled.any())
    context.step = 1
    assert set(step([context])) == {"segmentation", f"{GROUPS[name]}_source", f"{GROUPS[name]}_target"}


@both
@pytest.mark.parametrize("dim", [0, 6])
def test_statistics_are_of_projected_source_features(name: str, dim: int, quiet: list[str]) -> None:
    step, context, method = contrast_step(name, quiet, f"{GROUPS[name]}.projection_dim={dim}")
    step.network.eval()
    features, labels = step.network(context.labeled.images).features, context.labeled.labels
    expected = method.statistics(si.CITYSCAPES, dim or step.network.feature_dim)
    expected.update(method.projection(features), labels)
    step([context])
    assert torch.equal(method.latest.count, expected.count)
    for found, buffer in zip(method.latest.buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(found, buffer)
    assert (f"{GROUPS[name]}_projection" in step.state()) == (dim > 0)
    before = [each.detach().clone() for each in method.projection.parameters()]
    step([context])
    assert len(before) == (4 if dim else 0)
    assert all(not torch.equal(now, then) for now, then in zip(method.projection.parameters(), before, strict=True))


@both
def test_target_pixels_have_pseudo_labels_where_there_are_some_and_the_teachers_elsewhere(
    name: str, quiet: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, context, method = contrast_step(name, quiet)
    labels = context.unlabeled.labels
    labels[:, :16] = 255
    seen: list[Tensor] = []
    forward = method.loss.forward

    def record(features: Tensor, labels: Tensor) -> Any:
        seen.append(labels)
        return forward(features, labels)

    monkeypatch.setattr(method.loss, "forward", record)
    step([context])
    assert torch.equal(seen[0], context.labeled.labels)
    assert torch.equal(seen[1][:, 16:], labels[:, 16:])
    assert torch.equal(seen[1][:, :16], context.found["teacher"].labels[:, :16])


def test_statistics_and_projections_survive_a_stop(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    few = [*quiet, "schedule.max_steps=4", "schedule.decay_steps=4"]
    recipe = compose_recipe("dcon+pcon", "smoke", overrides=few)
    data = open_training_data(recipe, streets)
    whole = train(recipe, RunFolder(tmp_path / "whole"), data, device=CPU)
    with pytest.raises(Stopped):
        train(recipe, RunFolder(tmp_path / "cut"), data, device=CPU, stop_after=2)
    resumed = train(recipe, RunFolder(tmp_path / "cut"), data, device=CPU)
    assert resumed.weights_sha256 == whole.weights_sha256
    ends = [load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "cut")]
    for group in GROUPS.values():
        for name in (group, f"{group}_projection"):
            assert all(torch.equal(ends[0][name][key], ends[1][name][key]) for key in ends[0][name])
        assert ends[0][group]["count"].any()
