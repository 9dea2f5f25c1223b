"""The page about transformers' Trainer: a SegFormer trains, with and without the added lines, and is resumed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset

from tests.howto.trainer_page import TrainerPage, banks, check_training, run, seeded, weights
from tests.howto.two_cities import SPACE, Pictures

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore:.pin_memory. argument")
PAGE = TrainerPage("hugging_face_trainer")


class Items(Dataset[Any]):
    """Pictures as transformers' models want them."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = self.pictures[index]
        return {"pixel_values": item} if self.pictures.labels is None else {"pixel_values": item[0], "labels": item[1]}


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    sizes = {"hidden_sizes": (8, 8, 16, 16), "num_attention_heads": (1, 1, 2, 2), "decoder_hidden_size": 16}
    small = partial(transformers.SegformerConfig, depths=(1, 1, 1, 1), **sizes)
    monkeypatch.setattr(transformers, "SegformerConfig", small)
    data = {"source_dataset": Items(Pictures(64, "source")), "target_dataset": Items(Pictures(24, "target"))}
    return {**data, "space": SPACE, "steps": 16, "folder": tmp_path}


def test_it_trains_with_the_lines_and_without(names: dict[str, Any]) -> None:
    PAGE.check_count()
    start = seeded(PAGE.trainer_before.split("dataset =")[0], names)["model"]
    without = seeded(PAGE.trainer_before, names)["model"]
    after = seeded(PAGE.trainer, names)
    check_training(after["sim"], after["model"], weights(start), weights(without))


def test_evaluation_does_not_write_into_the_banks(names: dict[str, Any]) -> None:
    after = seeded(PAGE.trainer, {**names, "steps": 4})
    before = banks(after["sim"])
    score = after["trainer"].evaluate(names["source_dataset"])
    assert 0 < score["eval_loss"] < 2
    torch.testing.assert_close(banks(after["sim"]), before, rtol=0, atol=0)


def test_a_resumed_run_has_its_banks(names: dict[str, Any]) -> None:
    _, resume = PAGE.further
    seeded(PAGE.trainer, {**names, "steps": 4})
    saved = load_file(names["folder"] / "checkpoint-4" / "model.safetensors")
    expected = {name.removeprefix("sim."): value for name, value in saved.items() if name.startswith("sim.")}
    fresh = seeded(PAGE.trainer.replace("trainer.train()", ""), {**names, "steps": 5})
    seen = {}

    class Seen(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *arguments: object, **words: object) -> None:
            seen.update(banks(fresh["sim"]))

    fresh["trainer"].add_callback(Seen())
    run(resume, fresh)
    torch.testing.assert_close(seen, expected, rtol=0, atol=0)
    assert int(fresh["sim"].stuff_bank.written.sum()) > int(seen["stuff_bank.written"].sum()) > 0


def test_the_agreement_filter_lets_right_rows_through(names: dict[str, Any]) -> None:
    after = seeded(PAGE.trainer, {**names, "steps": 4})
    run(PAGE.further[0], after)
    after["trainer"].train()
    assert int(after["sim"].stuff_bank.written.sum()) > 0
