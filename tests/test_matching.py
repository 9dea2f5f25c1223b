"""The search for the nearest row: the same whether only the wanted descriptors are looked at, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import stuffinstance as si
from stuffinstance._backends import Backend
from stuffinstance.losses import distances as sums
from stuffinstance.losses import numba_differences
from stuffinstance.losses.distances import DISTANCES, nearest_distance, resolve_distance


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


def case(seed: int, classes: int = 5, descriptors: int = 7, slots: int = 9, dim: int = 6):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(classes, descriptors, dim, generator=generator)
    bank = torch.randn(classes, slots, dim, generator=generator)
    written = torch.randint(0, slots + 1, (classes,), generator=generator)
    wanted = torch.rand(classes, descriptors, generator=generator) < 0.3
    wanted[seed % classes] = False
    return rows, bank, torch.arange(slots) < written[:, None], wanted


@pytest.fixture(params=["numba", "torch"])
def summed_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(sums, "_COMPILED", Backend("nowhere", "run", ("cpu",), "no_such_package"))
    return request.param


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.usefixtures("summed_by")
def test_looking_at_the_wanted_alone_finds_the_same(name: str, seed: int) -> None:
    rows, bank, filled, wanted = case(seed)
    distance = resolve_distance(name)
    all_distances, all_index = nearest_distance(rows, bank, filled, distance)
    distances, index = nearest_distance(rows, bank, filled, distance, wanted)
    known = wanted & filled.any(1)[:, None]
    assert known.any()
    assert torch.equal(index[known], all_index[known])
    assert torch.equal(distances[known], all_distances[known])


def test_none_wanted_and_none_filled_raise_nothing() -> None:
    rows, bank, filled, wanted = case(0)
    for some, there in ((torch.zeros_like(wanted), filled), (wanted, torch.zeros_like(filled))):
        distances, index = nearest_distance(rows, bank, there, resolve_distance("l1_mean"), some)
        assert distances.shape == index.shape == wanted.shape


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("select", [True, False])
@pytest.mark.usefixtures("summed_by")
def test_no_tensor_of_descriptors_by_slots_by_channels_is_built(
    name: str, select: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory: a few (C, N, S) and (C, N, D), a buffer, and a copy of the bank for the cosine; never (C, N, S, D)."""
    monkeypatch.setattr("stuffinstance.losses.distances._BUFFER_ELEMENTS", 3 * 20 * 64 * 1)  # a slot at a time
    rows, bank, filled, _ = case(1, classes=3, descriptors=20, slots=30, dim=64)
    filled[:] = True
    rows.requires_grad_()
    with LargestTensor() as largest:
        wanted = torch.ones(3, 20, dtype=torch.bool) if select else None
        nearest_distance(rows, bank, filled, resolve_distance(name), wanted)[0].sum().backward()
    assert largest.numbers <= max(3 * 20 * 30, 3 * 30 * 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "p"), [("l1_mean", 1.0), ("l2", 2.0)])
