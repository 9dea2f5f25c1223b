"""Rare classes in the pipeline: what is counted and drawn, crops that show the class, resuming, class weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

import stuffinstance as si
from examples.gta5_to_cityscapes.checkpoint import load_checkpoint
from examples.gta5_to_cityscapes.config import AugmentationConfig
from examples.gta5_to_cityscapes.data.augmentation import TrainingAugmentation
from examples.gta5_to_cityscapes.data.training_data import Folders, StepImages, open_training_data
from examples.gta5_to_cityscapes.methods import Domain, StepContext
from examples.gta5_to_cityscapes.methods.rare_classes import RareClassSampling
from examples.gta5_to_cityscapes.recipes import Recipe, compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training.loop import train

from .made_steps import made_step

CPU = torch.device("cpu")
POLE = si.CITYSCAPES.ids(["pole"])[0]


def prepared(recipe: Recipe, folders: Folders) -> RareClassSampling:
    step, _ = made_step(recipe, same_size=True)
    step.prepare(open_training_data(recipe, folders).labeled)
    (method,) = (each for each in step.methods if isinstance(each, RareClassSampling))
    return method


@pytest.mark.parametrize("cache", ["true", "false"])
def test_pixels_are_counted_in_the_label_maps_that_are_trained_on(
    cache: str, streets: Folders, quiet: list[str]
) -> None:
    options = [*quiet, "data.source_size=[24,40]", f"runtime.cache={cache}"]
    recipe = compose_recipe("rcs", "smoke", overrides=options)
    method = prepared(recipe, streets)
    labeled = open_training_data(recipe, streets).labeled
    expected = [[int((labeled[i].labels == k).sum()) for k in range(19)] for i in range(len(labeled))]
    assert method.pixels.counts is not None
    assert method.pixels.counts.tolist() == expected


def test_limits_shrink_with_the_images(streets: Folders, quiet: list[str]) -> None:
    limits = {}
    for size in ([48, 96], [1052, 1914]):
        recipe = compose_recipe("rcs", "smoke", overrides=[*quiet, f"data.source_size={size}"])
        limits[size[0]] = made_step(recipe)[0].methods[-1].min_pixels  # type: ignore[attr-defined]
    assert limits == {48: 3000 * 48 * 96 // (1052 * 1914), 1052: 3000}


def test_other_recipes_shuffle_and_learn_the_same_of_the_same_images(quiet: list[str]) -> None:
    values = []
    for name in ("source", "rcs"):
        recipe = compose_recipe(name, "smoke", overrides=quiet)
        step, context = made_step(recipe)
        assert step.sampler() is None  # nothing is counted
        assert not recipe.needs_target
        values.append(step([context])["segmentation"])
    assert torch.equal(*values)


def test_a_run_draws_what_the_sampler_draws_from_any_position(streets: Folders, quiet: list[str]) -> None:
    recipe = compose_recipe("rcs", "smoke", seed=3, overrides=[*quiet, "data.batch=4", "rare_classes.temperature=0.3"])
    method, data = prepared(recipe, streets), open_training_data(recipe, streets)
    assert method.pixels.counts is not None
    sampler = si.RareClassSampler(method.pixels.counts, 0.3, method.min_pixels, seed=3, with_class=True)
    expected = [*sampler, *sampler, *sampler, *sampler]
    for position in (0, 4, 12):
        images = StepImages(recipe, data, CPU, {"labeled": position, "target": 0}, method.sampler())
        drawn: list[tuple[int, int]] = []
        for _ in range(3):
            (batch,) = next(images.labeled)
            assert batch.classes is not None
            drawn += zip(map(data.labeled.names.index, batch.names), batch.classes.tolist(), strict=True)
        assert drawn == expected[position : position + 12]
    classes = Counter(drawn_for for _, drawn_for in expected)
    assert classes[POLE] > 0


def small_poles(count: int) -> tuple[Tensor, Tensor]:
    """Images of one pole of 4 x 16 pixels at another place each, which shows in their red channel."""
    labels = torch.zeros(count, 64, 128, dtype=torch.long)
    for i in range(count):
        labels[i, 10 + i : 26 + i, 5 * i : 5 * i + 4] = POLE
    return (labels == POLE)[:, None].float().repeat(1, 3, 1, 1), labels


def test_a_crop_is_cut_again_until_it_shows_the_class() -> None:
    images, labels = small_poles(20)
    settings = AugmentationConfig(crop=(32, 64), flip=0.5, scale=(0.2, 0.4))
    classes = torch.full((20,), POLE)
    shown = {}
    for crops in (1, 10, 100):
        torch.manual_seed(0)
        cut, moved, _ = TrainingAugmentation(settings, crops, 0.01)(images, labels, "labeled", classes)
        assert cut.shape == (20, 3, 32, 64)
        assert ((cut[:, 0] > 0.5) == (moved == POLE)).float().mean() > 0.98
        shown[crops] = int(((moved == POLE).float().mean((1, 2)) > 0.01).sum())
    assert shown[1] < 15 < shown[10] <= shown[100] == 20


@pytest.mark.parametrize(("changes", "classes"), [({"crop": (32, 64)}, None), ({"flip": 0.5}, torch.full((20,), 3))])
def test_without_a_class_or_a_crop_nothing_is_drawn_again(changes: dict[str, object], classes: Tensor | None) -> None:
    images, labels = small_poles(20)
    settings = AugmentationConfig(**changes)  # type: ignore[arg-type]
    results = []
    for crops in (1, 10):
        torch.manual_seed(0)
        results.append((*TrainingAugmentation(settings, crops, 0.5)(images, labels, "labeled", classes), torch.rand(1)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_run_goes_on_without_counting_again(
    workers: int, streets: Folders, tmp_path: Path, quiet: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [
        "schedule.max_steps=5",
        "schedule.decay_steps=5",
        "augmentation.crop=[24,48]",
        "rare_classes.temperature=0.3",
    ]
    recipe = compose_recipe(
        "it+rcs+sim+mix", "smoke", overrides=[*quiet, *few, f"runtime.num_workers={workers}", "data.batch=3"]
    )
    data = open_training_data(recipe, streets)
    whole = train(recipe, RunFolder(tmp_path / "whole"), data, device=CPU)
    with pytest.raises(Stopped):
        train(recipe, RunFolder(tmp_path / "cut"), data, device=CPU, stop_after=3)
    monkeypatch.setattr(si, "count_class_pixels", None)
    resumed = train(recipe, RunFolder(tmp_path / "cut"), data, device=CPU)
    assert resumed.weights_sha256 == whole.weights_sha256
    one, other = (load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "cut"))
    assert one["positions"] == other["positions"] == {"labeled": 15, "target": 15}
    assert torch.equal(one["class_pixels"]["_extra_state"], other["class_pixels"]["_extra_state"])
    assert one["class_pixels"]["_extra_state"].shape == (6, 19)


# --- class weights ---


@pytest.mark.parametrize("scheme", ["enet", "inverse", "effective"])
def test_the_segmentation_loss_is_weighted_by_what_was_counted(scheme: str, streets: Folders, quiet: list[str]) -> None:
    recipe = compose_recipe("cw", "smoke", overrides=[*quiet, f"class_weights.scheme={scheme}"])
    step, context = made_step(recipe)
    assert not recipe.needs_target
    with pytest.raises(RuntimeError, match="have not been counted"):
        step([context])
    labeled = open_training_data(recipe, streets).labeled
    step.prepare(labeled)
    pixels = [[int((labeled[i].labels == k).sum()) for k in range(19)] for i in range(len(labeled))]
    counts = [sum(bool(n) if scheme == "effective" else n for n in column) for column in zip(*pixels, strict=True)]
    weights = si.class_weights(torch.tensor(counts), scheme)
    logits = made_step(recipe)[0].network(context.labeled.images).logits
    upsampled = context.labeled.at_scale(logits)
    expected = torch.nn.functional.cross_entropy(upsampled, context.labeled.labels, weights, ignore_index=255)
    torch.testing.assert_close(step([context])["segmentation"], expected.detach())


def test_a_step_in_parts_has_the_weighted_mean_of_all_its_pixels(streets: Folders, quiet: list[str]) -> None:
    recipe = compose_recipe("cw", "smoke", overrides=[*quiet, "network.options.norm=group"])
    values = []
    for cut in (False, True):
        step, context = made_step(recipe)
        step.prepare(open_training_data(recipe, streets).labeled)
        labeled = context.labeled
        pieces = [Domain(labeled.images[i : i + 1], labeled.labels[i : i + 1]) for i in range(2)]
        values.append(step([StepContext(0, piece) for piece in pieces] if cut else [context])["segmentation"])
    torch.testing.assert_close(*values, check_dtype=False)
