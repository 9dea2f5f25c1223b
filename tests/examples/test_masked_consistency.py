"""Masked consistency on the tokens of a transformer: what is masked for whom, what trains, and what is rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stuffinstance as si
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.methods.mean_teacher import TargetTeacher
from examples.gta5_to_cityscapes.models import build_network
from examples.gta5_to_cityscapes.recipes import Recipe, RecipeError, compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training.loop import train

from .commands import data, invoke, settings
from .made_steps import made_step
from .tiny_networks import TINY, save_transformer

transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")
TOKENS = "masked_consistency.unit=tokens"


def on_tokens(quiet: list[str], folder: Path, *overrides: str) -> list[str]:
    """Settings of a tiny DINOv2 with random weights and a mask token that is not 0."""
    kept = [each for each in quiet if "network.options" not in each]
    weights = f"network.weights={save_transformer('dinov2', folder)}"
    return [*kept, "network.name=vit", weights, "network.options.fused_dim=16", TOKENS, *overrides]


def recipe_of(quiet: list[str], folder: Path, *overrides: str) -> Recipe:
    return compose_recipe("mask", "smoke", overrides=on_tokens(quiet, folder, *overrides))


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers", "dinov3_vit", "beit"])
def test_masked_tokens_are_those_of_the_pretraining(kind: str, tmp_path: Path) -> None:
    options = {"use_mask_token": True} if kind == "beit" else {}
    weights = save_transformer(kind, tmp_path, **options)
    network = build_network("vit", 7, weights=weights, config=str(tmp_path), head="linear").eval()
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    images = torch.rand(2, 3, 24, 40)
    masks = si.random_token_mask(torch.zeros(2, 15, 1), torch.ones(1), 0.5, generator=torch.manual_seed(1))[..., 0]
    torch.manual_seed(1)
    with torch.no_grad():
        whole = network(images).features
        with network.backbone.masked_tokens(0.5):
            found = network(images).features
        tokens = model(network.normalization(images), bool_masked_pos=masks.bool()).last_hidden_state
        again = network(images).features
    others = 1 + getattr(model.config, "num_register_tokens", 0)
    torch.testing.assert_close(found, tokens[:, others:].mT.unflatten(2, (3, 5)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, whole)
    assert torch.equal(again, whole)


@pytest.mark.parametrize("freeze", [False, True])
def test_the_network_sees_masked_tokens_and_its_teacher_whole_images(
    freeze: bool, quiet: list[str], tmp_path: Path
) -> None:
    step, context = made_step(recipe_of(quiet, tmp_path, f"network.options.freeze={str(freeze).lower()}"))
    (teacher,) = (method for method in step.methods if isinstance(method, TargetTeacher))
    seen: dict[str, list[tuple[Tensor, Tensor | None]]] = {"network": [], "teacher": []}

    def record(name: str, network: Any) -> nn.Module:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
            seen[name].append((args[0], kwargs.get("bool_masked_pos")))

        embeddings: nn.Module = network.backbone.encoder.embeddings
        embeddings.register_forward_hook(hook, with_kwargs=True)
        return embeddings

    embeddings = record("network", step.network)
    record("teacher", teacher.teacher.network)
    token = embeddings.mask_token.detach().clone()
    class_token = embeddings.cls_token.detach().clone()
    step.network.train()
    losses = step([context])
    assert losses["masked"] > 0
    images = step.network.normalization(context.unlabeled.images)
    ((of_teacher, mask),) = seen["teacher"]
    assert torch.equal(of_teacher, images)
    assert mask is None
    (_, of_labeled), (of_target, mask) = seen["network"]
    assert of_labeled is None
    assert torch.equal(of_target, images)
    assert mask is not None
    assert mask.shape == (2, 4 * 8)
    assert 0 < int(mask.sum()) < mask.numel()
    assert torch.equal(embeddings.mask_token, token)
    assert token.any()
    assert torch.equal(embeddings.cls_token, class_token) == freeze


def test_another_network_is_rejected() -> None:
    with pytest.raises(RecipeError, match=r"unit=tokens needs a vision transformer, got network\.name=small; set"):
        compose_recipe("mask", "smoke", overrides=[TOKENS])
    assert "masked_consistency" not in compose_recipe("sim", "smoke", overrides=[TOKENS]).methods


@pytest.mark.parametrize("kind", ["dinov2", "beit"])
def test_a_transformer_without_a_mask_token_is_rejected(kind: str) -> None:
    def recipe(use: bool) -> Recipe:
        config = {**TINY["vit"]["config"], "model_type": kind, "use_mask_token": use}  # type: ignore[dict-item]
        content = f"network.options.config={json.dumps(config)}"
        return compose_recipe("mask", "smoke", overrides=["network.name=vit", content, TOKENS])

    assert recipe(True).network.options["config"]["model_type"] == kind
    words = rf"needs a transformer with a mask token, which the {kind} in .* set masked_consistency\.unit=blocks"
    with pytest.raises(RecipeError, match=words):
        recipe(False)


def test_masks_go_on_after_a_stop_and_a_command_trains(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    few = ["schedule.max_steps=4", "schedule.decay_steps=4", "runtime.num_workers=0"]
    overrides = on_tokens(quiet, tmp_path / "dinov2", *few)
    recipe = compose_recipe("mask", "smoke", overrides=overrides)
    images = open_training_data(recipe, streets)
    with pytest.raises(Stopped):
        train(recipe, RunFolder(tmp_path / "cut"), images, device=CPU, stop_after=2)
    resumed = train(recipe, RunFolder(tmp_path / "cut"), images, device=CPU)
    words = ["--preset", "smoke", "--device", "cpu", "--out", tmp_path / "exp", *settings(overrides)]
    invoke("train", "mask", *data(streets), *words)
    whole = RunFolder(tmp_path / "exp" / "mask" / "seed0").result()
    assert whole is not None
    assert whole.weights_sha256 == resumed.weights_sha256