@pytest.mark.parametrize("shape", [(5, 7, 9, 64), (2, 1, 1, 1), (1, 4, 130, 3), (3, 2, 65, 300)])
def test_compiled_sums_rank_as_cdist_does(
    shape: tuple[int, ...], name: str, p: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd and even numbers of descriptors and slots, one piece of work and several, on one thread and on three."""
    rows, bank, _, _ = case(2, *shape)
    rows, bank = rows.to(dtype), bank.to(dtype)
    scores = resolve_distance(name).ranking(rows, bank)
    exact = torch.cdist(rows, bank, p=p, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(scores, exact if p == 1 else exact.square())
    monkeypatch.setattr(numba_differences, "_THREADED_VALUES", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(resolve_distance(name).ranking(rows, bank), scores)


@pytest.mark.parametrize(("name", "p"), [("l1_mean", 1.0), ("l2", 2.0)])
@pytest.mark.parametrize("elements", [1, 1000, 2**21])
@pytest.mark.usefixtures("summed_by")
def test_the_cpu_ranks_as_cdist_does(name: str, p: float, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stuffinstance.losses.distances._BUFFER_ELEMENTS", elements)
    rows, bank, _, _ = case(2, dim=64)
    scores = resolve_distance(name).ranking(rows, bank)
    exact = torch.cdist(rows, bank, p=p, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(scores, exact if p == 1 else exact.square())


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_cosine_is_of_directions_alone(scale: float) -> None:
    """Also where the square of a number is beyond what float32 holds, or below."""
    rows, bank, filled, _ = case(4, dim=16)
    found, scaled = (nearest_distance(rows * by, bank * by, filled, resolve_distance("cosine")) for by in (1.0, scale))
    torch.testing.assert_close(scaled, found)


def test_a_callable_distance_sees_the_bank_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stuffinstance.losses.distances._BLOCK_ELEMENTS", 3 * 20 * 64 * 4)  # four slots at a time
    rows, bank, filled, _ = case(1, classes=3, descriptors=20, slots=30, dim=64)
    distance = resolve_distance(lambda a, b: (a - b).abs().mean(-1))
    with LargestTensor() as largest:
        found = nearest_distance(rows, bank, filled, distance)
    assert largest.numbers <= 3 * 20 * 64 * 4
    assert torch.equal(found[1], nearest_distance(rows, bank, filled, resolve_distance("l1_mean"))[1])


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a, b, dim=-1)


class Learned(nn.Module):
    """The distance of rows after a projection, of its own D."""

    def __init__(self, dim: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, 4, dtype=dtype)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.projection(a) - self.projection(b)).square().sum(-1)


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 2048])
@pytest.mark.parametrize("distance", [
    *(each.between for each in DISTANCES.values()),
    nn.PairwiseDistance(),
    lambda a, b: 1 - cosine(a, b),
    lambda a, b: -(a * b).sum(-1),
    lambda a, b: (a * (a / b).log()).sum(-1),  # of probabilities: the Kullback-Leibler divergence
    lambda a, b: (a - b).abs().amax(-1) + F.dropout(torch.ones(()), 0.0),
])  # fmt: skip
def test_distances_of_many_kinds_are_accepted(distance: Callable[[Tensor, Tensor], Tensor], dim: int) -> None:
    before = torch.random.get_rng_state()
    for kind, bank in (
        (si.StuffMatchingLoss, si.StuffBank((0,), dim)),
        (si.InstanceMatchingLoss, si.InstanceBank((0,), dim)),
    ):
        assert kind(bank, distance).distance.between is distance
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_distance_that_draws_numbers_leaves_the_generator_as_it_was() -> None:
    before = torch.random.get_rng_state()
    resolve_distance(lambda a, b: (a - b).abs().sum(-1) + 1e-9 * torch.rand(()))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_distance_with_parameters_is_tried_at_the_banks_dimension(dtype: torch.dtype) -> None:
    distance = Learned(6, dtype)
    loss = si.StuffMatchingLoss(si.StuffBank((0,), 6), distance)
    assert not list(loss.parameters())
    assert distance.projection.weight.grad is None
    with pytest.raises(ValueError, match=r"distance must map .*\(2, 3, 1, 5\).* failed, got RuntimeError"):
        si.StuffMatchingLoss(si.StuffBank((0,), 5), distance)


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("distance", [
    nn.CosineSimilarity(), nn.CosineSimilarity(dim=-1), torch.cdist, nn.Bilinear(7, 7, 1),
    lambda a, b: (a * b).sum(-1), lambda a, b: (-(a - b).square().sum(-1)).exp(), lambda a, b: a - b,
    lambda a, b: (a - b).abs().sum(-1, keepdim=True), lambda a, b: (a - b).abs().sum(-2),
    lambda a, b: (a - b).abs().mean(), lambda a, b: {}[0], lambda a: a, lambda a, b: 1.0,
    lambda a, b: (a - b).abs().sum(-1) > 0,
])  # fmt: skip
def test_what_is_not_a_distance_is_rejected_before_it_is_used(distance: Callable[..., Any], dim: int) -> None:
    with pytest.raises((TypeError, ValueError), match="distance must map"):
        si.StuffMatchingLoss(si.StuffBank((0,), dim), distance)
    with pytest.raises((TypeError, ValueError), match="distance must map"):
        si.InstanceMatchingLoss(si.InstanceBank((0,), dim), distance)


def test_a_bank_without_values_tries_shapes_alone() -> None:
    bank = si.StuffBank((0,), 6).to("meta")
    assert si.StuffMatchingLoss(bank, cosine).distance.between is cosine
    with pytest.raises(ValueError, match="must give"):
        si.StuffMatchingLoss(bank, lambda a, b: a - b)
