"""Two ranks hold the same bits, and those of one process that saw both batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import stuffinstance as si
from tests.distributed.ranks import on_two_ranks
from tests.label_maps import IGNORE

SPACE = si.LabelSpace(names=("a", "b", "c", "d"), stuff=(0, 2), things=(1, 3))
STEPS = 5
Batch = tuple[Tensor, Tensor, Tensor]


def batch_of(rank: int, step: int) -> Batch:
    """Batches of 2 and 3 images, of other sizes on each rank; now and then a rank has no region or no image."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    images = 0 if (rank, step) == (1, 3) else 2 + rank
    height, width = 6 + 2 * rank, 8
    labels = torch.randint(4, (images, height // 2, width // 2), generator=generator)
    labels = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    logits = 4 * torch.nn.functional.one_hot(labels, 4).movedim(3, 1).float()
    if (rank, step) in ((0, 1), (1, 2)):
        labels = torch.full_like(labels, IGNORE)
    return torch.randn(images, 5, height, width, generator=generator), labels, logits


def module(sync: str = "auto") -> si.StuffInstanceMatching:
    head = torch.nn.Linear(5, 4, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(4, 5, generator=torch.Generator().manual_seed(99)))
    return si.StuffInstanceMatching(
        SPACE,
        5,
        preset="paper",
        capacity=3,
        max_instances=2,
        classifier=head,
        sync=sync,
    )


def train(rank: int, sync: str) -> list[dict[str, Tensor]]:
    sim, history = module(sync), []
    for step in range(STEPS):
        sim.update(*batch_of(rank, step))
        history.append({name: value.clone() for name, value in sim.state_dict().items()})
    features, _, logits = batch_of(rank, 0)
    with torch.no_grad():
        history.append(dict(zip(("stuff", "instance"), sim(features, logits), strict=True)))
    return history


def train_alone(ranks: tuple[int, ...]) -> list[dict[str, Tensor]]:
    """The same rows in one process: the images of the ranks one after the other."""
    sim, history = module(), []
    for step in range(STEPS):
        for rank in ranks:
            features, labels, logits = batch_of(rank, step)
            for b in range(len(features)):
                sim.update(features[b : b + 1], labels[b : b + 1], logits[b : b + 1])
        history.append({name: value.clone() for name, value in sim.state_dict().items()})
    return history


class Network(torch.nn.Module):
    """A trainer's network that holds the matching module, as a person would wrap it for DDP."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = torch.nn.Conv2d(5, 5, 1)
        self.matching = module()

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        losses = self.matching(self.body(images), logits)
        return losses.stuff + losses.instance


def wrapped(rank: int) -> dict[str, Tensor]:
    network = torch.nn.parallel.DistributedDataParallel(Network())
    for step in range(3):
        network.module.matching.update(*batch_of(rank, step))
        images, _, logits = batch_of(rank, step)
        network.zero_grad()
        network(images, logits).backward()
    gradient = network.module.body.weight.grad.clone()
    return {"gradient": gradient, **{k: v.clone() for k, v in network.module.matching.state_dict().items()}}


def everything(rank: int) -> dict[str, Any]:
    """All that needs a process group, in one start of the processes."""
    results: dict[str, Any] = {"shared": train(rank, "auto"), "apart": train(rank, "off")}
    results["ddp"] = wrapped(rank)
    try:
        module().update(*batch_of(rank, 0)[:2], torch.zeros(1))
    except ValueError as error:
        results["error"] = str(error)
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_two_ranks(everything, tmp_path_factory.mktemp("ranks"))


def test_both_ranks_hold_the_same_bits(ranks: list[dict[str, Any]]) -> None:
    for first, second in zip(ranks[0]["shared"][:-1], ranks[1]["shared"][:-1], strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_ranks_equal_one_process_with_both_batches(ranks: list[dict[str, Any]]) -> None:
    for shared, alone in zip(ranks[0]["shared"][:-1], train_alone((0, 1)), strict=True):
        for name, value in alone.items():
            torch.testing.assert_close(shared[name], value, atol=1e-6, rtol=1e-6)
    assert int(shared["stuff_bank.written"].max()) > 3


def test_without_sync_each_rank_keeps_its_own(ranks: list[dict[str, Any]]) -> None:
    for rank in (0, 1):
        for apart, alone in zip(ranks[rank]["apart"][:-1], train_alone((rank,)), strict=True):
            assert torch.equal(apart["stuff_bank.written"], alone["stuff_bank.written"])
            torch.testing.assert_close(apart["instance_bank.features"], alone["instance_bank.features"])


def test_losses_are_each_ranks_own(ranks: list[dict[str, Any]]) -> None:
    values = [rank["shared"][-1]["stuff"].item() for rank in ranks]
    assert all(value > 0 for value in values)
    assert values[0] != values[1]


def test_a_wrong_argument_on_all_ranks_raises_on_all_and_hangs_none(ranks: list[dict[str, Any]]) -> None:
    assert all("source_logits must be" in rank["error"] for rank in ranks)


def test_ddp_averages_gradients_and_keeps_banks_equal(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["ddp"] for rank in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert bool(first["gradient"].any())
    for name in ("stuff_bank.written", "instance_bank.features"):
        torch.testing.assert_close(first[name], ranks[0]["shared"][2][name])
