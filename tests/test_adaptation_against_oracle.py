"""Both presets against the equations, on hundreds of random histories of every awkward kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.random_cases import KINDS, Case, Step, random_case
from tests.sim_pair import (
    Preset,
    assert_bank_equals,
    facade_of,
    oracle_losses,
    oracle_of,
    source_of,
    target_of,
    update_oracle,
)


def follow(case: Case, preset: Preset, *, filtered: bool) -> tuple[int, float]:
    """Run both over the case; return rows written and the sum of losses, to see that something happened."""
    sim = facade_of(case, preset, filtered=filtered)
    oracle = oracle_of(case, preset, filtered=filtered)
    total = check_losses(sim, oracle, case.steps[0])  # an empty bank
    for step in case.steps:
        sim.update(*source_of(step))
        update_oracle(oracle, step)
        assert_bank_equals(sim.stuff_bank, oracle.stuff_bank)
        assert_bank_equals(sim.instance_bank, oracle.instance_bank)
        total += check_losses(sim, oracle, step)
    return int(sim.stuff_bank.written.sum() + sim.instance_bank.written.sum()), total


def check_losses(sim, oracle, step: Step) -> float:
    features, logits, pseudo = target_of(step)
    features.requires_grad_()
    stuff, stuff_slope, instance, instance_slope = oracle_losses(oracle, step)
    losses = sim(features, logits, pseudo)
    for loss, value, slope in zip(losses, (stuff, instance), (stuff_slope, instance_slope), strict=True):
        assert loss.ndim == 0
        assert loss.item() == pytest.approx(value, rel=1e-5, abs=1e-6)
        if value == 0:
            assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, features, retain_graph=True)
        scale = max(float(np.abs(slope).max()), 1e-3)
        np.testing.assert_allclose(gradient.numpy() / scale, slope / scale, atol=2e-5)
    return stuff + instance


@pytest.mark.parametrize("seed", range(22))
@pytest.mark.parametrize("kind", KINDS)
def test_paper_preset(kind: str, seed: int) -> None:
    written, total = follow(random_case(kind, seed), "paper", filtered=False)
    assert (written > 0) == (total > 0) or kind in ("absent-classes", "giant-region", "one-pixel")
    if kind == "all-ignored":
        assert written == 0


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("seed", range(100, 106))
@pytest.mark.parametrize("kind", KINDS)
def test_code_preset(kind: str, seed: int, filtered: bool) -> None:
    follow(random_case(kind, seed), "code", filtered=filtered)


def test_the_cases_are_what_they_are_called() -> None:
    """A bank wraps around, one update brings more than fits, and the filter turns some rows away."""
    wrapped = facade_of(case := random_case("wrap-around", 0), "paper")
    for step in case.steps:
        wrapped.update(*source_of(step))
    assert (wrapped.stuff_bank.written > wrapped.stuff_bank.capacity).any()
    flooded = facade_of(case := random_case("larger-than-bank", 0), "paper")
    flooded.update(*source_of(case.steps[0]))
    assert (flooded.stuff_bank.written > flooded.stuff_bank.capacity).any()
    counts = []
    for filtered in (False, True):
        sim = facade_of(case := random_case("ordinary", 3), "code", filtered=filtered)
        for step in case.steps:
            sim.update(*source_of(step))
        counts.append(int(sim.instance_bank.written.sum() + sim.stuff_bank.written.sum()))
    assert 0 < counts[1] < counts[0]
