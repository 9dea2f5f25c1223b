"""Two resolutions (HRDA): what the network computes from them, what trains, and that runs with them resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import stuffinstance as si
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.methods.feature_distance import FeatureDistance
from examples.gta5_to_cityscapes.models import NetworkOutput, SegmentationNetwork, two_resolutions
from examples.gta5_to_cityscapes.recipes import RecipeError, compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training.loop import train

from .commands import data, invoke, settings
from .made_steps import made_step
from .tiny_networks import CASES, tiny

CPU = torch.device("cpu")


def at_two(case: str, **options: object) -> SegmentationNetwork:
    torch.manual_seed(0)
    network = tiny(case, num_classes=5, resolutions=2, **options)
    with torch.no_grad():
        for parameter in network.attention_head.parameters():
            parameter.normal_(std=0.3)
    return network


def seen_once(network: SegmentationNetwork, images: Tensor) -> Tensor:
    return network.output_of(network.normalization(images)).logits


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 127)])
def test_outputs_are_of_one_size_in_both_modes(case: str, height: int, width: int) -> None:
    network, images = at_two(case), torch.rand(2, 3, height, width)
    size = (-(-height // network.stride), -(-width // network.stride))
    for training in (True, False):
        network.train(training)
        output = network(images)
        assert output.logits.shape == (2, 5, *size)
        assert output.features.shape == (2, network.feature_dim, *size)
        assert output.logits.isfinite().all()
        assert (output.details is not None) == training
        if training:
            cut = output.details.shape[2:]
            whole = height // network.stride, width // network.stride
            assert cut == tuple(-(-side // 2) for side in whole)
            assert all(0 <= at <= side - c for at, side, c in zip(output.corner, whole, cut, strict=True))


def test_training_fuses_the_half_size_image_with_a_crop() -> None:
    network, images = at_two("small", norm="group"), torch.rand(2, 3, 64, 96)
    corners = set()
    for _ in range(20):
        output = network.train()(images)
        corners.add(output.corner)
        top, left = (network.stride * at for at in output.corner)
        crop = images[..., top : top + 32, left : left + 48]
        context = network.output_of(network.normalization(F.avg_pool2d(images, 2)))
        torch.testing.assert_close(output.details, seen_once(network, crop))
        attention = network.attention_head(context.features)
        size = tuple(output.logits.shape[2:])
        fused = si.fuse_resolutions(context.logits, output.details, attention, size, output.corner)
        torch.testing.assert_close(output.logits, fused)
    assert len(corners) > 5


def test_evaluation_fuses_it_with_the_mean_of_overlapping_windows() -> None:
    network, images = at_two("small", norm="group").eval(), torch.rand(1, 3, 64, 96)
    stride = network.stride
    total, counted = torch.zeros(1, 5, 64 // stride, 96 // stride), torch.zeros(64 // stride, 96 // stride)
    for top in (0, 16, 32):
        for left in (0, 24, 48):
            place = slice(top // stride, (top + 32) // stride), slice(left // stride, (left + 48) // stride)
            total[(..., *place)] += seen_once(network, images[..., top : top + 32, left : left + 48])
            counted[place] += 1
    context = network.output_of(network.normalization(F.avg_pool2d(images, 2)))
    attention = network.attention_head(context.features)
    expected = si.fuse_resolutions(context.logits, total / counted, attention, tuple(total.shape[2:]))
    with torch.no_grad():
        torch.testing.assert_close(network(images).logits, expected.detach())


@pytest.mark.parametrize("case", ["small", "efficientnet_lite", "vit"])
def test_the_attention_trains_as_fast_as_the_head(case: str) -> None:
    network = at_two(case)
    network(torch.rand(2, 3, 64, 96)).logits.square().sum().backward()
    groups = network.parameter_groups(0.1, head_lr_mult=10)
    for parameter in network.attention_head.parameters():
        assert parameter.grad.abs().sum() > 0
        assert [group["lr"] for group in groups if any(parameter is each for each in group["params"])] == [1.0]


def test_the_attention_begins_at_a_half() -> None:
    network = tiny("deeplabv2_resnet101", num_classes=5, resolutions=2)
    assert not network.attention_head(torch.randn(1, network.feature_dim, 4, 6)).any()


def test_without_it_a_network_starts_from_the_same_weights() -> None:
    torch.manual_seed(0)
    one = tiny("small").state_dict()
    torch.manual_seed(0)
    two = tiny("small", resolutions=2).state_dict()
    assert {name for name in two if name not in one} == {name for name in two if name.startswith("attention_head.")}
    assert all(torch.equal(two[name], value) for name, value in one.items())


def test_details_are_trained_by_ground_truth() -> None:
    recipe = compose_recipe("hrda", "smoke", overrides=["two_resolutions.weight=0.25"])
    step, context = made_step(recipe)
    taken = step([context])
    assert set(taken) == {"segmentation", "details"}
    seen, labels = context.labeled.output, context.labeled.labels
    (top, left), (height, width) = seen.corner, seen.details.shape[2:]
    around = (left, seen.logits.shape[3] - left - width, top, seen.logits.shape[2] - top - height)
    everywhere = context.labeled.at_scale(F.pad(seen.details, around, mode="replicate"))
    stride = step.network.stride
    crop = (..., slice(stride * top, stride * top + 24), slice(stride * left, stride * left + 48))
    torch.testing.assert_close(taken["details"], F.cross_entropy(everywhere[crop], labels[crop]))


def test_details_are_trained_by_the_teacher_s_labels_where_a_method_has_them() -> None:
    for words, there in (("hrda+aa", False), ("hrda+mix", True), ("hrda+mix+mask+aa+sim", True)):
        step, context = made_step(compose_recipe(words, "smoke"), same_size=True)
        taken = step([context])
        assert all(value.isfinite() for value in taken.values())
        assert ("taught_details" in taken) == there
        assert not context.found.get("taught")


def test_a_feature_distance_looks_at_the_half_size_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    step, context = made_step(compose_recipe("hrda+fd", "smoke"))
    (method,) = (each for each in step.methods if isinstance(each, FeatureDistance))
    sizes = []
    seen = SegmentationNetwork.output_of
    monkeypatch.setattr(
        SegmentationNetwork,
        "output_of",
        lambda self, pixels: sizes.append(tuple(pixels.shape[2:])) or seen(self, pixels),
    )
    assert step([context])["feature_distance"].isfinite()
    assert sizes == [(24, 48)] * 3  # the network's context and details, the start weights' context
    assert method.start(context.labeled.images).details is None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 99), (81, 123)])
def test_both_resolutions_lie_where_the_image_does(height: int, width: int, training: bool) -> None:
    """A network that predicts the column of each cell predicts it at any resolution, wherever the image ends."""
    network = tiny("small", num_classes=5, resolutions=2).train(training)  # with an attention of 0.5
    stride = network.stride

    def column(pixels: Tensor) -> NetworkOutput:
        cells = F.avg_pool2d(pixels[:, :1], stride)
        return NetworkOutput(cells.expand(-1, network.feature_dim, -1, -1), cells.expand(-1, 5, -1, -1))

    network.output_of, network.normalization = column, torch.nn.Identity()
    ramp = torch.arange(width).float().expand(1, 3, height, width).contiguous()
    logits = network(ramp).logits[0, 0]
    cells = logits.shape[1]
    centers = (torch.arange(cells) + 0.5) * (width / cells) - 0.5
    rows, columns = (2 * (side // (2 * stride)) - 2 for side in (height, width))  # beyond them padding shows
    found = logits[:rows, 1:columns]
    torch.testing.assert_close(found, centers[1:columns].expand_as(found), atol=0.5, rtol=0)


def test_a_method_without_weight_trains_no_details(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_resolutions, "_drawn", lambda most: 0)
    settings = ["two_resolutions.weight=1", "class_mixing.weight=0"]
    mixing, images = made_step(compose_recipe("hrda+mix", "smoke", overrides=settings), same_size=True)
    plain, same = made_step(compose_recipe("hrda", "smoke", overrides=settings), same_size=True)
    assert mixing([images])["taught_details"] > 0
    plain([same])
    for name, parameter in plain.network.named_parameters():
        torch.testing.assert_close(mixing.network.get_parameter(name), parameter)


def test_the_weight_counts_for_the_network_only() -> None:
    def change(weight: float) -> tuple[Tensor, Tensor]:
        step, context = made_step(compose_recipe("hrda", "smoke", overrides=[f"two_resolutions.weight={weight}"]))
        before = step.network.head.branches[0].weight.detach().clone()
        value = step([context])["details"]
        return value, step.network.head.branches[0].weight.detach() - before

    (light, little), (heavy, much) = change(0.0), change(5.0)
    torch.testing.assert_close(light, heavy)
    assert not torch.allclose(little, much)


def test_crops_go_on_after_a_stop_and_commands_train_and_evaluate(
    streets: Folders, tmp_path: Path, quiet: list[str]
) -> None:
    overrides = [*quiet, "schedule.max_steps=4", "schedule.decay_steps=4", "runtime.num_workers=0"]
    recipe = compose_recipe("hrda+mix", "smoke", overrides=overrides)
    images = open_training_data(recipe, streets)
    with pytest.raises(Stopped):
        train(recipe, RunFolder(tmp_path / "cut"), images, device=CPU, stop_after=2)
    resumed = train(recipe, RunFolder(tmp_path / "cut"), images, device=CPU)
    words = ["--preset", "smoke", "--device", "cpu", "--out", tmp_path / "exp", *settings(overrides)]
    invoke("train", "hrda+mix", *data(streets), *words)
    run = RunFolder(tmp_path / "exp" / recipe.name / "seed0")
    whole = run.result()
    assert whole is not None
    assert whole.weights_sha256 == resumed.weights_sha256
    assert f"{100 * whole.miou:.1f}" in invoke("evaluate", run.checkpoint, "--target", streets.target)


def test_wrong_numbers_of_resolutions_raise() -> None:
    for wrong in (0, 3, True, 2.0):
        with pytest.raises(ValueError, match=r"resolutions must be 1 or 2, got"):
            tiny("small", resolutions=wrong)
    recipe = compose_recipe("hrda", "smoke")
    assert recipe.network.options["resolutions"] == 2
    with pytest.raises(RecipeError, match="resolutions"):
        compose_recipe("hrda", "smoke", overrides=["network.options.resolution=2"])
