"""The page about segmentation-models-pytorch, with the package: ``make test-trainers`` installs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import stuffinstance as si
from tests.howto.trainer_page import TrainerPage, banks, check_training, run, seeded, weights
from tests.howto.two_cities import SPACE, given

# torchvision made for another build of torch: RuntimeError
smp = pytest.importorskip("segmentation_models_pytorch", exc_type=(ImportError, RuntimeError))
PAGE = TrainerPage("segmentation_models_pytorch")


@pytest.fixture
def names(tmp_path: Path) -> dict[str, Any]:
    return {**given(), "epochs": 2, "folder": tmp_path}


def test_it_trains_with_the_lines_and_without(names: dict[str, Any]) -> None:
    PAGE.check_count()
    start = seeded(PAGE.trainer_before.split("optimizer =")[0], names)["model"]
    without = seeded(PAGE.trainer_before, names)["model"]
    after = seeded(PAGE.trainer, names)
    check_training(after["sim"], after["model"], weights(start), weights(without))
    assert after["features"].shape[2:] == after["logits"].shape[2:] == (16, 16)


def test_resume_and_agreement(names: dict[str, Any]) -> None:
    agreement, _, resume = PAGE.further
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


def distance_to_itself(model: torch.nn.Module) -> tuple[float, float]:
    """The stuff loss of the images that the banks were filled with, and how far two classes are apart in the bank."""
    labels = torch.zeros(4, 128, 128, dtype=torch.long)
    labels[:, :, 64:] = 1
    labels[:, 40:90, 40:90] = 2
    images = torch.eye(3)[labels].movedim(3, 1) + 0.1 * torch.rand(4, 3, 128, 128)
    head, kept = model.segmentation_head[0], {}
    head.register_forward_hook(lambda _, x, logits: kept.update(features=x[0]))
    sim = si.StuffInstanceMatching(SPACE, head.in_channels, capacity=4)
    right = torch.eye(3)[labels].movedim(3, 1)
    with torch.no_grad():
        for _ in range(2):
            model(images)
            logits = F.interpolate(right, kept["features"].shape[2:], mode="nearest")
            sim.update(kept["features"], labels, logits)
        model(images)
        loss = float(sim(kept["features"], logits).stuff)
    rows = sim.stuff_bank.features
    return loss, float((rows[0] - rows[1]).abs().mean())


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("DeepLabV3Plus", "decoder_aspp_dropout"),
        ("FPN", "decoder_dropout"),
        ("PSPNet", "psp_dropout"),
        ("Segformer", None),
        ("UPerNet", None),
    ],
)
def test_an_image_is_near_its_own_rows_without_the_decoder_s_dropout(name: str, setting: str | None) -> None:
    def made(**words: float) -> torch.nn.Module:
        torch.manual_seed(0)
        model: torch.nn.Module = getattr(smp, name)("resnet18", encoder_weights=None, classes=3, **words)
        return model.train()

    loss, between = distance_to_itself(made(**({setting: 0.0} if setting else {})))
    assert loss < 1e-3 * between
    if setting:
        assert f"smp.{name}(..., {setting}=0.0)" in PAGE.text
        loss, between = distance_to_itself(made())
        assert loss > 0.2 * between


@pytest.mark.filterwarnings("ignore::UserWarning:timm", "ignore::FutureWarning:timm")
def test_dpt(names: dict[str, Any]) -> None:
    _, dpt, _ = PAGE.further
    imports, rest = PAGE.trainer.split("model = ")
    loop = "targets = " + rest.split("targets = ")[1]
    optimizer = next(line for line in rest.splitlines() if line.startswith("optimizer"))
    narrow = "decoder_intermediate_channels=(8, 8, 8, 8), decoder_fusion_channels=8, "
    small = dpt.replace('"tu-vit_tiny_patch16_224",', f'"tu-vit_tiny_patch16_224", {narrow}')
    after = seeded("\n".join((imports, small, optimizer, loop)), {**names, "epochs": 1})
    assert after["features"].shape[2:] == after["logits"].shape[2:]
    assert after["features"].shape[1] == after["head"].in_channels
    assert int(after["sim"].stuff_bank.written.sum()) > 0
