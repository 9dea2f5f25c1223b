"""Networks of every kind, small enough for a test."""

from __future__ import annotations

import pytest

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
}  # fmt: skip
CASES = [*TINY, "segformer at stride 8", "efficientnet_lite at stride 4"]


def tiny(case: str, num_classes: int = 19, **options: object) -> SegmentationNetwork:
    name, _, stride = case.partition(" at stride ")
    if name == "segformer":
        pytest.importorskip("transformers")
    options = TINY[name] | ({"stride": int(stride)} if stride else {}) | options
    return build_network(name, num_classes, **options)  # type: ignore[arg-type]
