"""Networks of every kind, small enough for a test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from examples.gta5_to_cityscapes.models import SegmentationNetwork, build_network

# Small relatives of the full-size networks: the same names and structure in milliseconds.
TINY: dict[str, dict[str, object]] = {
    "deeplabv2_resnet101": {"blocks": (1, 1, 2, 1), "width": 8},
    "deeplabv2_vgg16": {"divide": 16},
    "small": {"width": 16},
    "efficientnet_lite": {"fused_dim": 16},
    "segformer": {
        "depths": (1, 1, 1, 1), "hidden_sizes": (8, 16, 24, 32), "heads": (1, 2, 3, 4), "fused_dim": 16,
        "drop_path": 0.0,
    },
    "vit": {
        "config": {
            "model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8,
        },
        "fused_dim": 16,
    },
    "timm": {"model": "test_convnext", "fused_dim": 16},
}  # fmt: skip
CASES = [*TINY, "segformer at stride 8", "efficientnet_lite at stride 4", "vit at stride 4", "timm at stride 4"]


def save_transformer(kind: str, folder: Path, **settings: object) -> Path:
    """A small transformer with random weights in a folder, as published ones are."""
    transformers = pytest.importorskip("transformers")
    config = {**TINY["vit"]["config"], "model_type": kind, "intermediate_size": 32, **settings}  # type: ignore[dict-item]
    if kind not in transformers.models.auto.configuration_auto.CONFIG_MAPPING:
        pytest.skip(f"this release of transformers has no {kind}")
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


def tiny(case: str, num_classes: int = 19, **options: object) -> SegmentationNetwork:
    name, _, stride = case.partition(" at stride ")
    if name in ("segformer", "vit"):
        pytest.importorskip("transformers")
    if name == "timm":  # a torchvision for another torch raises the second of these
        pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    options = TINY[name] | ({"stride": int(stride)} if stride else {}) | options
    return build_network(name, num_classes, **options)  # type: ignore[arg-type]
