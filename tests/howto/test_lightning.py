"""The page about Lightning: its trainer trains, with and without the added lines, and is resumed with its banks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import stuffinstance as si
from tests.howto.trainer_page import TrainerPage, banks, check_training, run, seeded, weights
from tests.howto.two_cities import given

pytest.importorskip("lightning")
pytestmark = pytest.mark.filterwarnings("ignore:::lightning", "ignore::UserWarning:torch")
PAGE = TrainerPage("lightning")


def test_it_trains_with_the_lines_and_without(tmp_path: Path) -> None:
    PAGE.check_count()
    start = weights(given()["network"])
    without = run(PAGE.trainer_before, {**given(), "folder": tmp_path})["network"]
    names = run(PAGE.trainer, {**given(), "folder": tmp_path})
    check_training(names["model"].sim, names["network"], start, weights(without))
    logged = names["trainer"].logged_metrics
    assert 0 < float(logged["stuff"]) < float("inf")


def test_a_resumed_run_has_its_banks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run(PAGE.trainer, {**given(), "folder": tmp_path})
    saved = banks(names["model"].sim)
    learned = weights(names["network"])
    names["network"] = given()["network"]  # a fresh one, as in a new process
    assert not torch.equal(weights(names["network"]), learned)
    found, loaded = {}, []

    class Seen(names["L"].Callback):
        def on_train_start(self, trainer: object, module: torch.nn.Module) -> None:
            found.update(banks(module.sim))
            loaded.append(weights(module.network))

    trainer = names["L"].Trainer
    monkeypatch.setattr(names["L"], "Trainer", lambda **words: trainer(callbacks=[Seen()], **words))
    agreement, _, resume = PAGE.further
    run(resume, names)
    torch.testing.assert_close(found, saved, rtol=0, atol=0)
    assert torch.equal(loaded[0], learned)
    assert int(names["resumed"].sim.stuff_bank.written.sum()) > int(saved["stuff_bank.written"].sum())
    run(agreement, names)
    assert names["model"].sim.classifier is not None
    assert set(names["model"].sim.state_dict()) == set(saved)


def test_averaged_weights_leave_the_banks_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning.pytorch.callbacks.weight_averaging")
    plain = seeded(PAGE.trainer, {**given(), "folder": tmp_path})
    averaging = run(PAGE.further[1], dict(plain))["averaging"]
    trainer = plain["L"].Trainer
    monkeypatch.setattr(plain["L"], "Trainer", lambda **words: trainer(callbacks=averaging, **words))
    averaged = seeded(PAGE.trainer, {**given(), "folder": tmp_path})
    torch.testing.assert_close(banks(averaged["model"].sim), banks(plain["model"].sim), rtol=0, atol=0)
    assert not torch.equal(weights(averaged["network"]), weights(plain["network"]))


def test_a_label_space_among_the_hyperparameters_is_loaded(tmp_path: Path) -> None:
    """save_hyperparameters() writes it into the checkpoint, which Lightning reads with weights_only=True."""
    names = run(PAGE.trainer, {**given(), "folder": tmp_path})
    lightning, file = names["L"], tmp_path / "last.ckpt"

    class Segmenter(names["Segmenter"]):
        def __init__(self, network: torch.nn.Module, space: si.LabelSpace) -> None:
            super().__init__(network, space)
            self.save_hyperparameters(ignore="network")

    def trainer(steps: int) -> Any:
        return lightning.Trainer(max_steps=steps, logger=False, enable_checkpointing=False, default_root_dir=tmp_path)

    first = trainer(1)
    first.fit(Segmenter(names["network"], names["space"]), names["loaders"])
    first.save_checkpoint(file)
    again = Segmenter.load_from_checkpoint(file, network=names["network"])
    assert again.hparams["space"] == names["space"]
    trainer(2).fit(again, names["loaders"], ckpt_path=file)
    assert again.global_step == 2
