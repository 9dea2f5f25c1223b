"""The page about transformers' Trainer: a SegFormer trains, with and without the added lines, and is resumed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from tests.howto.trainer_page import TrainerPage, banks, check_training, run, seeded, weights
from tests.howto.two_cities import SPACE, Images

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore:.pin_memory. argument")
PAGE = TrainerPage("hugging_face_trainer")
SMALL = (
    "SegformerConfig(depths=(1, 1, 1, 1), hidden_sizes=(8, 8, 16, 16), num_attention_heads=(1, 1, 2, 2), "
    "decoder_hidden_size=16, "
)
TRAINER = PAGE.trainer.replace("SegformerConfig(", SMALL)
WITHOUT_THE_LINE = "\n".join(line for line in TRAINER.splitlines() if "save_original_format" not in line)


class Items(Dataset[Any]):
    """Images as transformers' models want them."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = self.images[index]
        return {"pixel_values": item} if self.images.labels is None else {"pixel_values": item[0], "labels": item[1]}


@pytest.fixture
def names(tmp_path: Path) -> dict[str, Any]:
    data = {"source_dataset": Items(Images(64, "source")), "target_dataset": Items(Images(24, "target"))}
    return {**data, "space": SPACE, "steps": 16, "folder": tmp_path}


def test_it_trains_with_the_lines_and_without(names: dict[str, Any]) -> None:
    PAGE.check_count()
    before = PAGE.trainer_before.replace("SegformerConfig(", SMALL)
    start = seeded(before.split("dataset =")[0], names)["model"]
    without = seeded(before, names)["model"]
    after = seeded(TRAINER, names)
    assert after["model"].config.decoder_hidden_size == 16
    check_training(after["sim"], after["model"], weights(start), weights(without))


def test_evaluation_does_not_write_into_the_banks(names: dict[str, Any]) -> None:
    after = seeded(TRAINER, {**names, "steps": 4})
    before = banks(after["sim"])
    score = after["trainer"].evaluate(names["source_dataset"])
    assert 0 < score["eval_loss"] < 2
    torch.testing.assert_close(banks(after["sim"]), before, rtol=0, atol=0)


def resumed(trainer: str, again: str, names: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``trainer`` after four steps, and ``again`` resumed from its checkpoint of step 2."""
    _, resume = PAGE.further
    whole = seeded(trainer, {**names, "steps": 4})
    shutil.rmtree(names["folder"] / "checkpoint-4")
    fresh = seeded(again.replace("trainer.train()", ""), {**names, "steps": 4})
    assert int(fresh["sim"].stuff_bank.written.sum()) == 0
    assert not torch.equal(weights(fresh["model"]), weights(whole["model"]))
    torch.rand(7)  # random numbers come from the checkpoint
    run(resume, fresh)
    return whole, fresh


def test_a_resumed_run_is_the_uninterrupted_one(names: dict[str, Any]) -> None:
    whole, fresh = resumed(TRAINER, TRAINER, names)
    assert int(fresh["sim"].stuff_bank.written.sum()) > 0
    torch.testing.assert_close(fresh["model"].state_dict(), whole["model"].state_dict(), rtol=0, atol=0)


def test_a_checkpoint_in_the_hub_s_names_is_resumed_after_from_pretrained(names: dict[str, Any]) -> None:
    reading = "model = SegformerForSemanticSegmentation.from_pretrained(checkpoint)"
    assert f"`{reading}`" in PAGE.text
    made = "model = SegformerForSemanticSegmentation(configuration)"
    checkpoint = names["folder"] / "checkpoint-2"
    again = WITHOUT_THE_LINE.replace(made, reading)
    whole, fresh = resumed(WITHOUT_THE_LINE, again, {**names, "checkpoint": checkpoint})
    torch.testing.assert_close(fresh["model"].state_dict(), whole["model"].state_dict(), rtol=0, atol=0)


def test_the_agreement_filter_lets_right_rows_through(names: dict[str, Any]) -> None:
    after = seeded(TRAINER, {**names, "steps": 4})
    run(PAGE.further[0], after)
    after["trainer"].train()
    assert int(after["sim"].stuff_bank.written.sum()) > 0
