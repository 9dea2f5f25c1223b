"""The search for the nearest row: the same whether only the wanted descriptors are looked at, in bounded memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stuffinstance.matching import DISTANCES, nearest_distance, resolve_distance


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor made by any operation holds."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.untyped_storage().nbytes() // each.element_size())
        return result


def case(seed: int, classes: int = 5, descriptors: int = 7, slots: int = 9, dim: int = 6):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(classes, descriptors, dim, generator=generator)
    bank = torch.randn(classes, slots, dim, generator=generator)
    written = torch.randint(0, slots + 1, (classes,), generator=generator)
    wanted = torch.rand(classes, descriptors, generator=generator) < 0.3
    wanted[seed % classes] = False
    return rows, bank, torch.arange(slots) < written[:, None], wanted


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("seed", range(8))
def test_looking_at_the_wanted_alone_finds_the_same(name: str, seed: int) -> None:
    rows, bank, filled, wanted = case(seed)
    distance = resolve_distance(name)
    all_distances, all_index = nearest_distance(rows, bank, filled, distance)
    distances, index = nearest_distance(rows, bank, filled, distance, wanted)
    known = wanted & filled.any(1)[:, None]
    assert known.any()
    assert torch.equal(index[known], all_index[known])
    assert torch.equal(distances[known], all_distances[known])


def test_none_wanted_and_none_filled_are_no_error() -> None:
    rows, bank, filled, wanted = case(0)
    for some, there in ((torch.zeros_like(wanted), filled), (wanted, torch.zeros_like(filled))):
        distances, index = nearest_distance(rows, bank, there, resolve_distance("l1_mean"), some)
        assert distances.shape == index.shape == wanted.shape


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("select", [True, False])
def test_no_tensor_of_descriptors_by_slots_by_channels_is_built(
    name: str, select: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory: a few (C, N, S) and (C, N, D), a buffer, and a copy of the bank for the cosine; never (C, N, S, D)."""
    monkeypatch.setattr("stuffinstance.matching._BUFFER_ELEMENTS", 3 * 20 * 64 * 1)  # a slot at a time
    rows, bank, filled, _ = case(1, classes=3, descriptors=20, slots=30, dim=64)
    filled[:] = True
    rows.requires_grad_()
    with LargestTensor() as largest:
        wanted = torch.ones(3, 20, dtype=torch.bool) if select else None
        nearest_distance(rows, bank, filled, resolve_distance(name), wanted)[0].sum().backward()
    assert largest.numbers <= max(3 * 20 * 30, 3 * 30 * 64)


@pytest.mark.parametrize(("name", "p"), [("l1_mean", 1.0), ("l2", 2.0)])
@pytest.mark.parametrize("elements", [1, 1000, 2**21])
def test_the_cpu_ranks_as_cdist_does(name: str, p: float, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stuffinstance.matching._BUFFER_ELEMENTS", elements)
    rows, bank, _, _ = case(2, dim=64)
    scores = resolve_distance(name).ranking(rows, bank)
    exact = torch.cdist(rows, bank, p=p, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(scores, exact if p == 1 else exact.square())


def test_a_callable_distance_sees_the_bank_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stuffinstance.matching._BLOCK_ELEMENTS", 3 * 20 * 64 * 4)  # four slots at a time
    rows, bank, filled, _ = case(1, classes=3, descriptors=20, slots=30, dim=64)
    distance = resolve_distance(lambda a, b: (a - b).abs().mean(-1))
    with LargestTensor() as largest:
        found = nearest_distance(rows, bank, filled, distance)
    assert largest.numbers <= 3 * 20 * 64 * 4
    assert torch.equal(found[1], nearest_distance(rows, bank, filled, resolve_distance("l1_mean"))[1])
