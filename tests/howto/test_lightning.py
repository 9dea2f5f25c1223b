"""The page about Lightning: its trainer trains, with and without the added lines, and is resumed with its banks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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
    found = {}

    class Seen(names["L"].Callback):  # type: ignore[name-defined, misc]
        def on_train_start(self, trainer: object, module: torch.nn.Module) -> None:
            found.update(banks(module.sim))

    trainer = names["L"].Trainer
    monkeypatch.setattr(names["L"], "Trainer", lambda **words: trainer(callbacks=[Seen()], **words))
    agreement, _, resume = PAGE.further
    run(resume, names)
    torch.testing.assert_close(found, saved, rtol=0, atol=0)
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
