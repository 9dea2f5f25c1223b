"""Networks: the interface of all of them, and the structure of DeepLab and the small one."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.models import build_network
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training.loop import train
from examples.gta5_to_cityscapes.training.recipe_network import start_network, trained_network

from .tiny_networks import CASES, TINY, tiny

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("height", "width"), [(64, 128), (65, 127), (50, 33)])
def test_shapes_at_any_size(name: str, height: int, width: int) -> None:
    network = tiny(name, num_classes=13)
    features, logits, auxiliary, encoded, *_ = network(torch.rand(2, 3, height, width))
    assert (encoded is None) == (not hasattr(network.backbone, "encoder"))
    assert auxiliary is None
    assert features.shape[:2] == (2, network.feature_dim)
    assert logits.shape == (2, 13, *features.shape[2:])
    for image, cells in zip((height, width), features.shape[2:], strict=True):
        assert image // network.stride <= cells <= image // network.stride + 2


@pytest.mark.parametrize("name", ["deeplabv2_resnet101", "small", "efficientnet_lite"])
def test_an_auxiliary_head_is_trained_like_the_other(name: str) -> None:
    network = tiny(name, num_classes=7, auxiliary=True)
    _, logits, auxiliary, *_ = network(torch.rand(2, 3, 64, 96))
    assert auxiliary is not None
    assert auxiliary.shape == logits.shape
    auxiliary.square().sum().backward()
    heads = network.parameter_groups(0.1)[1]["params"]
    for parameter in network.auxiliary_head.parameters():
        assert parameter.grad is not None
        assert any(parameter is each for each in heads)


@pytest.mark.parametrize("name", ["deeplabv2_resnet101", "deeplabv2_vgg16", "small"])
def test_stride_is_what_it_says(name: str) -> None:
    """Moving the image by one stride moves the features by one cell, away from the border."""
    network = tiny(name).eval()
    if name == "small":
        network = build_network("small", 19, width=16, norm="batch", dilations=(1,)).eval()
    image = torch.zeros(1, 3, 384, 384)
    image[..., 172:212, 172:212] = torch.rand(3, 40, 40)
    moved = image.roll((network.stride, 2 * network.stride), (2, 3))
    with torch.no_grad():
        features, other = network(image).features, network(moved).features
    inner = slice(19, -19)
    assert torch.allclose(features.roll((1, 2), (2, 3))[..., inner, inner], other[..., inner, inner], atol=1e-4)
    assert features.std((2, 3)).max() > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_rows_are_classified_as_maps_of_one_pixel(name: str) -> None:
    network = tiny(name, num_classes=7)
    for parameter in network.head.parameters():
        nn.init.normal_(parameter)
    rows = torch.randn(5, network.feature_dim)
    expected = network.head(rows[:, :, None, None])[:, :, 0, 0]
    assert torch.allclose(network.classify(rows), expected, atol=1e-4)
    assert network.classify(rows[:0]).shape == (0, 7)
    with pytest.raises(ValueError, match="rows must be"):
        network.classify(rows[:, 1:])


@pytest.mark.parametrize("name", CASES)
def test_gradient_reaches_all_that_trains_and_nothing_else(name: str) -> None:
    network = tiny(name)
    network(torch.rand(2, 3, 64, 64)).logits.square().sum().backward()
    for key, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), key
            assert key.startswith("backbone.") or parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", CASES)
def test_parameter_groups_hold_what_trains_once_and_what_is_new_learns_faster(name: str) -> None:
    network = tiny(name)
    old, new = network.parameter_groups(2.5e-4)
    assert (old["lr"], new["lr"]) == (2.5e-4, 2.5e-3)
    fresh = [network.head, *([network.backbone.fusion] if hasattr(network.backbone, "fusion") else [])]
    assert {id(p) for p in new["params"]} == {id(p) for module in fresh for p in module.parameters()}
    listed = [id(p) for group in (old, new) for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in network.parameters() if p.requires_grad)
    torch.optim.SGD(network.parameter_groups(0.1), lr=0.1, momentum=0.9)


def test_images_are_checked() -> None:
    network = tiny("small")
    with pytest.raises(ValueError, match=r"images must be floating point RGB.*images.float\(\) / 255"):
        network(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match="images must be"):
        network(torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match="name must be one of"):
        build_network("unet", 19)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_classes must be"):
        build_network("small", 0)


def test_normalization_follows_the_style() -> None:
    image = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
    caffe = tiny("deeplabv2_resnet101", style="caffe").normalization(image).flatten()
    expected = [0.6 * 255 - 104.00698793, 0.4 * 255 - 116.66876762, 0.2 * 255 - 122.67891434]
    assert caffe.tolist() == pytest.approx(expected, abs=1e-4)
    ours = tiny("deeplabv2_resnet101", style="torchvision").normalization(image).flatten()
    expected = [(0.2 - 0.485) / 0.229, (0.4 - 0.456) / 0.224, (0.6 - 0.406) / 0.225]
    assert ours.tolist() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="style must be"):
        tiny("deeplabv2_resnet101", style="bgr")


# --- DeepLabV2 ---


def test_resnet101_has_the_published_structure() -> None:
    network = build_network("deeplabv2_resnet101", 19)
    backbone = network.backbone
    assert (network.feature_dim, network.stride) == (2048, 8)
    trained = sum(p.numel() for p in network.backbone.parameters())
    assert trained == 44_549_160 - (2048 * 1000 + 1000)  # torchvision's ResNet-101 without its classifier
    convolutions = {key: m for key, m in backbone.named_modules() if isinstance(m, nn.Conv2d)}
    dilated = {d: sum(m.dilation == (d, d) for m in convolutions.values()) for d in (2, 4)}
    assert dilated == {2: 23, 4: 3}
    assert [key for key, m in convolutions.items() if m.stride == (2, 2)] == [
        "conv1", "layer2.0.conv2", "layer2.0.downsample.0",
    ]  # fmt: skip
    assert [branch.dilation[0] for branch in network.head.branches] == [6, 12, 18, 24]
    assert all(0.009 < float(branch.weight.detach().std()) < 0.011 for branch in network.head.branches)


def test_caffe_style_moves_the_stride_and_rounds_the_pooling_up() -> None:
    networks = {style: tiny("deeplabv2_resnet101", style=style).eval() for style in ("caffe", "torchvision")}
    assert networks["caffe"].backbone.layer2[0].conv1.stride == (2, 2)
    assert networks["caffe"].backbone.layer2[0].conv2.stride == (1, 1)
    assert networks["torchvision"].backbone.layer2[0].conv1.stride == (1, 1)
    assert networks["torchvision"].backbone.layer2[0].conv2.stride == (2, 2)
    image = torch.rand(1, 3, 64, 128)
    assert networks["caffe"](image).features.shape[2:] == (9, 17)
    assert networks["torchvision"](image).features.shape[2:] == (8, 16)


@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_affine_of_batch_norm_never_trains_and_statistics_follow_the_option(batch_norm: str) -> None:
    network = tiny("deeplabv2_resnet101", batch_norm=batch_norm).train()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(p.requires_grad for m in norms for p in m.parameters())
    before = [m.running_mean.clone() for m in norms]
    network(torch.rand(2, 3, 64, 64))
    moved = [not torch.equal(a, m.running_mean) for a, m in zip(before, norms, strict=True)]
    assert all(moved) if batch_norm == "train" else not any(moved)
    network.eval()
    assert not any(m.training for m in network.modules())
    with pytest.raises(ValueError, match="batch_norm must be"):
        tiny("deeplabv2_resnet101", batch_norm="sync")


def test_vgg16_has_the_published_structure() -> None:
    with torch.device("meta"):
        network = build_network("deeplabv2_vgg16", 19)
    assert (network.feature_dim, network.stride) == (1024, 8)
    backbone = network.backbone
    convolutions = [m for m in backbone.features if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert [m.dilation[0] for m in convolutions] == [1] * 10 + [2] * 3
    # torchvision's numbering, by which weights are found
    positions = [i for i, m in enumerate(backbone.features) if isinstance(m, nn.Conv2d)]
    assert positions == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert (backbone.fc6.kernel_size, backbone.fc6.dilation) == ((3, 3), (4, 4))
    assert backbone.fc7.kernel_size == (1, 1)


# --- the small network ---


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_small_network_learns_within_seconds(norm: str) -> None:
    """Left bright, right dark: a few steps must be enough."""
    network = build_network("small", 2, width=16, feature_dim=16, norm=norm)
    image = torch.rand(2, 3, 64, 64) * 0.4
    image[..., :32] += 0.6
    labels = torch.ones(2, 8, 8, dtype=torch.long)
    labels[..., :4] = 0
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(image).logits, labels)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2


def test_small_network_is_small() -> None:
    """The main job trains it a dozen times on two cores; a slip in the stem would show here, not in a table."""
    network = build_network("small", 19)
    macs = 0

    def count(module: nn.Module, _: object, out: Tensor) -> None:
        nonlocal macs
        macs += module.weight[0].numel() * out.numel()  # type: ignore[operator,index]

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    network(torch.rand(1, 3, 120, 240))
    assert 0.05e9 < macs < 0.35e9
    assert sum(p.numel() for p in network.parameters()) < 500_000


def test_group_norm_treats_an_image_the_same_in_any_batch() -> None:
    network = tiny("small").train()
    images = torch.rand(3, 3, 48, 80)
    together = network(images).logits
    alone = torch.cat([network(images[i : i + 1]).logits for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)
    with pytest.raises(ValueError, match="width must be a positive multiple of 4"):
        tiny("small", width=10)
    with pytest.raises(ValueError, match="norm must be"):
        tiny("small", norm="layer")


# --- training ---


@pytest.mark.parametrize(
    ("name", "recipe", "settings"),
    [
        ("segformer", "aa+it+sim", ["network.options.drop_path=0.5"]),
        ("efficientnet_lite", "asn+it+sim", ["runtime.channels_last=true", "network.options.freeze_stages=1"]),
    ],
)
def test_networks_train_with_every_part_and_resume_to_the_same_weights(
    name: str, recipe: str, settings: list[str], streets: Folders, tmp_path: Path
) -> None:
    """The state of stochastic depth, and optimizer states of any memory format, are part of a checkpoint."""
    tiny(name)
    overrides = [f"network.name={name}", "schedule.max_steps=2", "schedule.log_every=1", "runtime.tensorboard=false"]
    overrides += [f"network.options.{key}={json.dumps(value)}" for key, value in TINY[name].items()]
    overrides += ["evaluation.previews=0", "matching.preset=paper", *settings]
    composed = compose_recipe(recipe, "smoke", overrides=overrides)
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    train(composed, whole, open_training_data(composed, streets), device=CPU)
    with pytest.raises(Stopped):
        train(composed, parts, open_training_data(composed, streets), device=CPU, stop_after=1)
    torch.manual_seed(99)
    train(composed, parts, open_training_data(composed, streets), device=CPU)
    lines = [json.loads(line) for line in whole.metrics.read_text().splitlines()]
    losses = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in losses] == [1, 2]
    assert all(0 < line["loss/segmentation"] < 10 for line in losses)
    _, first, step = trained_network(whole.checkpoint, CPU)
    _, second, _ = trained_network(parts.checkpoint, CPU)
    start = start_network(composed, CPU).state_dict()
    assert (step, first.feature_dim) == (2, 16)
    for key, value in first.state_dict().items():
        assert value.isfinite().all(), key
        assert torch.equal(value, second.state_dict()[key]), key
    assert not torch.equal(first.state_dict()["backbone.fusion.fuse.weight"], start["backbone.fusion.fuse.weight"])
