"""Half precision: a step that overflows leaves everything as it was, and a run goes on past it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.methods import Domain, StepContext
from examples.gta5_to_cityscapes.methods.matching import StuffInstanceAlignment
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder
from examples.gta5_to_cityscapes.training import loop
from examples.gta5_to_cityscapes.training.loop import train
from examples.gta5_to_cityscapes.training.step import TrainingStep

from .made_steps import CPU, made_step


def state_of(step: TrainingStep) -> dict[str, Tensor]:
    """Parameters and buffers of all that a step changes, copied."""
    modules = {"network": step.network, **{n: m for method in step.methods for n, m in method.modules().items()}}
    return {f"{n}.{key}": value.clone() for n, m in modules.items() for key, value in m.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def fresh(context: StepContext) -> StepContext:
    """The same images, not seen yet."""
    labeled, target = context.labeled, context.unlabeled
    return StepContext(0, Domain(labeled.images, labeled.labels), Domain(target.images, target.labels))


@pytest.fixture
def banked(quiet: list[str]) -> tuple[TrainingStep, StepContext]:
    """A step in fp16 whose source regions reach the banks."""
    options = [*quiet, "precision=float16", "matching.agreement=false", "teacher.alpha=0.5", "teacher.filter=fraction"]
    step, context = made_step(compose_recipe("aa+sim+mask", "smoke", overrides=options))
    with torch.no_grad():
        step.network.head.branches[0].bias[0] = 10.0  # everything is predicted as road, and is road
    context.labeled.labels.zero_()
    return step, context


def test_a_part_that_begins_later_needs_no_gradient_before(quiet: list[str]) -> None:
    options = [*quiet, "precision=float16", "distribution_contrast.start_step=3"]
    step, context = made_step(compose_recipe("dcon", "smoke", overrides=options))
    for _ in range(8):  # past the first scales, which overflow
        record = step([fresh(context)])
    assert step.skipped == 0
    assert record.keys() == {"segmentation"}


def overflowing(step: TrainingStep) -> set[str]:
    """The optimizers whose gradients are not finite."""
    return {
        name
        for name, optimizer in step.optimizers.items()
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
    }


# At the smaller scale the discriminator alone overflows: the network must not train on without it.
@pytest.mark.parametrize(("exponent", "expected"), [(60, {"network", "discriminator"}), (20, {"discriminator"})])
def test_a_step_that_overflows_changes_nothing_but_the_scale(
    banked: tuple[TrainingStep, StepContext], exponent: int, expected: set[str]
) -> None:
    step, context = banked
    before = state_of(step)
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**exponent)
    for skipped in (1, 2):
        step([fresh(context)])
        assert overflowing(step) == expected
        assert step.skipped == skipped
        assert step.scaler.get_scale() == 2.0 ** (exponent - skipped)
        assert changed(before, state_of(step)) == set()

    step.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    step([fresh(context)])
    assert step.skipped == 0
    moved = changed(before, state_of(step))
    assert {"sim.stuff_bank.written", "sim.stuff_bank.features", "teacher.steps"} <= moved
    assert any(name.endswith("running_mean") for name in moved)
    assert any(name.startswith("discriminator.") for name in moved)


def test_bank_rows_of_half_precision_are_float32_means(banked: tuple[TrainingStep, StepContext]) -> None:
    """The features are fp16; their mean is summed in float32 and kept so."""
    step, context = banked
    step.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    step([context])
    (bank,) = (method.sim.stuff_bank for method in step.methods if isinstance(method, StuffInstanceAlignment))
    assert bank.features.dtype == torch.float32
    seen = context.labeled.seen.features
    assert seen.dtype == torch.float16
    torch.testing.assert_close(bank.features[0, 0], seen[0].float().mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_a_run_in_fp16_goes_on_past_overflows_and_over_an_interruption(
    streets: Folders, tmp_path: Path, quiet: list[str]
) -> None:
    options = [*quiet, "precision=float16", "schedule.save_every=3", "schedule.log_every=1", "schedule.max_steps=6"]
    recipe = compose_recipe("aa+sim", "smoke", overrides=options)
    whole = train(recipe, RunFolder(tmp_path / "whole"), open_training_data(recipe, streets), device=CPU)
    run = RunFolder(tmp_path / "cut")
    with pytest.raises(loop.Stopped):
        train(recipe, run, open_training_data(recipe, streets), device=CPU, stop_after=4)
    again = train(recipe, run, open_training_data(recipe, streets), device=CPU)
    assert again.weights_sha256 == whole.weights_sha256
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert all(torch.isfinite(torch.tensor(line["loss/segmentation"])) for line in lines if line["kind"] == "train")


@pytest.mark.parametrize("value", [1.0, float("inf")])
def test_overflow_without_end_ends_the_run(
    streets: Folders, tmp_path: Path, quiet: list[str], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """Losses are often finite where gradients are not; and an interruption does not start the count again."""
    monkeypatch.setattr(loop, "MAX_SKIPPED", 4)
    options = [*quiet, "precision=float16", "schedule.log_every=100", "schedule.evaluate_every=12"]
    recipe = compose_recipe("source", "smoke", overrides=options)

    def overflow(logits: Tensor, *rest: object) -> Tensor:
        ended = logits.float().sum() * float("inf")
        return ended - ended.detach() + value if value == float("inf") else _Finite.apply(logits)

    monkeypatch.setattr("examples.gta5_to_cityscapes.methods.segmentation.cross_entropy", overflow)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(loop.Stopped):
        train(recipe, run, open_training_data(recipe, streets), device=CPU, stop_after=2)
    with pytest.raises(FloatingPointError, match=r"step 4: the last 4 steps were skipped, .* overflow in fp16"):
        train(recipe, run, open_training_data(recipe, streets), device=CPU)
    assert run.result() is None


class _Finite(torch.autograd.Function):
    """1, with a gradient that is not finite."""

    @staticmethod
    def forward(context: Any, logits: Tensor) -> Tensor:
        context.save_for_backward(logits)
        return torch.ones(())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return torch.full_like(context.saved_tensors[0], float("inf"))
