"""The page about accelerate: its loop trains, with and without the added lines, and is resumed with its banks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.howto.trainer_page import TrainerPage, banks, check_training, run, weights
from tests.howto.two_cities import given

pytest.importorskip("accelerate")
PAGE = TrainerPage("accelerate")


def trained(code: str, folder: Path) -> dict[str, Any]:
    return run(code, {**given(), "epochs": 2, "folder": folder})


def test_it_trains_with_the_lines_and_without(tmp_path: Path) -> None:
    PAGE.check_count()
    without = trained(PAGE.trainer_before, tmp_path)["network"]
    names = trained(PAGE.trainer, tmp_path)
    check_training(names["sim"], names["network"], weights(given()["network"]), weights(without))


def test_only_the_count_of_batches_decides_when_to_step(tmp_path: Path) -> None:
    counted = PAGE.trainer.replace("optimizer.step()", "optimizer.step(); synced.append(accelerator.sync_gradients)")
    names = run(counted, {**given(), "epochs": 2, "folder": tmp_path, "synced": []})
    assert names["synced"] == [False, True] * 8


def test_a_resumed_run_has_its_banks(tmp_path: Path) -> None:
    agreement, resume = PAGE.further
    saved = trained(PAGE.trainer, tmp_path)
    fresh = run(
        PAGE.trainer.replace("accelerator.save_state(folder)", ""), {**given(), "epochs": 0, "folder": tmp_path}
    )
    assert int(fresh["sim"].stuff_bank.written.sum()) == 0
    run(resume, fresh)
    torch.testing.assert_close(banks(fresh["sim"]), banks(saved["sim"]), rtol=0, atol=0)
    assert torch.equal(weights(fresh["network"]), weights(saved["network"]))
    run(agreement, fresh)
    assert set(fresh["sim"].state_dict()) == set(saved["sim"].state_dict())
