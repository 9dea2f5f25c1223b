"""The teacher of the pipeline: which of its labels count, the views they come from, and that a stopped run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import stuffinstance as si
from examples.gta5_to_cityscapes.checkpoint import load_checkpoint
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.methods import StepContext
from examples.gta5_to_cityscapes.methods.mean_teacher import RunningMedians, TargetTeacher, TeacherLabels
from examples.gta5_to_cityscapes.recipes import RecipeError, compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training.loop import train
from examples.gta5_to_cityscapes.training.recipe_network import start_network
from examples.gta5_to_cityscapes.training.step import TrainingStep

from .made_steps import made_step
from .test_checkpoints import assert_same

CPU = torch.device("cpu")
IGNORE = 255
SPACE = si.LabelSpace(names=("road", "sky", "car"), stuff=(0, 1), things=(2,))


def teacher_and_step(quiet: list[str], *settings: str) -> tuple[TargetTeacher, StepContext]:
    step, context = made_step(compose_recipe("mask", "smoke", overrides=[*quiet, *settings]))
    (teacher,) = (method for method in step.methods if isinstance(method, TargetTeacher))
    return teacher, context


def labels_of(teacher: TargetTeacher, context: StepContext) -> TeacherLabels:
    teacher.before(context)
    found: TeacherLabels = context.found["teacher"]
    return found


def median(confidences: list[float]) -> float:
    """The threshold of a class from all its confidences: SIM's upper median, at most 0.9."""
    return min(sorted(confidences)[min(round(len(confidences) / 2), len(confidences) - 1)], 0.9) if confidences else 0.0


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_medians_are_those_of_the_last_windows(window: int) -> None:
    medians = RunningMedians(SPACE, window)
    generator = torch.Generator().manual_seed(window)
    history: list[list[tuple[float, int]]] = []
    for step in range(7):
        first = max(0, ((step - 1) // window - 1) * window)
        thresholds = [
            median([confidence for each in history[first:] for confidence, label in each if label == k])
            for k in range(3)
        ]
        assert medians.thresholds.tolist() == pytest.approx(thresholds, abs=1 / 4096)
        history.append([])
        for _ in range(2):  # the parts of a step are all filtered by the same thresholds
            # In multiples of a bin, so that the counts are exact.
            confidences = torch.randint(1000, 4097, (1, 4, 5), generator=generator) / 4096
            labels = torch.randint(0, 3, (1, 4, 5), generator=generator)
            if step == 1:
                labels[labels == 2] = 0
            kept = medians.filter(step, confidences, labels)
            pixels = list(zip(confidences.flatten().tolist(), labels.flatten().tolist(), strict=True))
            history[step] += pixels
            expected = [label if confidence >= thresholds[label] else IGNORE for confidence, label in pixels]
            assert kept.flatten().tolist() == expected
        medians.end_step()


def test_a_step_that_overflowed_leaves_no_counts() -> None:
    once, again = RunningMedians(SPACE, 5), RunningMedians(SPACE, 5)
    confidences, labels = torch.rand(1, 4, 5), torch.randint(0, 3, (1, 4, 5))
    again.filter(0, confidences.square(), labels)  # no end of the step
    for medians in (once, again):
        medians.filter(1, confidences, labels)
        medians.end_step()
    assert_same(once.state_dict(), again.state_dict(), "medians")


def test_labels_above_their_medians_count_fully(quiet: list[str]) -> None:
    """One image twice: the second time half of each class is below the median of the first."""
    teacher, context = teacher_and_step(quiet, "teacher.filter=median")
    whole = labels_of(teacher, context)
    assert not (whole.labels == IGNORE).any()
    teacher.after()
    context.step = 1
    kept = labels_of(teacher, context)
    ignored = kept.labels == IGNORE
    assert torch.equal(kept.labels[~ignored], whole.labels[~ignored])
    assert kept.weights.tolist() == [1, 1]
    for k in whole.labels.unique():
        of_class = whole.labels == k
        assert int((ignored & of_class).sum()) == pytest.approx(int(of_class.sum()) / 2, abs=0.02 * of_class.numel())
    plain = labels_of(teacher_and_step(quiet, "teacher.filter=fraction")[0], context)
    assert not (plain.labels == IGNORE).any()
    assert (plain.weights < 1).all()


def test_rows_that_would_all_be_ignored_are_an_error() -> None:
    with pytest.raises(RecipeError, match=r"teacher\.ignore_top \+ teacher\.ignore_bottom must be below 1"):
        compose_recipe("mix", "smoke", overrides=["teacher.ignore_top=0.7", "teacher.ignore_bottom=0.3"])


def test_statistics_that_the_network_keeps_are_the_teachers_too(quiet: list[str]) -> None:
    recipe = compose_recipe("mix", "smoke", overrides=[*quiet, "teacher.batch_norm=batch"])
    network = start_network(recipe, CPU).train()
    frozen, *others = (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    frozen.eval()
    (teacher,) = (each for each in TrainingStep(recipe, network, CPU).methods if isinstance(each, TargetTeacher))
    assert len(teacher.by_batch) == len(others) > 0


def test_mirrored_labels_do_not_depend_on_the_side(quiet: list[str]) -> None:
    teacher, context = teacher_and_step(quiet, "teacher.mirror=true")
    images = context.unlabeled.images

    def probabilities(images: Tensor) -> Tensor:
        return context.unlabeled.at_scale(teacher.teacher(images).logits).softmax(1)

    expected = (probabilities(images) + probabilities(images.flip(-1)).flip(-1)) / 2
    assert torch.equal(labels_of(teacher, context).labels, expected.argmax(1))
    context.unlabeled.images = images.flip(-1)
    assert torch.equal(labels_of(teacher, context).labels, expected.flip(-1).argmax(1))
    assert not torch.equal(expected.argmax(1), probabilities(images).argmax(1))


def test_medians_and_mirror_survive_a_stop(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    settings = ["teacher.filter=median", "teacher.mirror=true", "teacher.window=2"]
    lengths = ["schedule.max_steps=5", "schedule.decay_steps=5"]
    recipe = compose_recipe("mix+mask", "smoke", overrides=[*quiet, *settings, *lengths])
    data = open_training_data(recipe, streets)
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    result = train(recipe, whole, data, device=CPU)
    with pytest.raises(Stopped):
        train(recipe, cut, data, device=CPU, stop_after=3)
    assert train(recipe, cut, data, device=CPU).weights_sha256 == result.weights_sha256
    saved = [load_checkpoint(run.checkpoint)["teacher_medians"] for run in (whole, cut)]
    assert_same(*saved, "teacher_medians")
    assert saved[0]["recent"].sum() > 0
    assert (saved[0]["thresholds"] > 0).any()


@pytest.mark.parametrize(("top", "bottom"), [(0.25, 0), (0, 0.1), (0.029, 0.234), (0.5, 0.4)])
def test_labels_of_the_outer_rows_are_ignored(top: float, bottom: float, quiet: list[str]) -> None:
    teacher, context = teacher_and_step(quiet, f"teacher.ignore_top={top}", f"teacher.ignore_bottom={bottom}")
    found, whole = (labels_of(each, context) for each in (teacher, teacher_and_step(quiet)[0]))
    kept = slice(round(32 * top), 32 - round(32 * bottom))
    expected = torch.full_like(whole.labels, IGNORE)
    expected[:, kept] = whole.labels[:, kept]
    assert torch.equal(found.labels, expected)
    assert torch.equal(found.weights, whole.weights)


def test_ignored_rows_do_not_move_the_medians(quiet: list[str]) -> None:
    teacher, context = teacher_and_step(quiet, "teacher.filter=median", "teacher.ignore_bottom=0.5")
    labels_of(teacher, context)
    teacher.after()
    assert teacher.medians is not None
    assert int(teacher.medians.recent.sum()) == 2 * 16 * 64


def test_a_teacher_without_a_ramp_begins_at_alpha(quiet: list[str]) -> None:
    step, context = made_step(compose_recipe("mask", "smoke", overrides=[*quiet, "teacher.ramp=false"]))
    (teacher,) = (method for method in step.methods if isinstance(method, TargetTeacher))
    start = next(iter(step.network.parameters())).detach().clone()
    step([context])
    now, followed = (next(iter(each.parameters())).detach() for each in (step.network, teacher.teacher))
    torch.testing.assert_close(followed, start.lerp(now, 1 - teacher.settings.alpha))
    assert not torch.equal(now, start)
