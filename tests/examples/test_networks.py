"""Networks: shapes, stride, dilation, the linear head, and weights of every style checked by name and shape."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from examples.gta5_to_cityscapes.models import SegmentationNetwork, WeightsError, build_network

# Two-block relatives of the full-size networks: the same names and structure in milliseconds.
TINY_RESNET = {"blocks": (1, 1, 2, 1), "width": 8}
TINY_VGG = {"divide": 16}
CASES = [("deeplabv2_resnet101", TINY_RESNET), ("deeplabv2_vgg16", TINY_VGG), ("small", {"width": 16})]


def tiny(name: str, num_classes: int = 19, **options: object) -> SegmentationNetwork:
    return build_network(name, num_classes, **{**dict(CASES)[name], **options})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", [name for name, _ in CASES])
@pytest.mark.parametrize(("height", "width"), [(64, 128), (65, 127), (50, 33)])
def test_shapes_at_any_size(name: str, height: int, width: int) -> None:
    network = tiny(name, num_classes=13)
    features, logits, _ = network(torch.rand(2, 3, height, width))
    assert features.shape[:2] == (2, network.feature_dim)
    assert logits.shape == (2, 13, *features.shape[2:])
    for image, cells in zip((height, width), features.shape[2:], strict=True):
        assert image // network.stride <= cells <= image // network.stride + 2


@pytest.mark.parametrize("name", [name for name, _ in CASES])
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


@pytest.mark.parametrize("name", [name for name, _ in CASES])
def test_classify_is_the_head_on_one_pixel(name: str) -> None:
    network = tiny(name, num_classes=7)
    for parameter in network.head.parameters():
        nn.init.normal_(parameter)
    rows = torch.randn(5, network.feature_dim)
    expected = network.head(rows[:, :, None, None])[:, :, 0, 0]
    assert torch.allclose(network.classify(rows), expected, atol=1e-4)
    assert network.classify(rows[:0]).shape == (0, 7)
    with pytest.raises(ValueError, match="rows must be"):
        network.classify(rows[:, 1:])


@pytest.mark.parametrize("name", [name for name, _ in CASES])
def test_gradient_reaches_all_that_trains_and_nothing_else(name: str) -> None:
    network = tiny(name)
    network(torch.rand(2, 3, 64, 64)).logits.square().sum().backward()
    for key, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), key
            assert key.startswith("backbone.") or parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", [name for name, _ in CASES])
def test_parameter_groups_hold_what_trains_once_head_ten_times_faster(name: str) -> None:
    network = tiny(name)
    backbone, head = network.parameter_groups(2.5e-4)
    assert (backbone["lr"], head["lr"]) == (2.5e-4, 2.5e-3)
    assert {id(p) for p in head["params"]} == {id(p) for p in network.head.parameters()}
    listed = [id(p) for group in (backbone, head) for p in group["params"]]
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


# --- weights ---


def backbone_tensors(network: SegmentationNetwork) -> dict[str, Tensor]:
    return {
        key: torch.randn_like(value.float()).to(value.dtype) for key, value in network.backbone.state_dict().items()
    }


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def caffe_dict(num_classes: int = 21, *, prefix: str = "Scale.") -> dict[str, Tensor]:
    network = tiny("deeplabv2_resnet101")
    tensors = {f"{prefix}{key}": value for key, value in backbone_tensors(network).items() if "num_batches" not in key}
    for index in range(4):
        shape = (num_classes, network.feature_dim, 3, 3)
        tensors[f"{prefix}layer5.conv2d_list.{index}.weight"] = torch.randn(shape)
        tensors[f"{prefix}layer5.conv2d_list.{index}.bias"] = torch.randn(num_classes)
    return tensors


def torchvision_dict() -> dict[str, Tensor]:
    tensors = backbone_tensors(tiny("deeplabv2_resnet101"))
    return {**tensors, "fc.weight": torch.randn(1000, 256), "fc.bias": torch.randn(1000)}


def assert_backbone_equals(network: SegmentationNetwork, tensors: dict[str, Tensor], prefix: str = "") -> None:
    own = network.backbone.state_dict()
    for key, value in own.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, tensors[f"{prefix}{key}"]), key


@pytest.mark.parametrize("prefix", ["Scale.", "", "module.Scale."])
def test_caffe_style_weights_set_style_and_backbone_and_skip_a_foreign_head(tmp_path: Path, prefix: str) -> None:
    tensors = caffe_dict(21, prefix=prefix)
    network = tiny("deeplabv2_resnet101", weights=saved(tmp_path / "init.pth", tensors))
    assert network.style == "caffe"
    assert network.backbone.layer2[0].conv1.stride == (2, 2)
    assert_backbone_equals(network, tensors, prefix)
    report = network.weights_report
    assert report is not None
    assert report.origin == "caffe"
    assert "21" in report.skipped["head.branches.0.weight"]
    assert "head.branches.0.weight" in report.missing
    assert report.unexpected == ()


def test_caffe_style_head_of_the_same_classes_is_loaded(tmp_path: Path) -> None:
    tensors = caffe_dict(19, prefix="")
    network = tiny("deeplabv2_resnet101", weights=saved(tmp_path / "trained.pth", tensors))
    for index in range(4):
        assert torch.equal(network.head.branches[index].weight, tensors[f"layer5.conv2d_list.{index}.weight"])


def test_the_deeper_of_two_classifiers_is_taken(tmp_path: Path) -> None:
    """Two-level models hang layer5 on res4 and layer6 on res5, which is where this head sits."""
    tensors = caffe_dict(19, prefix="")
    deep = {key.replace("layer5", "layer6"): value + 1 for key, value in tensors.items() if "layer5" in key}
    network = tiny("deeplabv2_resnet101", weights=saved(tmp_path / "multi.pth", {**tensors, **deep}))
    assert torch.equal(network.head.branches[2].weight, deep["layer6.conv2d_list.2.weight"])
    assert "layer5.conv2d_list.0.weight" in network.weights_report.skipped


def test_torchvision_weights_keep_their_style(tmp_path: Path) -> None:
    tensors = torchvision_dict()
    network = tiny("deeplabv2_resnet101", weights=saved(tmp_path / "resnet.pth", {"state_dict": tensors}))
    assert network.style == "torchvision"
    assert_backbone_equals(network, tensors)
    assert set(network.weights_report.skipped) == {"fc.weight", "fc.bias"}
    forced = tiny("deeplabv2_resnet101", weights=tmp_path / "resnet.pth", style="caffe")
    assert forced.style == "caffe"


def test_torchvision_vgg_has_no_fc6_of_this_shape(tmp_path: Path) -> None:
    tensors = {key: value for key, value in backbone_tensors(tiny("deeplabv2_vgg16")).items() if "fc" not in key}
    full = {**tensors, "classifier.0.weight": torch.randn(8, 8), "classifier.0.bias": torch.randn(8)}
    network = tiny("deeplabv2_vgg16", weights=saved(tmp_path / "vgg.pth", full))
    assert torch.equal(network.backbone.features[28].weight, tensors["features.28.weight"])
    report = network.weights_report
    assert set(report.skipped) == {"classifier.0.weight", "classifier.0.bias"}
    assert {"backbone.fc6.weight", "backbone.fc7.bias"} <= set(report.missing)
    assert "2 skipped" in str(report)


@pytest.mark.parametrize("name", [name for name, _ in CASES])
def test_own_checkpoints_come_back_whole(tmp_path: Path, name: str) -> None:
    options = {} if name == "small" else {"style": "caffe"}
    first = tiny(name, **options).eval()
    path = saved(tmp_path / "last.pt", {"network": first.state_dict(), "step": 7})
    again = tiny(name, weights=path).eval()
    assert again.style == first.style
    assert again.weights_report.missing == ()
    image = torch.rand(1, 3, 64, 96)
    assert torch.equal(first(image).logits, again(image).logits)
    fewer = tiny(name, num_classes=13, weights=path)
    assert set(fewer.weights_report.skipped) == {key for key in first.state_dict() if key.startswith("head.")}
    assert_backbone_equals(fewer, first.backbone.state_dict())


def test_safetensors_are_read_where_the_package_is(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    tensors = torchvision_dict()
    safetensors.save_file(tensors, tmp_path / "resnet.safetensors")
    assert_backbone_equals(tiny("deeplabv2_resnet101", weights=tmp_path / "resnet.safetensors"), tensors)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match=r"broken\.safetensors: expected"):
        tiny("deeplabv2_resnet101", weights=tmp_path / "broken.safetensors")


def test_weights_that_do_not_fit_are_rejected_by_name(tmp_path: Path) -> None:
    tensors = torchvision_dict()
    tensors["layer3.1.conv2.weight"] = torch.randn(4, 4, 3, 3)
    del tensors["layer4.0.bn3.running_var"]
    with pytest.raises(
        WeightsError,
        match=r"wrong\.pth.*conv2\.weight is \(4, 4, 3, 3\) in the file, \(32, 32, 3, 3\).*bn3\.running_var",
    ):
        tiny("deeplabv2_resnet101", weights=saved(tmp_path / "wrong.pth", tensors))
    with pytest.raises(WeightsError, match="Choose the network these weights belong to"):
        tiny("deeplabv2_vgg16", weights=saved(tmp_path / "resnet.pth", torchvision_dict()))


class _Intruder:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.target, "ran")


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_weights_file_is_not_run(tmp_path: Path, how: str) -> None:
    mark, path = tmp_path / "mark", tmp_path / "evil.pth"
    content = {"state_dict": _Intruder(mark)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=r"evil\.pth: expected tensors only"):
        tiny("deeplabv2_resnet101", weights=path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "expected"), (b"PK\x03\x04 broken", "expected"), (None, "expected a weights file, found none")],
)
def test_damaged_or_absent_files_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        tiny("small", weights=path)


def test_a_file_without_tensors_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected a state dict, got list"):
        tiny("small", weights=saved(tmp_path / "a.pth", [1, 2]))
    with pytest.raises(WeightsError, match="expected tensors by name"):
        tiny("small", weights=saved(tmp_path / "b.pth", {"step": 3}))
