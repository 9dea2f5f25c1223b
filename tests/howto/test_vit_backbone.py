"""The page about ViT backbones, on small random ones of transformers and of timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.howto.trainer_page import TrainerPage, check_training, run, weights
from tests.howto.two_cities import batches, given

transformers = pytest.importorskip("transformers")
PAGE = TrainerPage("vit_backbone")
BODY, TOKENS, TIMM_BODY, TIMM_PATCHES = PAGE.further
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 8}
KINDS = ["Dinov2", "Dinov2WithRegisters"]


def save_small_body(kind: str, folder: Path) -> str:
    torch.manual_seed(0)
    getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**SIZES)).save_pretrained(folder)
    return str(folder)


def small_body(kind: str, folder: Path) -> dict[str, Any]:
    """``body`` and ``width`` as the page makes them."""
    assert f"`{kind}Backbone`" in PAGE.text or f"import {kind}Backbone" in BODY
    return run(BODY.replace("Dinov2Backbone", f"{kind}Backbone"), {"name": save_small_body(kind, folder)})


def trained(code: str, body: nn.Module, width: int) -> dict[str, Any]:
    names = given()
    return run(code, {**names, "batches": batches(names, 30), "body": body, "width": width})


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_with_the_lines_and_without(kind: str, tmp_path: Path) -> None:
    PAGE.check_count()
    made = small_body(kind, tmp_path)
    start = weights(made["body"])
    without = trained(PAGE.trainer_before, made["body"], made["width"])["network"]
    after = trained(PAGE.trainer, made["body"], made["width"])
    untrained = trained(PAGE.trainer.split("trained =")[0], made["body"], made["width"])["network"]
    assert after["features"].shape == (8, 256, 16, 16)
    assert torch.equal(weights(made["body"]), start)
    check_training(after["sim"], after["network"], weights(untrained), weights(without))
    again = after["sim"](*after["network"](after["target_images"]))
    (gradient,) = torch.autograd.grad(again.stuff, [after["network"].project[0].weight])
    assert bool((gradient != 0).any())


def test_features_of_a_frozen_body_get_no_gradient(tmp_path: Path) -> None:
    made = small_body("Dinov2", tmp_path)
    code = PAGE.trainer.replace("features = self.project(patches)", "features = patches")
    code = code.replace("nn.Conv2d(256,", "nn.Conv2d(16,").replace("feature_dim=256", "feature_dim=16")
    after = trained(code, made["body"], made["width"])
    assert not after["losses"].stuff.requires_grad
    assert not after["losses"].instance.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_without_the_first_ones_are_the_map_of_the_backbone(kind: str, tmp_path: Path) -> None:
    made = small_body(kind, tmp_path)
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        expected = made["body"](images).feature_maps[-1]
        patches = run(TOKENS, {"name": made["name"], "images": images})["patches"]
    torch.testing.assert_close(patches, expected)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.filterwarnings("ignore::UserWarning:timm", "ignore::FutureWarning:timm")
def test_timm(monkeypatch: pytest.MonkeyPatch, registers: int) -> None:
    timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    create = timm.create_model
    small = {"img_size": 64, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "reg_tokens": registers}
    monkeypatch.setattr(timm, "create_model", lambda *names, **words: create(*names, **small, **words))
    torch.manual_seed(0)
    made = run(TIMM_BODY, {"name": "vit_tiny_patch16_224", "pretrained": False})
    line = "patches = self.body(images).feature_maps[-1]  # (B, width, H/14, W/14)"
    code = PAGE.trainer.replace(line, TIMM_PATCHES.strip())
    assert code != PAGE.trainer
    after = trained(code, made["body"], made["width"])
    assert after["features"].shape == (8, 256, 16, 16)
    assert bool((after["sim"].stuff_bank.written > after["sim"].stuff_bank.capacity).any())
    assert made["body"](torch.randn(1, 3, 64, 128)).shape == (1, 1000)
    with pytest.raises(AssertionError):
        made["body"](torch.randn(1, 3, 60, 64))
