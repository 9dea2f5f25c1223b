"""The page about MMSegmentation: its hook, with the packages where they can be imported and with stand-ins."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tests.howto import mm_stand_in
from tests.howto.trainer_page import TrainerPage, check_training, run, weights
from tests.howto.two_cities import SPACE, Pictures

# What the packages say about their own future.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "DeprecationWarning")]
PAGE = TrainerPage("mmsegmentation")


class Items(Dataset[Any]):
    """Pictures as MMSegmentation's data sets give them."""

    def __init__(self, pictures: Pictures, sample_of: Callable[[Tensor | None], Any]) -> None:
        self.pictures, self.sample_of = pictures, sample_of

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        labels = None if self.pictures.labels is None else self.pictures.labels[index]
        return {"inputs": self.pictures.images[index], "data_samples": self.sample_of(labels)}


def collate(items: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [item[name] for item in items] for name in items[0]}


class Endless(torch.utils.data.Sampler[int]):
    """Every picture in turn, for ever."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Any:
        while True:
            yield from torch.randperm(self.size).tolist()


def loader(domain: str, count: int, sample_of: Callable[[Tensor | None], Any]) -> DataLoader[Any]:
    items = Items(Pictures(count, domain), sample_of)
    return DataLoader(items, 8, sampler=Endless(count), collate_fn=collate)


class Backbone(nn.Module):
    """One stage, as MMSegmentation's backbones give them: a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.conv(images).relu(),)


def with_stand_ins(monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[[], nn.Module], Callable[[Tensor | None], Any]]:
    for name, held in (("mmengine", []), ("mmengine.hooks", ["Hook"]), ("mmengine.runner", ["Runner"])):
        module = ModuleType(name)
        for each in held:
            setattr(module, each, getattr(mm_stand_in, each))
        monkeypatch.setitem(sys.modules, name, module)
    return lambda: mm_stand_in.EncoderDecoder(SPACE.num_classes), mm_stand_in.sample_of


def with_packages() -> tuple[Callable[[], nn.Module], Callable[[Tensor | None], Any]]:
    try:
        from mmengine.structures import PixelData
        from mmseg.models import EncoderDecoder
        from mmseg.registry import MODELS
        from mmseg.structures import SegDataSample
        from mmseg.utils import register_all_modules
    except ImportError as error:
        pytest.skip(f"MMSegmentation cannot be imported: {error}")
    MODELS.register_module(module=Backbone, force=True)

    def sample_of(labels: Tensor | None) -> Any:
        sample = SegDataSample(metainfo={"img_shape": (64, 64)})
        if labels is not None:
            sample.gt_sem_seg = PixelData(data=labels[None])
        return sample

    def model() -> nn.Module:
        register_all_modules()
        head = {"type": "FCNHead", "in_channels": 8, "channels": 8, "num_classes": SPACE.num_classes, "num_convs": 1}
        return EncoderDecoder(
            backbone={"type": "Backbone"},
            decode_head={**head, "concat_input": False, "norm_cfg": {"type": "BN"}},
            data_preprocessor={"type": "SegDataPreProcessor", "size": (64, 64)},
            train_cfg={},
            test_cfg={"mode": "whole"},
        )

    return model, sample_of


@pytest.fixture(params=["stand-in", "package"])
def names(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Any]:
    """A fresh set of the page's given names at every call."""
    model, sample_of = with_stand_ins(monkeypatch) if request.param == "stand-in" else with_packages()

    def fresh() -> dict[str, Any]:
        torch.manual_seed(0)
        loaders = {f"{d}_loader": loader(d, count, sample_of) for d, count in (("source", 64), ("target", 24))}
        return {**loaders, "model": model(), "space": SPACE, "steps": 16, "folder": tmp_path}

    return fresh


def test_it_trains_with_the_lines_and_without(names: Callable[[], Any]) -> None:
    PAGE.check_count()
    without = run(PAGE.trainer_before, names())["model"]
    after = run(PAGE.trainer, names())
    check_training(after["model"].sim, after["model"], weights(names()["model"]), weights(without))


def test_a_checkpoint_holds_the_banks_and_brings_them_back(
    names: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # MMEngine 0.10 keeps its own classes in the file
    after = run(PAGE.trainer, names())
    path = after["folder"] / "iter_16.pth"
    saved = torch.load(path, weights_only=False)["state_dict"]
    loading = PAGE.trainer.replace("work_dir=", f"load_from={str(path)!r},\n    work_dir=")
    fresh = run(loading, {**names(), "steps": 1})
    written = fresh["model"].sim.stuff_bank.written
    assert bool((saved["sim.stuff_bank.written"] > 0).all())
    assert bool((written > saved["sim.stuff_bank.written"]).all())
    run(PAGE.further[0], after)
    rows = torch.randn(5, after["model"].decode_head.channels)
    expected = after["model"].decode_head.conv_seg(rows[:, :, None, None])[:, :, 0, 0]
    torch.testing.assert_close(after["agreeing"].classifier(rows), expected)
