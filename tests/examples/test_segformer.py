"""SegFormer: the published network's logits, and weights of ``transformers``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from examples.gta5_to_cityscapes import __main__ as program
from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.gta5_to_cityscapes.models import SegmentationNetwork, WeightsError, build_network
from examples.gta5_to_cityscapes.recipes import RecipeError, compose_recipe

transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")
TINY = {"depths": (1, 1, 1, 1), "hidden_sizes": (8, 16, 24, 32), "heads": (1, 2, 3, 4), "fused_dim": 16}


def tiny(num_classes: int = 19, **options: object) -> SegmentationNetwork:
    return build_network("segformer", num_classes, **{**TINY, **options})  # type: ignore[arg-type]


def test_the_default_is_the_published_b0() -> None:
    """3.7 million parameters with 19 classes (Table 1a of the paper says 3.8 with 150)."""
    network = build_network("segformer", 19)
    assert (network.feature_dim, network.stride, network.style) == (256, 4, "torchvision")
    assert sum(p.numel() for p in network.backbone.encoder.parameters()) == 3_319_392
    published = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=19))
    counts = [sum(p.numel() for p in each.parameters()) for each in (network, published)]
    assert counts[0] == counts[1]


def test_the_whole_network_computes_what_the_published_one_does() -> None:
    """The same numbers in the encoder, the fusion and the classifier: the same logits."""
    network = tiny(7).eval()
    configuration = network.backbone.encoder.config
    configuration.num_labels, configuration.decoder_hidden_size = 7, 16
    published = transformers.SegformerForSemanticSegmentation(configuration).eval()
    with torch.no_grad():
        for parameter in published.parameters():
            nn.init.normal_(parameter, std=0.2)
    head, fusion = published.decode_head, network.backbone.fusion
    network.backbone.encoder.load_state_dict(published.segformer.state_dict())
    projections = next(each for each in head.children() if isinstance(each, nn.ModuleList))
    for mine, theirs in zip(fusion.projections, projections, strict=True):
        mine.load_state_dict({"weight": theirs.proj.weight[:, :, None, None], "bias": theirs.proj.bias})
    fusion.norm.load_state_dict(head.batch_norm.state_dict())
    # There the deepest stage comes first.
    fusion.fuse.weight.data = head.linear_fuse.weight.unflatten(1, (4, 16)).flip(1).flatten(1, 2).detach()
    network.head.branches[0].load_state_dict(head.classifier.state_dict())
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = published(network.normalization(images)).logits
        torch.testing.assert_close(network(images).logits, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_only_training_leaves_branches_out() -> None:
    network = tiny(drop_path=0.9)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(network(images).features, network(images).features)
        network.eval()
        assert torch.equal(network(images).features, network(images).features)


# --- weights ---


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A folder as published ones are, with a head, and the encoder's tensors under the installed release's names."""
    folder = tmp_path_factory.mktemp("mit")
    configuration = transformers.SegformerConfig(
        depths=TINY["depths"], hidden_sizes=TINY["hidden_sizes"], num_attention_heads=TINY["heads"], num_labels=5
    )
    model = transformers.SegformerForImageClassification(configuration)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return folder, model.segformer.state_dict()


@pytest.mark.parametrize("how", ["folder", "safetensors", "pickled", "without prefix"])
def test_a_published_encoder_is_loaded_whole(
    tmp_path: Path, published: tuple[Path, dict[str, Tensor]], how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, expected = published
    path = folder if how == "folder" else folder / "model.safetensors"
    if how in ("pickled", "without prefix"):
        from safetensors.torch import load_file

        tensors = load_file(path)
        if how == "without prefix":
            tensors = {name.removeprefix("segformer."): value for name, value in tensors.items()}
        path = tmp_path / "pytorch_model.bin"
        torch.save(tensors, path)
    network = tiny(weights=path)
    for name, value in network.backbone.encoder.state_dict().items():
        assert torch.equal(value, expected[name]), name
    report = network.weights_report
    assert report is not None
    assert report.origin == "transformers"
    assert len(report.loaded) == len(expected)
    assert {name.rpartition(".")[0] for name in report.skipped} == {"classifier"}
    assert all(name.startswith(("backbone.fusion.", "head.", "normalization.")) for name in report.missing)
    assert capfd.readouterr() == ("", "")


def test_an_encoder_of_another_size_is_rejected_with_what_to_set(published: tuple[Path, dict[str, Tensor]]) -> None:
    with pytest.raises(WeightsError, match=r"mit.*expected an encoder of depths \[1, 1, 2, 1\].*is missing.*\.depths"):
        tiny(weights=published[0], depths=(1, 1, 2, 1))
    with pytest.raises(WeightsError, match=r"29 tensors differ.*\(8, 8\) in the file, \(16, 16\) in the network"):
        tiny(weights=published[0], hidden_sizes=(16, 16, 24, 32))


def test_other_weights_are_rejected(tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match=r"resnet\.pth: expected weights of a SegFormer encoder"):
        tiny(weights=tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match="expected a weights file, found none"):
        tiny(weights=tmp_path)


# --- what cannot be ---


def test_sizes_that_do_not_fit_are_rejected() -> None:
    with pytest.raises(ValueError, match="depths must be four numbers"):
        tiny(depths=(1, 1, 1))
    with pytest.raises(ValueError, match=r"hidden_sizes must be multiples of heads \[1, 2, 3, 5\]"):
        tiny(heads=(1, 2, 3, 5))
    with pytest.raises(ValueError, match="stride must be 4 or 8, got 16"):
        tiny(stride=16)
    with pytest.raises(ValueError, match=r"images must be at least 32 by 32 .*\(1, 3, 31, 64\)"):
        tiny()(torch.rand(1, 3, 31, 64))
    with pytest.raises(RecipeError, match="options of segformer must be among depths, hidden_sizes"):
        compose_recipe("aa", overrides=["network.name=segformer", "network.options.width=8"])


def test_without_the_package_it_is_named(
    streets: Folders, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"segformer needs the package transformers: .*\[examples,transf"):
        tiny()
    assert build_network("small", 19, width=8).feature_dim == 64
    words = ["train", "source", "--source", str(streets.source), "--target", str(streets.target)]
    more = ["--out", str(elsewhere / "runs"), "--preset", "smoke", "--set", "network.name=segformer"]
    monkeypatch.setattr("sys.argv", ["x", *words, *more])
    with pytest.raises(SystemExit) as left:
        program.start()
    assert left.value.code == 1
    assert "pip install -e '.[examples,transformers]'" in capsys.readouterr().err
