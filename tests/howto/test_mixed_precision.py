"""The page about mixed precision: its loop trains in both dtypes, and what it says of overflow and small gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import stuffinstance as si
from tests.howto.trainer_page import TrainerPage, check_training, run, weights
from tests.howto.two_cities import SPACE, batches, given

PAGE = TrainerPage("mixed_precision")
HALVES = [torch.bfloat16, torch.float16]


def trained(code: str, dtype: torch.dtype, **words: Any) -> dict[str, Any]:
    names = given()
    return run(code, {**names, "batches": batches(names), "device": "cpu", "dtype": dtype, **words})


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_it_trains_with_the_lines_and_without(dtype: torch.dtype) -> None:
    PAGE.check_count()
    without = trained(PAGE.trainer_before, dtype)["network"]
    names = trained(PAGE.trainer, dtype)
    assert names["features"].dtype == dtype
    assert names["losses"].stuff.dtype == torch.float32
    assert float(names["losses"].stuff.detach()) > 0
    check_training(names["sim"], names["network"], weights(given()["network"]), weights(without))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_agreement_filter_takes_rows_of_a_half_precision_head(dtype: torch.dtype) -> None:
    names = trained(PAGE.trainer, dtype, batches=[])
    (agreement,) = PAGE.further
    run(agreement, names)
    images, _, _ = batches(names, 1)[0]
    for inside in (True, False):
        network = names["network"].to(torch.float32 if inside else dtype)
        with torch.autocast("cpu", dtype, enabled=inside):
            features, logits = network(images.to(next(network.parameters()).dtype))
            names["sim"].update(features, logits.argmax(1).repeat_interleave(4, 1).repeat_interleave(4, 2), logits)
        assert int(names["sim"].stuff_bank.written.sum() + names["sim"].instance_bank.written.sum()) > 0


def test_a_step_that_overflows_moves_the_banks_and_not_the_weights() -> None:
    names = trained(PAGE.trainer, torch.float16)
    before, written = weights(names["network"]), names["sim"].stuff_bank.written.clone()
    code = PAGE.trainer.split("for images, labels, target_images")
    loop = "for images, labels, target_images" + code[1]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    run(loop, {**names, "batches": batches(names, 1), "scaler": scaler})
    assert torch.equal(weights(names["network"]), before)
    assert scaler.get_scale() == 2.0**99
    assert bool((names["sim"].stuff_bank.written > written).all())
    assert bool(names["sim"].stuff_bank.features.isfinite().all())


def test_a_forward_pass_that_overflows_writes_no_rows() -> None:
    names = trained(PAGE.trainer, torch.float16)
    written = names["sim"].stuff_bank.written.clone()
    images, labels, target_images = batches(names, 1)[0]
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        features, logits = names["network"](images)
        names["sim"].update(features * 65504 * 65504, labels, logits)
        assert not bool(
            names["sim"](*(2 * (map_ * 65504) for map_ in names["network"](target_images))).stuff.isfinite()
        )
    assert torch.equal(names["sim"].stuff_bank.written, written)


def test_without_a_scaler_float16_loses_the_gradient_of_stuff() -> None:
    sim = si.StuffInstanceMatching(SPACE, feature_dim=2048, capacity=1)
    logits = torch.zeros(1, 3, 32, 64, dtype=torch.float16)
    logits[:, 0, :, :32] = logits[:, 1, :, 32:] = 1
    for _ in range(2):
        sim.update(torch.randn(1, 2048, 32, 64), logits.argmax(1), logits)
    features = torch.randn(1, 2048, 32, 64, dtype=torch.float16, requires_grad=True)
    loss = 0.01 * sim(features, logits).stuff
    (plain,) = torch.autograd.grad(loss, features, retain_graph=True)
    (scaled,) = torch.autograd.grad(2.0**16 * loss, features)
    assert bool((plain == 0).all())
    assert bool((scaled != 0).all())
