"""The page about segmentation-models-pytorch.

The package imports torchvision, whose wheels hold code for one build of PyTorch each; where no fitting one is installed
the page runs on a stand-in that ends as the package's models do.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.howto.trainer_page import TrainerPage, banks, check_training, run, seeded, weights
from tests.howto.two_cities import given

PAGE = TrainerPage("segmentation_models_pytorch")


class StandIn(nn.Module):
    """A model that ends like the package's: features, then a head of convolution, upsampling and activation."""

    def __init__(self, encoder_name: str, encoder_weights: None, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.BatchNorm2d(16), nn.ReLU())
        upsampling = nn.UpsamplingBilinear2d(scale_factor=4)
        self.segmentation_head = nn.Sequential(nn.Conv2d(16, classes, 1), upsampling, nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.segmentation_head(self.encoder(images))
        return logits


def use_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("segmentation_models_pytorch")
    module.DeepLabV3Plus = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture(params=["stand-in", "package"])
def names(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    if request.param == "stand-in":
        use_stand_in(monkeypatch)
    else:
        try:
            import segmentation_models_pytorch  # noqa: F401
        except (ImportError, RuntimeError) as error:  # torchvision made for another build of torch: RuntimeError
            pytest.skip(f"segmentation_models_pytorch cannot be imported: {error}")
    return {**given(), "epochs": 2, "folder": tmp_path}


def test_it_trains_with_the_lines_and_without(names: dict[str, Any]) -> None:
    PAGE.check_count()
    start = seeded(PAGE.trainer_before.split("optimiser =")[0], names)["model"]
    without = seeded(PAGE.trainer_before, names)["model"]
    after = seeded(PAGE.trainer, names)
    check_training(after["sim"], after["model"], weights(start), weights(without))
    assert after["features"].shape[2:] == after["logits"].shape[2:] == (16, 16)


def test_resume_and_agreement(names: dict[str, Any]) -> None:
    agreement, resume = PAGE.further
    after = seeded(PAGE.trainer, {**names, "epochs": 1})
    saved = banks(after["sim"])
    fresh = seeded(PAGE.trainer, {**names, "epochs": 0})
    save, load = resume.split("saved = ")
    run(save, after)
    run("saved = " + load, fresh)
    torch.testing.assert_close(banks(fresh["sim"]), saved, rtol=0, atol=0)
    run(agreement, after)
    after["sim"].update(after["features"].detach(), after["labels"], after["logits"])
    assert int(after["sim"].stuff_bank.written.sum()) > 0
