"""Metrics are called as those of torchmetrics are: a batch is counted and its own value returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import stuffinstance as si

CASES: dict[str, tuple[Callable[[], Any], Callable[[], tuple[torch.Tensor, ...]]]] = {
    "MeanIoU": (lambda: si.MeanIoU(3), lambda: (torch.randint(3, (2, 4, 5)), torch.randint(3, (2, 4, 5)))),
    "ClassCenterDistance": (
        lambda: si.ClassCenterDistance(3, 2),
        lambda: (torch.randn(2, 2, 4, 5), torch.randint(3, (2, 4, 5))),
    ),
    "PredictionEntropy": (lambda: si.PredictionEntropy(3), lambda: (torch.randn(2, 3, 4, 5).softmax(1),)),
    "SoftNeighborhoodDensity": (
        lambda: si.SoftNeighborhoodDensity(sample=9),
        lambda: (torch.randn(2, 3, 4, 5).softmax(1),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_call_returns_the_batch_and_counts_it(name: str) -> None:
    make, batch = CASES[name]
    first, second = batch(), batch()
    called, updated, alone = make(), make(), make()
    for arguments in (first, second):
        value = called(*arguments)
        updated.update(*arguments)
    alone.update(*second)
    for one, other in ((value, alone.compute()), (called.compute(), updated.compute())):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    for key, held in updated.state_dict().items():
        assert torch.equal(called.state_dict()[key], held)


@pytest.mark.parametrize("name", CASES)
def test_a_call_that_raises_counts_nothing(name: str) -> None:
    make, batch = CASES[name]
    metric = make()
    before = metric.state_dict()["_extra_state"].clone()
    with pytest.raises(ValueError, match=r"must "):
        metric(*(each[0] for each in batch()))
    assert torch.equal(metric.state_dict()["_extra_state"], before)


@pytest.mark.parametrize("name", CASES)
def test_repr_names_the_settings(name: str) -> None:
    metric = CASES[name][0]()
    assert repr(metric) == f"{name}({metric.extra_repr()})"
    assert "=" in metric.extra_repr()
