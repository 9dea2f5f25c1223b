"""Bank contrast in the pipeline: its loss, its banks, and what a checkpoint keeps of them."""

from __future__ import annotations

import pytest
import torch

import stuffinstance as si
from examples.gta5_to_cityscapes.methods.bank_contrast import BankContrast
from examples.gta5_to_cityscapes.recipes import compose_recipe

from .made_steps import made_step


@pytest.mark.parametrize("labels", ["prediction", "teacher"])
def test_the_target_is_contrasted_with_the_rows_of_the_step(labels: str, quiet: list[str]) -> None:
    settings = [f"bank_contrast.{each}" for each in (f"labels={labels}", "agreement=false", "temperature=0.5")]
    step, context = made_step(compose_recipe("bcon", "smoke", overrides=[*quiet, *settings]))
    value = step([context])["bank_contrast"]
    (method,) = (each for each in step.methods if isinstance(each, BankContrast))
    banks = method.sim.stuff_bank, method.sim.instance_bank
    assert all(len(bank) > 0 for bank in banks)
    seen = context.unlabeled.seen
    found = seen.logits.argmax(1) if labels == "prediction" else context.found["teacher"].labels
    assert float(value) == pytest.approx(float(si.BankContrastLoss(banks, 0.5)(seen.features, found)), rel=1e-5)
    assert value > 0
    assert torch.equal(step.state()["bank_contrast"]["stuff_bank.features"], banks[0].features)


def test_it_begins_at_its_step_and_fills_banks_before(quiet: list[str]) -> None:
    settings = ["bank_contrast.start_step=1", "bank_contrast.agreement=false"]
    step, context = made_step(compose_recipe("bcon", "smoke", overrides=[*quiet, *settings]))
    assert "bank_contrast" not in step([context])
    context.step = 1
    assert step([context])["bank_contrast"] > 0
