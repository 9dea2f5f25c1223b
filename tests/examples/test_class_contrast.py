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
from examples.gta5_to_cityscapes.methods import Domain, StepContext
from examples.gta5_to_cityscapes.methods.class_contrast import ClassContrast
from examples.gta5_to_cityscapes.methods.mean_teacher import TEACHER, TargetTeacher, TeacherLabels
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training.loop import train
from examples.gta5_to_cityscapes.training.step import TrainingStep

from .commands import data, invoke, settings
from .made_steps import made_step

CPU = torch.device("cpu")
GROUPS = {"dcon": "distribution_contrast", "pcon": "prototype_contrast"}
SINKHORN = "prototype_contrast.labels=sinkhorn"
both = pytest.mark.parametrize("name", GROUPS)


def contrast_step(name: str, quiet: list[str], *overrides: str) -> tuple[TrainingStep, StepContext, ClassContrast]:
    step, context = made_step(compose_recipe(name, "smoke", overrides=[*quiet, *overrides]))
    for domain in (context.labeled, context.unlabeled):  # cells of one class
        cells = domain.labels[:, ::8, ::8] % 3
        domain.labels = cells.repeat_interleave(8, 1).repeat_interleave(8, 2)
    (method,) = (each for each in step.methods if isinstance(each, ClassContrast))
    return step, context, method


def recorded(method: ClassContrast, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Features and labels of each call of the loss: those of the source, then those of the target."""
    seen: list[tuple[Tensor, Tensor]] = []
    forward = method.loss.forward

    def record(features: Tensor, labels: Tensor) -> Any:
        seen.append((features.detach(), labels))
        return forward(features, labels)

    monkeypatch.setattr(method.loss, "forward", record)
    return seen


def halves(context: StepContext) -> list[StepContext]:
    """The step in two parts of one image of each domain."""
    return [
        StepContext(context.step, *(Domain(each.images[i : i + 1], each.labels[i : i + 1]) for each in domains))
        for domains in [(context.labeled, context.unlabeled)]
        for i in range(2)
    ]


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
    seen = recorded(method, monkeypatch)
    step([context])
    (_, of_source), (_, of_target) = seen
    assert torch.equal(of_source, context.labeled.labels)
    assert torch.equal(of_target[:, 16:], labels[:, 16:])
    assert torch.equal(of_target[:, :16], context.found["teacher"].labels[:, :16])


def test_labels_by_transport_are_those_of_each_image_alone(quiet: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the library; class 2 has no anchor. Pseudo-labels stay."""
    step, context, method = contrast_step("pcon", quiet, SINKHORN)
    context.labeled.labels[context.labeled.labels == 2] = 255
    step([context])
    pseudo = context.unlabeled.labels
    pseudo[:, :16] = 255
    before, seen = TargetTeacher.before, recorded(method, monkeypatch)

    def label(self: TargetTeacher, context: StepContext) -> None:
        before(self, context)
        labels = torch.randint(0, 4, (2, 32, 64), generator=torch.Generator().manual_seed(2)) // 2
        labels[0, :, :50], labels[1, :, :20], labels[1, 16:, 20:] = 1, 2, 255
        context.found[TEACHER] = context.found[TEACHER]._replace(labels=labels)

    monkeypatch.setattr(TargetTeacher, "before", label)
    losses = step([context])
    assert losses["prototype_contrast_target"] > 0
    assert losses["prototype_contrast_target"].isfinite()
    _, (features, found) = seen
    anchors = torch.nn.functional.normalize(method.used.anchors[:2])  # type: ignore[union-attr]
    for image in range(2):
        cosines = torch.einsum("kd,dhw->khw", anchors, torch.nn.functional.normalize(features[image], dim=0))
        counts = torch.stack([(context.found[TEACHER].labels[image] == k).sum() for k in range(2)])
        expected = si.SinkhornLabels()(cosines[None], counts.float()).argmax(1)[0]
        assert torch.equal(found[image, :2], expected[:2])
        assert torch.equal(found[image, 2:], pseudo[image, ::8, ::8][2:])
        assert not torch.equal(expected[:2], context.found[TEACHER].labels[image, ::8, ::8][:2])


def test_labels_by_transport_have_the_fractions_of_the_teachers(quiet: list[str]) -> None:
    """All cells are nearer to anchor 0, the last ones least; a quarter or half of the teacher's labels are class 1."""
    _, context, method = contrast_step("pcon", quiet, SINKHORN)
    anchors = torch.eye(8).view(1, 8, 1, 8)[..., :2]
    method.used.update(anchors, torch.tensor([[[0, 1]]]))
    share = torch.linspace(0, 0.45, 32).view(1, 1, 4, 8)
    features = ((1 - share) * anchors[..., :1] + share * anchors[..., 1:]).repeat(2, 1, 1, 1)
    labels = torch.zeros(2, 4, 8, dtype=torch.int64)
    labels[0, 0], labels[1, :2] = 1, 1  # the teacher's are elsewhere
    context.found[TEACHER] = TeacherLabels(labels, torch.ones(2), torch.ones(2, 4, 8))
    expected = torch.zeros(2, 4, 8, dtype=torch.int64)
    expected[0, 3:], expected[1, 2:] = 1, 1
    found = method.predicted(context, features)
    assert int((found != expected).sum()) <= 6  # three rounds, and the class of the largest part
    assert (found.flatten(1).diff() >= 0).all()


def test_an_image_without_labels_of_the_teacher_has_none_by_transport(quiet: list[str]) -> None:
    step, context, method = contrast_step("pcon", quiet, SINKHORN)
    first = step([context])  # no class has an anchor yet
    assert first["prototype_contrast_target"] == 0
    method.before(context)
    features = torch.randn(2, 8, 4, 8, requires_grad=True)
    features.data[1, :, 0, 0] = torch.nan
    context.found[TEACHER].labels[0] = 255
    context.found[TEACHER].labels[1] = 1
    found = method.predicted(context, features)
    assert (found[0] == 255).all()
    assert found[1, 0, 0] == 255
    assert (found[1].flatten()[1:] == 1).all()


def test_transport_does_not_depend_on_the_parts_of_a_step(quiet: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found, losses = [], []
    for cut in (False, True):
        step, context, method = contrast_step("pcon", quiet, SINKHORN, "network.options.norm=group")
        step([context])
        seen = recorded(method, monkeypatch)
        context.unlabeled.labels.fill_(255)
        losses.append(step(halves(context) if cut else [context])["prototype_contrast_target"])
        found.append(torch.cat([labels for _, labels in seen if labels.shape[1:] == (4, 8)]))
    assert torch.equal(*found)
    torch.testing.assert_close(*losses)


def test_a_command_trains_with_labels_by_transport(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    few = [*quiet, "schedule.max_steps=3", SINKHORN, "precision=bfloat16"]
    invoke("train", "pcon", *data(streets), "--preset", "smoke", "--device", "cpu", "--out", tmp_path, *settings(few))
    run = RunFolder(tmp_path / "pcon" / "seed0")
    assert run.result() is not None
    assert "prototype_contrast_target" in run.metrics.read_text(encoding="utf-8")


def test_statistics_and_projections_survive_a_stop(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    few = [*quiet, "schedule.max_steps=4", "schedule.decay_steps=4", SINKHORN]
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
