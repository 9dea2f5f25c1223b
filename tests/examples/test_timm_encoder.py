"""Encoders of timm: their stages fused at any size, published weights under their names, clear errors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.gta5_to_cityscapes.models import WeightsError, build_network
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.training.recipe_network import check_network

from .made_steps import made_step
from .tiny_networks import tiny

KINDS = ["test_convnext", "test_resnet", "test_efficientnet"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:timm", "ignore::FutureWarning:timm")


def timm() -> Any:
    return pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))


@pytest.mark.parametrize("model", KINDS)
def test_stages_are_those_of_timm_at_sizes_that_they_divide(model: str) -> None:
    network = tiny("timm", model=model).eval()
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        stages, expected = network.backbone.stages(pixels), network.backbone.encoder(pixels)[-4:]
    assert all(torch.equal(one, other) for one, other in zip(stages, expected, strict=True))
    assert [64 // stage.shape[2] for stage in stages] == [4, 8, 16, 32]
    found = network(torch.rand(2, 3, 65, 97))
    assert found.features.shape == (2, 16, 9, 13)
    assert found.last_stage.shape[2:] == (3, 4)


@pytest.mark.parametrize("model", KINDS)
def test_published_weights_are_loaded_whole(model: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = timm().create_model(model, pretrained=False).eval()
    torch.save(published.state_dict(), tmp_path / "model.pth")
    network = tiny("timm", model=model, weights=tmp_path / "model.pth").eval()
    report = network.weights_report
    assert report is not None
    assert report.origin == "timm"
    assert not [name for name in report.missing if name.startswith("backbone.encoder.")]
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = published.forward_intermediates(images, intermediates_only=True)[-1]
        torch.testing.assert_close(network.backbone.encoder(images)[-1], expected)


def test_weights_of_another_model_are_rejected(tmp_path: Path) -> None:
    torch.save(timm().create_model("test_resnet", pretrained=False).state_dict(), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"expected timm weights that fit the backbone\. .* missing"):
        tiny("timm", weights=tmp_path / "model.pth")


def test_a_frozen_encoder_stays_as_it_is() -> None:
    network = tiny("timm", model="test_resnet", freeze=True).train()
    before = {name: value.clone() for name, value in network.backbone.encoder.state_dict().items()}
    found = network(torch.rand(2, 3, 64, 64))
    found.features.sum().backward()
    assert not found.last_stage.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in network.backbone.encoder.state_dict().items())
    assert network.backbone.fusion.fuse.weight.grad is not None


def test_settings_reach_timm_and_the_style_follows_the_weights() -> None:
    assert tiny("timm", model="test_efficientnet").style == "torchvision"
    assert tiny("timm", model="test_convnext").style == "symmetric"
    assert tiny("timm", style="torchvision").style == "torchvision"
    tiny("timm", settings={"drop_path_rate": 0.1})
    with pytest.raises(ValueError, match=r"got 'test_convnext' with settings \{'no_such': 1\}"):
        tiny("timm", settings={"no_such": 1})


def test_matching_trains_it_beside_an_auxiliary_head(quiet: list[str]) -> None:
    timm()
    overrides = [each for each in quiet if "network.options" not in each]
    overrides += ["network.name=timm", "network.options.model=test_resnet", "network.options.fused_dim=16"]
    recipe = compose_recipe("asn+sim", "smoke", overrides=overrides)
    check_network(recipe)
    step, context = made_step(recipe)
    assert step([context])["auxiliary_segmentation"].isfinite()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "no_such_model"}, "model must be an encoder of timm that shows features, got 'no_such_model'"),
        ({"model": "test_vit"}, r"model must have stages of strides \[4, 8, 16, 32\], got .*the network vit"),
        ({"model": 3}, "model must be a name and settings a mapping"),
        ({"settings": [1]}, "model must be a name and settings a mapping"),
        ({"stride": 16}, "stride must be 4 or 8"),
        ({"fused_dim": 0}, "fused_dim must be a whole number"),
        ({"freeze": 1}, "freeze must be true or false"),
    ],
)
def test_options_that_do_not_fit_are_rejected(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny("timm", **options)


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"the package timm, and a torchvision .*\[examples,timm\]"):
        build_network("timm", 19)
