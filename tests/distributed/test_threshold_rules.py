"""Thresholds of every rule are those of one process that saw the pixels of all ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stuffinstance.pseudo_labels import CBSTThreshold, ClassBalancedThreshold, IASTThreshold, SymmetricConsistency
from tests.distributed.ranks import on_two_ranks

STEPS = 4


def predictions(rank: int, step: int) -> Tensor:
    """Other sizes on each rank, and once no image at all."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    images = 0 if (rank, step) == (1, 2) else 1 + rank
    return (2 * torch.randn(images, 4, 6 + rank, 9, generator=generator)).softmax(1)


def rules(sync: str) -> dict[str, Any]:
    return {
        "portion": CBSTThreshold(4, sync=sync),  # type: ignore[arg-type]
        "adaptive": IASTThreshold(4, start=0.7, sync=sync),  # type: ignore[arg-type]
        "symmetric": SymmetricConsistency(ClassBalancedThreshold(4, sync=sync)),  # type: ignore[arg-type]
    }


def feed(name: str, rule: Any, parts: list[Tensor]) -> None:
    """The parts of one step; what is online takes them as one batch of pixels."""
    if name == "adaptive" and len(parts) > 1:
        joined = torch.cat([part.movedim(1, 0).flatten(1) for part in parts], 1)
        parts = [joined[None, :, None]]
    for part in parts:
        rule.update(*((part, part.flip(3)) if name == "symmetric" else (part,)))


def results(made: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    return {name: (rule.compute(), rule.counts()) for name, rule in made.items()}


def stream(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for sync in ("auto", "off"):
        made = rules(sync)
        for step in range(STEPS):
            for name, rule in made.items():
                feed(name, rule, [predictions(rank, step)])
        found[sync] = results(made)
    return found


def alone(ranks: tuple[int, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    made = rules("auto")
    for step in range(STEPS):
        for name, rule in made.items():
            feed(name, rule, [predictions(rank, step) for rank in ranks])
    return results(made)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_two_ranks(stream, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", ["portion", "adaptive", "symmetric"])
def test_both_ranks_hold_the_thresholds_of_all_pixels(ranks: list[dict[str, Any]], name: str) -> None:
    thresholds, counts = alone((0, 1))[name]
    for rank in ranks:
        torch.testing.assert_close(rank["auto"][name][0], thresholds, rtol=0, atol=1e-14)
        assert torch.equal(rank["auto"][name][0], ranks[0]["auto"][name][0])
        assert torch.equal(rank["auto"][name][1], counts)


@pytest.mark.parametrize("name", ["portion", "adaptive", "symmetric"])
def test_without_sync_each_rank_keeps_its_own(ranks: list[dict[str, Any]], name: str) -> None:
    for number, rank in enumerate(ranks):
        thresholds, counts = alone((number,))[name]
        assert torch.equal(rank["off"][name][0], thresholds)
        assert torch.equal(rank["off"][name][1], counts)
    assert not torch.equal(ranks[0]["off"][name][0], ranks[1]["off"][name][0])
