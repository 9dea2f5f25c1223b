"""Plain vision transformers: maps of patches at any size, heads, rates by layer, weights of published folders."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from examples.gta5_to_cityscapes.checkpoint import FORMAT
from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.gta5_to_cityscapes.models import SegmentationNetwork, WeightsError, build_network
from examples.gta5_to_cityscapes.models.padding import cropped, padded
from examples.gta5_to_cityscapes.recipes import RecipeError, compose_recipe
from examples.gta5_to_cityscapes.training.recipe_network import check_network, start_network, trained_network

from .commands import data, invoke, settings
from .made_steps import made_step
from .tiny_networks import TINY, save_transformer, tiny

transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")
KINDS = ["dinov2", "dinov2_with_registers", "dinov3_vit", "beit"]
CONFIG: dict[str, Any] = TINY["vit"]["config"]  # type: ignore[assignment]


def built(kind: str, folder: Path, **options: Any) -> SegmentationNetwork:
    """A network with the weights of a folder."""
    return build_network("vit", 7, weights=save_transformer(kind, folder), config=str(folder), **options)


# --- features ---


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_patches_of_the_last_layer_without_other_tokens(kind: str, tmp_path: Path) -> None:
    network = built(kind, tmp_path, head="linear").eval()
    images = torch.rand(2, 3, 24, 40)
    with torch.no_grad():
        found = network(images)
        model = transformers.AutoModel.from_pretrained(tmp_path).eval()
        tokens = model(network.normalization(images)).last_hidden_state
    others = 1 + getattr(model.config, "num_register_tokens", 0)
    expected = tokens[:, others:].mT.unflatten(2, (3, 5))
    assert tokens.shape[1] == others + 15
    torch.testing.assert_close(found.features, expected, rtol=1e-4, atol=1e-5)
    assert found.last_stage.shape == (2, 16, 3, 5)
    assert network.style == ("symmetric" if kind == "beit" else "torchvision")


@pytest.mark.parametrize("head", ["linear", "projection", "all_mlp"])
@pytest.mark.parametrize("stride", [8, 4])
def test_heads_at_any_size_and_stride(head: str, stride: int) -> None:
    network = tiny("vit", 7, head=head, stride=stride)
    assert network.feature_dim == 16
    for height, width in ((32, 64), (33, 61), (5, 8)):
        found = network(torch.rand(2, 3, height, width))
        cells = [8 // stride * -(-side // 8) for side in (height, width)]
        assert found.features.shape == (2, 16, *cells)
        assert found.logits.shape == (2, 7, *cells)


def test_the_fusion_sees_four_layers_evenly_spaced() -> None:
    network = tiny("vit", config={**CONFIG, "num_hidden_layers": 9})
    assert network.backbone.encoder.config.out_indices == [2, 4, 6, 9]
    assert len(network.backbone.fusion.projections) == 4
    assert len(tiny("vit", config={**CONFIG, "num_hidden_layers": 2}).backbone.fusion.projections) == 2
    assert len(tiny("vit", head="projection").backbone.fusion.projections) == 1


def test_a_padded_map_covers_the_image_and_nothing_beside_it() -> None:
    """A ramp over 3 cells of 8 pixels, cropped to 20 pixels: the same ramp, sampled at 3 cells of 20 / 3 pixels."""
    ramp = torch.tensor([4.0, 12.0, 20.0]).view(1, 1, 1, 3).expand(2, 5, 4, 3)
    expected = torch.tensor([4.0, 10.0, 50 / 3]).expand(2, 5, 4, 3)  # the first center lies before the first cell's
    torch.testing.assert_close(cropped(ramp, (32, 20), (32, 24)), expected)
    torch.testing.assert_close(cropped(ramp.mT, (20, 32), (24, 32)), expected.mT)
    assert cropped(ramp, (32, 24), (32, 24)) is ramp
    torch.testing.assert_close(cropped(ramp, (32, 16), (32, 24)), ramp[..., :2])  # whole cells
    assert padded(torch.ones(1, 3, 30, 33), 8).sum((2, 3)).tolist() == [[990.0] * 3]
    assert padded(torch.ones(1, 3, 30, 33), 8).shape == (1, 3, 32, 40)


def test_padding_changes_no_feature_of_an_image_that_fills_its_patches() -> None:
    network = tiny("vit").eval()
    images = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        maps = network.backbone.stages(network.normalization(images))
        expected = network.backbone.encoder(network.normalization(images)).feature_maps
    assert all(torch.equal(one, other) for one, other in zip(maps, expected, strict=True))


# --- what trains ---


def rates(network: SegmentationNetwork) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = network.parameter_groups(1.0, head_lr_mult=10.0)
    listed = [(names[id(parameter)], group["lr"]) for group in groups for parameter in group["params"]]
    assert sorted(name for name, _ in listed) == sorted(n for n, p in network.named_parameters() if p.requires_grad)
    return dict(listed)


@pytest.mark.parametrize("kind", KINDS)
def test_rates_fall_from_layer_to_layer(kind: str, tmp_path: Path) -> None:
    found = rates(built(kind, tmp_path, layer_decay=0.5))
    for name, rate in found.items():
        if not name.startswith("backbone.encoder."):
            expected = 10.0
        elif "embeddings." in name:
            expected = 0.5**5
        elif any(f".{place}." in name for place in range(4)):
            (layer,) = (place for place in range(4) if f"layer.{place}." in name or f"layers.{place}." in name)
            expected = 0.5 ** (4 - layer)
        else:
            expected = 1.0
        assert rate == expected, name
    assert len(set(found.values())) >= 6
    assert set(rates(tiny("vit")).values()) == {1.0, 10.0}


def test_a_frozen_transformer_stays_as_it_is_and_its_projection_is_matched() -> None:
    network = tiny("vit", head="projection", freeze=True).train()
    encoder = network.backbone.encoder
    assert not encoder.training
    found = network(torch.rand(2, 3, 32, 32))
    found.features.sum().backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert network.backbone.fusion.projections[0].weight.grad is not None
    assert not found.last_stage.requires_grad
    assert {10.0} == set(rates(tiny("vit", freeze=True, layer_decay=0.5)).values())


def test_a_frozen_transformer_under_a_linear_head_warns_with_the_remedy() -> None:
    with pytest.warns(UserWarning, match=r"matching trains nothing\. Set network\.options\.head=projection"):
        tiny("vit", head="linear", freeze=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny("vit", head="linear")


def test_matching_trains_a_small_transformer(quiet: list[str], tmp_path: Path) -> None:
    folder = save_transformer("dinov2", tmp_path)
    overrides = [each for each in quiet if "network.options" not in each]
    overrides += [
        "network.name=vit",
        f"network.weights={folder}",
        "network.options.fused_dim=16",
        "matching.capacity=1",
    ]
    recipe = compose_recipe("sim", "smoke", overrides=[*overrides, "matching.preset=paper"])
    check_network(recipe)
    step, context = made_step(recipe)
    record = step([context])
    assert record["segmentation"].isfinite()
    assert context.unlabeled.seen.features.shape == (2, 16, 4, 8)


# --- weights and configurations ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_folder_is_loaded_whole(kind: str, tmp_path: Path) -> None:
    network = built(kind, tmp_path)
    published = type(network.backbone.encoder).from_pretrained(tmp_path).state_dict()
    for name, value in network.backbone.encoder.state_dict().items():
        assert torch.equal(value, published[name]), name
    report = network.weights_report
    assert report is not None
    assert report.origin == "transformers"
    assert all(name.startswith(("backbone.fusion.", "head.", "normalization.")) for name in report.missing)


def test_a_recipe_holds_the_configuration_itself(tmp_path: Path) -> None:
    folder = save_transformer("dinov2", tmp_path / "dinov2")
    for given in (f"network.weights={folder}", f"network.weights={folder}/model.safetensors"):
        recipe = compose_recipe("source", "smoke", overrides=["network.name=vit", given])
        assert recipe.network.options["config"]["hidden_size"] == 16
    random = compose_recipe("source", "smoke", overrides=["network.name=vit", f"network.options.config={folder}"])
    assert random.network.weights is None
    assert start_network(recipe, CPU).weights_report is not None
    file = tmp_path / "checkpoint.pt"
    network = start_network(recipe, CPU)
    saved = {"recipe": recipe.model_dump(mode="json"), "step": 1, "network": network.state_dict()}
    torch.save({"format": FORMAT, **saved}, file)
    (folder / "config.json").unlink()
    _, again, _ = trained_network(file, CPU)
    images = torch.rand(1, 3, 20, 30)

    def logits(of: SegmentationNetwork) -> Tensor:
        return of.eval()(images).logits

    torch.testing.assert_close(logits(again), logits(network))


def test_weights_of_another_size_are_rejected(tmp_path: Path) -> None:
    folder = save_transformer("dinov2", tmp_path)
    with pytest.raises(
        WeightsError, match=r"expected a dinov2 of 5 layers and 16 channels; .*is missing.*options\.config"
    ):
        build_network("vit", 7, weights=folder, config={**CONFIG, "num_hidden_layers": 5})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": None}, "config must be the configuration of a plain vision transformer .*got None"),
        ({"config": {"hidden_size": 16}}, "config must be .*model_type"),
        ({"config": {**CONFIG, "model_type": "no such"}}, "'no such' with these settings is not one"),
        ({"config": {**CONFIG, "model_type": "bert"}}, "'bert' with these settings is not one"),
        ({"config": {"model_type": "resnet"}}, "'resnet' with these settings is not one"),
        ({"config": {"model_type": "swin", "embed_dim": 8}}, "config must be .*'swin'"),
        ({"head": "dpt"}, "head must be one of 'linear', 'projection', 'all_mlp', got 'dpt'"),
        ({"stride": 3}, r"stride must divide the patch of 8 pixels, one of \[1, 2, 4, 8\], got 3"),
        ({"fused_dim": 0}, "fused_dim must be a whole number"),
        ({"freeze": 1}, "freeze must be true or false"),
        ({"layer_decay": 0}, "layer_decay must be a number above 0 and at most 1, got 0"),
        ({"style": "bgr"}, "style must be one of"),
    ],
)
def test_options_that_do_not_fit_are_rejected(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny("vit", **options)


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_folder_without_a_configuration_is_named(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(RecipeError, match=r"config must be .*config\.json"):
        compose_recipe("source", "smoke", overrides=["network.name=vit", f"network.options.config={tmp_path}"])


def test_a_recipe_without_a_configuration_is_rejected_before_it_begins() -> None:
    with pytest.raises(RecipeError, match="do not make a network vit: config must be"):
        check_network(compose_recipe("source", "smoke", overrides=["network.name=vit"]))
    content = f"network.options.config={json.dumps(CONFIG)}"
    check_network(compose_recipe("source", "smoke", overrides=["network.name=vit", content]))


@pytest.mark.usefixtures("in_process")
def test_the_recipe_of_today_can_be_checked_with_the_preset_of_transformers(streets: Folders, tmp_path: Path) -> None:
    """The command of docs/systems/todays_trainers.md, on small images and a tiny DINOv2."""
    weights = save_transformer("dinov2", tmp_path / "dinov2")
    small = ["data.source_size=[48,96]", "data.target_size=[48,96]", "augmentation.crop=[42,84]"]
    words = ["--recipes", "vfm", "--preset", "full-vit", "--seeds", "0", *data(streets), "--out", tmp_path / "exp"]
    words += settings([f"network.weights={weights}", "network.options.fused_dim=16", "precision=float32", *small])
    words += settings(["runtime.num_workers=0"])
    said = invoke("ablation", *words, "--device", "cpu", "--check", "--check-steps", "2")
    assert "1: 0 finished, 0 begun" in said
    assert "time a step" in said
