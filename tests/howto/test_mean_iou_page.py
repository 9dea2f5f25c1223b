"""The page about MeanIoU: in a plain loop, in Lightning, beside torchmetrics, and what absent classes count."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tests.code_blocks import code_blocks
from tests.howto.trainer_page import HOWTO, run
from tests.howto.two_cities import given

PLAIN, LIGHTNING, TORCHMETRICS = code_blocks(HOWTO / "mean_iou.md", "python")


@pytest.fixture
def names(tmp_path: Path) -> dict[str, Any]:
    start = given()
    start["network"].eval()
    loader = DataLoader(start["source_dataset"], 8)
    return run(PLAIN, {**start, "validation_loader": loader, "folder": tmp_path})


def test_a_plain_loop(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 < names["iou"].mean < 1
    assert math.isnan(names["score"].compute().mean)


@pytest.mark.filterwarnings("ignore:::lightning", "ignore::UserWarning:torch")
def test_lightning_logs_the_score(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    lightning = pytest.importorskip("lightning")
    after = run(LIGHTNING, dict(names))
    logged = after["trainer"].callback_metrics
    assert float(logged["val_miou"]) == pytest.approx(names["iou"].mean)
    for name, value in zip(names["space"].names, names["iou"].per_class, strict=True):
        assert float(logged[f"val_iou/{name}"]) == pytest.approx(float(value))
    assert math.isnan(after["model"].score.compute().mean)

    class LogsTheModule(after["Segmenter"]):
        def on_validation_epoch_end(self) -> None:
            self.log("val_miou", self.score)

    trainer = lightning.Trainer(default_root_dir=names["folder"])
    with pytest.raises((ValueError, TypeError), match="log"):
        trainer.validate(LogsTheModule(names["network"], names["space"]), names["validation_loader"])


def test_beside_torchmetrics_it_is_the_same_number(names: dict[str, Any]) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    names["F"] = torch.nn.functional
    results = run(TORCHMETRICS, dict(names))["results"]
    assert results["miou"] == pytest.approx(names["iou"].mean)
    assert float(results["jaccard"]) == pytest.approx(results["miou"], rel=1e-5)
    with pytest.raises(ValueError, match="instance"):
        torchmetrics.MetricCollection({"miou": names["score"]})
