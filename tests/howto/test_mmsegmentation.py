"""The page about MMSegmentation, with the packages: ``make test-trainers`` installs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tests.howto.mmcv_lite import import_mmseg_models
from tests.howto.trainer_page import TrainerPage, check_training, run, weights
from tests.howto.two_cities import SPACE, Images

models = import_mmseg_models()
config, engine_structures = (pytest.importorskip(f"mmengine.{name}") for name in ("config", "structures"))
registry, structures, utilities = (pytest.importorskip(f"mmseg.{name}") for name in ("registry", "structures", "utils"))

# What the packages say about their own future.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "DeprecationWarning")]
PAGE = TrainerPage("mmsegmentation")


def sample_of(labels: Tensor | None) -> Any:
    sample = structures.SegDataSample(metainfo={"img_shape": (64, 64)})
    if labels is not None:
        sample.gt_sem_seg = engine_structures.PixelData(data=labels[None])
    return sample


@registry.DATASETS.register_module()
class Items(Dataset[Any]):
    """Images as MMSegmentation's data sets give them."""

    def __init__(self, domain: str, count: int) -> None:
        self.samples = Images(count, domain)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        labels = None if self.samples.labels is None else self.samples.labels[index]
        return {"inputs": self.samples.images[index], "data_samples": sample_of(labels)}


def collate(items: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [item[name] for item in items] for name in items[0]}


class Endless(torch.utils.data.Sampler[int]):
    """Every image in turn, for ever."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Any:
        while True:
            yield from torch.randperm(self.size).tolist()


def loader(domain: str, count: int) -> DataLoader[Any]:
    return DataLoader(Items(domain, count), 8, sampler=Endless(count), collate_fn=collate)


@registry.MODELS.register_module()
class Backbone(nn.Module):
    """One stage, as MMSegmentation's backbones give them: a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.conv(images).relu(),)


HEAD = {"in_channels": 8, "channels": 8, "num_classes": SPACE.num_classes, "norm_cfg": {"type": "BN"}}
FCN = {"type": "FCNHead", "num_convs": 1, "concat_input": False, **HEAD}
MODEL = {
    "backbone": {"type": "Backbone"},
    "decode_head": FCN,
    "data_preprocessor": {"type": "SegDataPreProcessor", "size": (64, 64)},
    "train_cfg": {},
    "test_cfg": {"mode": "whole"},
}
AGREEMENT = PAGE.further[-1]


@pytest.fixture
def names(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A fresh set of the page's given names at every call."""
    utilities.register_all_modules()

    def fresh(model: type[nn.Module] = models.EncoderDecoder, **words: Any) -> dict[str, Any]:
        torch.manual_seed(0)
        loaders = {f"{d}_loader": loader(d, count) for d, count in (("source", 64), ("target", 24))}
        return {**loaders, "model": model(**MODEL, **words), "space": SPACE, "steps": 16, "folder": tmp_path}

    return fresh


def test_it_trains_with_the_lines_and_without(names: Callable[..., Any]) -> None:
    PAGE.check_count()
    without = run(PAGE.trainer_before, names())["model"]
    after = run(PAGE.trainer, names())
    check_training(after["model"].sim, after["model"], weights(names()["model"]), weights(without))


def test_the_log_shows_losses_before_the_weight(names: Callable[..., Any]) -> None:
    after = run(PAGE.trainer, names())
    logged = {key: value.current() for key, value in after["runner"].message_hub.log_scalars.items()}
    for name in ("stuff", "instance"):
        assert logged[f"train/loss_{name}"] == pytest.approx(0.01 * logged[f"train/{name}"])
    assert logged["train/stuff"] > 0
    losses = ("train/decode.loss_ce", "train/loss_stuff", "train/loss_instance")
    assert logged["train/loss"] == pytest.approx(sum(logged[key] for key in losses), rel=1e-4)


@pytest.mark.parametrize("ratio", [0, -1])
def test_a_head_without_dropout(names: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, ratio: int) -> None:
    monkeypatch.setitem(MODEL, "decode_head", {**FCN, "dropout_ratio": ratio})
    after = run(PAGE.trainer, names())
    assert after["model"].decode_head.dropout is None
    assert bool((after["model"].sim.stuff_bank.written > 0).all())


def test_a_cascade(names: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, target_pass, _ = PAGE.further
    last = {"type": "OCRHead", "ocr_channels": 8, **HEAD}
    monkeypatch.setitem(MODEL, "decode_head", [FCN, last])
    (plain,) = (line for line in PAGE.trainer.splitlines() if line.strip().startswith("model(model."))
    code = PAGE.trainer.replace(plain, indent(target_pass, 16 * " ")).replace(
        "model.decode_head", "model.decode_head[-1]"
    )
    given = {**names(models.CascadeEncoderDecoder, num_stages=2), "steps": 64}
    after = run(code, given)
    bank = after["model"].sim.stuff_bank
    assert bool((bank.written > bank.capacity).any()), "still warming up: nothing was matched"
    run(AGREEMENT.replace("model.decode_head", "model.decode_head[-1]"), after)
    assert after["agreeing"].classifier(torch.randn(5, 8)).shape == (5, SPACE.num_classes)


def test_a_hook_registered_with_a_configuration(names: Callable[..., Any]) -> None:
    from_file, _, _ = PAGE.further
    hook = PAGE.trainer.split("checkpoint =")[0]
    data = {"dataset": {"type": "Items", "domain": "source", "count": 64}, "batch_size": 8, "num_workers": 0}
    data["sampler"] = {"type": "InfiniteSampler", "shuffle": True}
    data["collate_fn"] = {"type": "pseudo_collate"}
    configuration = config.Config(
        {
            "model": {"type": "EncoderDecoder", **MODEL},
            "work_dir": str(names()["folder"]),
            "default_scope": "mmseg",
            "train_dataloader": data,
            "target_dataloader": {**data, "dataset": {"type": "Items", "domain": "target", "count": 24}},
            "train_cfg": {"by_epoch": False, "max_iters": 4},
            "optim_wrapper": {"optimizer": {"type": "AdamW", "lr": 0.01}},
        }
    )
    after = run(hook + from_file, {"space": SPACE, "configuration": configuration})
    assert int(after["runner"].model.sim.stuff_bank.written.sum()) > 0


def test_a_checkpoint_holds_the_banks_and_brings_them_back(
    names: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
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
    run(AGREEMENT, after)
    rows = torch.randn(5, after["model"].decode_head.channels)
    expected = after["model"].decode_head.conv_seg(rows[:, :, None, None])[:, :, 0, 0]
    torch.testing.assert_close(after["agreeing"].classifier(rows), expected)
