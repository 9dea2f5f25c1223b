"""Start weights: recognized, checked by name and shape, and read without running any code in them."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from examples.gta5_to_cityscapes.models import SegmentationNetwork, WeightsError

from .tiny_networks import CASES, tiny


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


def test_weights_without_an_auxiliary_head_leave_it_as_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path / "resnet.pth", torchvision_dict())
    network = tiny("deeplabv2_resnet101", weights=path, auxiliary=True)
    assert "auxiliary_head.branches.0.weight" in network.weights_report.missing


def test_torchvision_vgg_has_no_fc6_of_this_shape(tmp_path: Path) -> None:
    tensors = {key: value for key, value in backbone_tensors(tiny("deeplabv2_vgg16")).items() if "fc" not in key}
    full = {**tensors, "classifier.0.weight": torch.randn(8, 8), "classifier.0.bias": torch.randn(8)}
    network = tiny("deeplabv2_vgg16", weights=saved(tmp_path / "vgg.pth", full))
    assert torch.equal(network.backbone.features[28].weight, tensors["features.28.weight"])
    report = network.weights_report
    assert set(report.skipped) == {"classifier.0.weight", "classifier.0.bias"}
    assert {"backbone.fc6.weight", "backbone.fc7.bias"} <= set(report.missing)
    assert "2 skipped" in str(report)


@pytest.mark.parametrize("name", CASES)
def test_own_checkpoints_come_back_whole(tmp_path: Path, name: str) -> None:
    options = {"style": "caffe"} if "deeplab" in name else {}
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


def test_safetensors_are_read(tmp_path: Path) -> None:
    tensors = torchvision_dict()
    save_file(tensors, tmp_path / "resnet.safetensors")
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
    [
        (b"", "expected a complete weights file"),
        (b"PK\x03\x04 broken", "expected a complete weights file"),
        (None, "expected a weights file, found none"),
        ([1, 2], "expected a state dict, got list"),
        ({"step": 3}, "expected tensors by name"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=rf"weights\.pth: {message}"):
        tiny("small", weights=path)
