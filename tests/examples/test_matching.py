"""Matching by the labels of a mean teacher: which labels regions have, and when there is a teacher."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import stuffinstance as si
from examples.gta5_to_cityscapes.methods import StepContext
from examples.gta5_to_cityscapes.methods.matching import StuffInstanceAlignment
from examples.gta5_to_cityscapes.recipes import RecipeError, compose_recipe

from .made_steps import made_step

TEACHER = ["matching.labels=teacher", "matching.preset=paper", "matching.agreement=false"]


def taken(name: str, overrides: list[str]) -> tuple[StuffInstanceAlignment, StepContext, dict[str, Tensor]]:
    """Matching after a step over random images, a half of whose target has no pseudo-label."""
    step, context = made_step(compose_recipe(name, "smoke", overrides=overrides))
    context.unlabeled.labels[:, :16] = 255
    record = step([context])
    (method,) = (each for each in step.methods if isinstance(each, StuffInstanceAlignment))
    return method, context, record


def test_only_the_labels_of_a_teacher_need_one() -> None:
    assert set(compose_recipe("sim", "smoke").methods) == {"matching"}
    assert set(compose_recipe("sim", "smoke", overrides=TEACHER).methods) == {"matching", "teacher"}
    assert set(compose_recipe("aa", "smoke", overrides=TEACHER).methods) == {"adversarial"}


@pytest.mark.parametrize("name", ["sim", "sim+ssl"])
def test_regions_are_those_of_the_teachers_labels(name: str, quiet: list[str]) -> None:
    method, context, record = taken(name, [*quiet, *TEACHER])
    features = context.unlabeled.seen.features
    expected = si.resize_labels(context.found["teacher"].labels, tuple(features.shape[2:]))
    if name == "sim+ssl":
        expected = si.merge_pseudo_labels(expected, context.unlabeled.labels)
    assert torch.equal(method.target_labels(context), expected)
    for kind, loss in {"stuff": method.sim.stuff_loss, "instance": method.sim.instance_loss}.items():
        assert float(record[kind]) == pytest.approx(float(loss(features, expected)), rel=1e-5)
    assert record["stuff"] + record["instance"] > 0


def test_labels_below_the_confidence_belong_to_no_region(quiet: list[str]) -> None:
    _, context, _ = taken("sim", [*quiet, *TEACHER])
    middle = float(context.found["teacher"].confidences.median())
    method, context, _ = taken("sim", [*quiet, *TEACHER, f"matching.confidence={middle}"])
    labels, teacher = method.target_labels(context), context.found["teacher"]
    sure = si.resize_labels(teacher.confidences >= middle, tuple(labels.shape[1:]))
    assert torch.equal(labels != 255, sure)
    assert 0 < float(sure.float().mean()) < 1


def test_where_the_teacher_ignores_a_pixel_the_prediction_stays(quiet: list[str]) -> None:
    method, context, _ = taken("sim", [*quiet, *TEACHER, "teacher.ignore_top=0.5"])
    labels, predicted = method.target_labels(context), context.unlabeled.seen.logits.argmax(1)
    half = labels.shape[1] // 2
    assert torch.equal(labels[:, :half], predicted[:, :half])
    assert not torch.equal(labels[:, half:], predicted[:, half:])


def test_a_confidence_without_a_teacher_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"matching\.confidence is that .* labels; set matching\.labels=teacher"):
        compose_recipe("sim", "smoke", overrides=["matching.confidence=0.5"])
