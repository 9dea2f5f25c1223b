"""What every metric does: called as those of torchmetrics are, streams, nothing, precision, layouts, broken values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import stuffinstance as si

K, D = 3, 4
Batch = tuple[Tensor, ...]


def labels(images: int) -> Tensor:
    return torch.where(torch.rand(images, 6, 7) < 0.1, 255, torch.randint(K, (images, 6, 7)))


def probabilities(images: int) -> Tensor:
    return (3 * torch.randn(images, K, 6, 7)).softmax(1)


CASES: dict[str, tuple[Callable[[], Any], Callable[[int], Batch]]] = {
    "MeanIoU": (lambda: si.MeanIoU(K), lambda images: (torch.randint(K, (images, 6, 7)), labels(images))),
    "MeanIoU of logits": (lambda: si.MeanIoU(K), lambda images: (probabilities(images), labels(images))),
    "ClassCenterDistance": (
        lambda: si.ClassCenterDistance(K, D),
        lambda images: (torch.randn(images, D, 6, 7) + torch.arange(images).view(-1, 1, 1, 1), labels(images)),
    ),
    "PredictionEntropy": (lambda: si.PredictionEntropy(K), lambda images: (probabilities(images),)),
    "SoftNeighborhoodDensity": (
        lambda: si.SoftNeighborhoodDensity(sample=9),
        lambda images: (probabilities(images),),
    ),
}
every = pytest.mark.parametrize("name", CASES)


def fed(name: str, *batches: Batch) -> Any:
    metric = CASES[name][0]()
    for batch in batches:
        metric.update(*batch)
    return metric


def same(one: Any, other: Any, **close: float) -> None:
    torch.testing.assert_close(one, other, equal_nan=True, **close)


@every
def test_a_call_returns_the_batch_and_counts_it(name: str) -> None:
    make, batch = CASES[name]
    first, second = batch(2), batch(2)
    called, updated = make(), fed(name, first, second)
    called(*first)
    same(called(*second), fed(name, second).compute(), rtol=0, atol=0)
    same(called.compute(), updated.compute(), rtol=0, atol=0)
    same(called.state_dict(), updated.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="must"):
        called(*(each[0] for each in second))
    same(called.state_dict(), updated.state_dict(), rtol=0, atol=0)


@every
def test_a_stream_in_parts_equals_one_batch(name: str) -> None:
    whole = CASES[name][1](6)
    parts = [tuple(each[cut] for each in whole) for cut in (slice(0, 1), slice(1, 1), slice(1, 4), slice(4, 6))]
    first, second = fed(name, parts[0], parts[1]), fed(name, *parts[2:])
    before = first.compute()
    first.merge(second)
    assert str(first.compute()) != str(before)
    for metric in (first, fed(name, *parts)):
        same(metric.compute(), fed(name, whole).compute(), rtol=1e-5, atol=1e-6)


@every
def test_nothing_is_nan(name: str) -> None:
    for value in (fed(name).compute(), fed(name, CASES[name][1](0)).compute()):
        assert torch.as_tensor(value[1] if "IoU" in name else value).isnan().all()


@every
def test_neither_autocast_nor_memory_layout_changes_a_value(name: str) -> None:
    batch = CASES[name][1](3)
    turned = tuple(each.mT.contiguous().mT for each in batch)
    with torch.autocast("cpu", torch.bfloat16):
        inside = fed(name, batch).compute()
    same(inside, fed(name, batch).compute(), rtol=0, atol=0)
    same(fed(name, turned).compute(), fed(name, batch).compute())


@every
def test_repr_names_the_settings(name: str) -> None:
    metric = fed(name)
    assert repr(metric) == f"{type(metric).__name__}({metric.extra_repr()})"
    assert "=" in metric.extra_repr()
