"""The loop: order of a step, what a recipe computes, and the files that a run leaves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.gta5_to_cityscapes.checkpoint import load_checkpoint
from examples.gta5_to_cityscapes.config import OptimizerConfig
from examples.gta5_to_cityscapes.data.style_transfer import BatchStyleTransfer
from examples.gta5_to_cityscapes.data.training_data import Folders, StepImages, open_training_data
from examples.gta5_to_cityscapes.experiments.experiment import carry_out, plan
from examples.gta5_to_cityscapes.methods import StepContext
from examples.gta5_to_cityscapes.methods.matching import StuffInstanceAlignment
from examples.gta5_to_cityscapes.methods.output_adversarial import OutputAlignment
from examples.gta5_to_cityscapes.methods.segmentation import cross_entropy
from examples.gta5_to_cityscapes.methods.style_transfer import StyleTransferConfig
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder, RunFolderError
from examples.gta5_to_cityscapes.training.loop import train
from examples.gta5_to_cityscapes.training.recipe_network import start_network
from examples.gta5_to_cityscapes.training.step import TrainingStep, network_optimizer

from .made_steps import made_step

CPU = torch.device("cpu")


def test_a_step_keeps_the_published_order(quiet: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    step, context = made_step(compose_recipe("aa+sim", "smoke", overrides=quiet))
    matching, alignment = step.methods[1], step.methods[2]
    assert isinstance(matching, StuffInstanceAlignment)
    assert isinstance(alignment, OutputAlignment)
    events: list[str] = []

    def noted(name: str, function):  # type: ignore[no-untyped-def]
        def call(*args, **kwargs):  # type: ignore[no-untyped-def]
            events.append(name)
            return function(*args, **kwargs)

        return call

    domains = {context.labeled.images.shape[-1]: "source", context.unlabeled.images.shape[-1]: "target"}
    step.network.register_forward_pre_hook(lambda _, args: events.append(f"{domains[args[0].shape[-1]]} forward"))
    monkeypatch.setattr(matching.sim, "update", noted("banks", matching.sim.update))
    matching.sim.register_forward_pre_hook(lambda *_: events.append("matching"))
    (level,) = alignment.levels
    monkeypatch.setattr(level.loss, "generator_loss", noted("adversarial", level.loss.generator_loss))
    monkeypatch.setattr(level.loss, "discriminator_loss", noted("discriminator", level.loss.discriminator_loss))
    monkeypatch.setattr(torch.Tensor, "backward", noted("backward", torch.Tensor.backward))
    for name, optimizer in step.optimizers.items():
        monkeypatch.setattr(optimizer, "step", noted(f"{name} steps", optimizer.step))
    step([context])
    assert events == [
        "source forward",
        "banks",
        "backward",
        "target forward",
        "matching",
        "adversarial",
        "backward",
        "discriminator",
        "backward",
        "network steps",
        "discriminator steps",
    ]


def test_matching_sees_the_rows_of_its_own_step(quiet: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    step, context = made_step(compose_recipe("sim", "smoke", overrides=[*quiet, "matching.agreement=false"]))
    matching = step.methods[1]
    assert isinstance(matching, StuffInstanceAlignment)
    seen: list[int] = []
    matching.sim.register_forward_pre_hook(lambda *_: seen.append(int(matching.sim.stuff_bank.written.sum())))
    # Every pixel is right, so every class of the source becomes a row.
    context.labeled.labels.zero_()
    bias = step.network.head.branches[0].bias
    with torch.no_grad():
        bias[0] = 100.0
    step([context])
    assert seen == [len(context.labeled.images)]


def test_fooling_the_discriminator_does_not_train_it(quiet: list[str]) -> None:
    step, context = made_step(compose_recipe("aa", "smoke", overrides=[*quiet, "adversarial.weight=1e6"]))
    alignment = step.methods[1]
    assert isinstance(alignment, OutputAlignment)
    for domain in (context.labeled, context.unlabeled):
        domain.output = step.network(domain.images)
    (level,) = alignment.levels
    (loss,) = alignment.on_target(context)
    loss.value.backward()
    assert all(p.grad is None for p in level.discriminator.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in step.network.parameters())
    before = [p.grad.clone() for p in step.network.parameters() if p.grad is not None]
    (own,) = alignment.on_own_network(context)
    own.value.backward()
    assert all(p.grad is not None for p in level.discriminator.parameters())
    after = [p.grad for p in step.network.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("name", "losses"),
    [
        ("source", {"segmentation"}),
        ("target-only", {"segmentation"}),
        ("it", {"segmentation"}),
        ("aa", {"segmentation", "adversarial", "discriminator"}),
        ("sim", {"segmentation", "stuff", "instance"}),
        ("aa+it+sim", {"segmentation", "adversarial", "discriminator", "stuff", "instance"}),
        ("aa+it+sim+ssl", {"segmentation", "adversarial", "discriminator", "stuff", "instance", "pseudo"}),
    ],
)
def test_a_recipe_is_the_sum_of_its_terms(name: str, losses: set[str], quiet: list[str]) -> None:
    step, context = made_step(compose_recipe(name, "smoke", overrides=quiet))
    record = step([context])
    assert set(record) == losses
    assert all(math.isfinite(float(value)) for value in record.values())


def test_bfloat16_trains_close_to_float32(quiet: list[str]) -> None:
    exact, context = made_step(compose_recipe("aa+sim", "smoke", overrides=quiet))
    rough, same = made_step(compose_recipe("aa+sim", "smoke", overrides=[*quiet, "precision=bfloat16"]))
    first, second = exact([context]), rough([same])
    assert float(second["segmentation"]) == pytest.approx(float(first["segmentation"]), rel=0.02)


def test_all_ignored_labels_give_an_exact_zero_on_the_graph() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 4, 4), 255), 255)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_head_factor_replaces_the_ten(quiet: list[str]) -> None:
    network = start_network(compose_recipe("source", "smoke", overrides=quiet), CPU)
    groups = network_optimizer(OptimizerConfig(lr=0.1, head_lr_mult=3), network).param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize("method", ["lab", "fourier", "lab+fourier"])
def test_style_transfer_moves_the_source_towards_the_target(method: str) -> None:
    source, target = torch.rand(2, 3, 32, 32) * 0.3, 0.6 + 0.4 * torch.rand(2, 3, 24, 40)
    transferred = BatchStyleTransfer(StyleTransferConfig(method=method, window=0.05))(source, target)
    assert transferred.shape == source.shape
    assert (transferred.mean() - target.mean()).abs() < 0.5 * (source.mean() - target.mean()).abs()
    never = BatchStyleTransfer(StyleTransferConfig(method=method, probability=0))(source, target)
    assert torch.equal(never, source)


@pytest.mark.parametrize(("probability", "expected"), [(1.0, {True}), (0.0, {False}), (0.5, {True, False})])
def test_images_transferred_elsewhere_stand_in_with_the_probability(
    streets: Folders, tmp_path: Path, quiet: list[str], probability: float, expected: set[bool]
) -> None:
    overrides = [
        *quiet,
        f"style_transfer.method={tmp_path}",
        f"style_transfer.probability={probability}",
        "data.batch=3",
    ]
    plain = ["augmentation.scale=[1,1]", *(f"augmentation.{name}=0" for name in ("flip", "color_jitter", "grayscale"))]
    recipe = compose_recipe(
        "it", "smoke", overrides=[*overrides, *plain, "augmentation.blur=0", "augmentation.noise=0"]
    )
    assert not recipe.needs_target
    with pytest.raises(FileNotFoundError, match="6 are missing, the first is"):
        open_training_data(recipe, streets)
    for file in (streets.source / "images").iterdir():
        Image.new("RGB", (10, 10), (255, 0, 0)).save(tmp_path / file.name)
    data = open_training_data(recipe, streets)
    assert data.target is None
    torch.manual_seed(0)
    images = StepImages(recipe, data, CPU, {"labeled": 0, "target": 0})
    red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    seen = set()
    for _ in range(4):
        (part,) = images.draw(0)
        labeled = part.labeled
        assert part.target is None
        assert labeled.images.shape == (3, 3, 48, 96)
        assert (labeled.labels != 255).any((1, 2)).all()
        seen |= {bool((image == red).all()) for image in labeled.images}
    assert seen == expected


def test_a_smoke_run_writes_every_file(streets: Folders, tmp_path: Path) -> None:
    overrides = ["schedule.max_steps=4", "schedule.evaluate_every=2"]
    recipe = compose_recipe("aa+it+sim+ssl", "smoke", overrides=overrides)
    for job in plan([recipe.name], [0], "smoke", tmp_path, overrides=overrides):
        result = carry_out(job, streets, CPU)
    run = tmp_path / "aa+it+sim+ssl" / "seed0"
    assert result.step == 4
    saved = json.loads((run / "result.json").read_text())
    assert saved["miou"] == pytest.approx(result.miou)
    assert set(saved["iou"]) == set(recipe.classes)
    assert saved["peak_memory_bytes"] > 1e7
    kept = json.loads((run / "recipe.json").read_text())
    assert (kept["name"], kept["seed"], kept["preset"]) == ("aa+it+sim+ssl", 0, "smoke")
    assert json.loads((run / "environment.json").read_text())["torch"] == torch.__version__
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in training] == [2, 4]
    assert {"loss/segmentation", "loss/pseudo", "loss/stuff", "lr", "seconds"} <= set(training[0])
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [2, 4]
    assert list((run / "tensorboard").iterdir())
    with np.load(run / "previews" / "0.npz") as preview:
        assert preview["image"].shape == (48, 96, 3)
        assert preview["labels"].shape == preview["prediction"].shape == (48, 96)
        assert preview["image"].dtype == preview["prediction"].dtype == np.uint8
    assert len(list((run / "pseudo_labels").glob("*.png"))) == 4
    thresholds = json.loads((run / "thresholds.json").read_text())
    assert set(thresholds) == {"thresholds", "kept", "kept_total", "predicted_pixels"}
    assert sum(thresholds["predicted_pixels"].values()) == 4 * 48 * 96


def test_both_steps_start_from_the_same_weights(quiet: list[str]) -> None:
    first = start_network(compose_recipe("aa+it+sim", "smoke", overrides=quiet), CPU).state_dict()
    second = start_network(compose_recipe("aa+it+sim+ssl", "smoke", overrides=quiet), CPU).state_dict()
    other = start_network(compose_recipe("aa", "smoke", seed=1, overrides=quiet), CPU).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_another_recipe_in_the_folder_is_rejected(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    few = [*quiet, "schedule.max_steps=1"]
    recipe = compose_recipe("source", "smoke", overrides=few)
    run = RunFolder(tmp_path / "run")
    train(recipe, run, open_training_data(recipe, streets), device=CPU)
    other = compose_recipe("source", "smoke", overrides=[*few, "optimizer.lr=0.5", "schedule.decay_steps=24"])
    with pytest.raises(RunFolderError, match=r"optimizer.lr: 0.003 -> 0.5; schedule.decay_steps: 12 -> 24"):
        train(other, run, open_training_data(other, streets), device=CPU)
    others = Folders(streets.source, streets.target, source_list=tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("00001\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"data\.labeled\.images: 5 of 6 images are gone, such as 00002"):
        train(recipe, run, open_training_data(recipe, others), device=CPU)


def test_a_loss_that_is_not_a_number_stops_the_run(
    streets: Folders, tmp_path: Path, quiet: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = compose_recipe("source", "smoke", overrides=quiet)
    broken = {"segmentation": torch.tensor(float("nan"))}
    monkeypatch.setattr(TrainingStep, "__call__", lambda self, parts: broken)
    with pytest.raises(FloatingPointError, match=r"step 2: loss segmentation .*No checkpoint .*lower optimizer.lr"):
        train(recipe, RunFolder(tmp_path / "run"), open_training_data(recipe, streets), device=CPU)


def test_broken_weights_never_replace_a_checkpoint(
    streets: Folders, tmp_path: Path, quiet: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unaligned = [*quiet, "schedule.log_every=10", "schedule.save_every=3"]
    recipe = compose_recipe("source", "smoke", overrides=unaligned)
    run = RunFolder(tmp_path / "run")
    take_step = TrainingStep.__call__

    def break_it(self: TrainingStep, parts: list[StepContext]) -> dict[str, torch.Tensor]:
        losses = take_step(self, parts)
        if parts[0].step == 4:  # step 5: after its losses were computed
            with torch.no_grad():
                next(self.network.parameters()).fill_(float("nan"))
        return losses

    monkeypatch.setattr(TrainingStep, "__call__", break_it)
    with pytest.raises(FloatingPointError, match=r"step 5: .* no longer finite. The checkpoint of step 3 is kept"):
        train(recipe, run, open_training_data(recipe, streets), device=CPU, stop_after=5)
    assert load_checkpoint(run.checkpoint)["step"] == 3
    with pytest.raises(FloatingPointError, match=r"step 6: loss segmentation .*The checkpoint of step 3 is kept"):
        train(recipe, run, open_training_data(recipe, streets), device=CPU)
    assert load_checkpoint(run.checkpoint)["step"] == 3
