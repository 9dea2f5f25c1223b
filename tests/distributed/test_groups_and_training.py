"""Counts under DistributedDataParallel in training, process groups of some ranks, and groups without a CPU backend."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import stuffinstance as si
from tests.distributed.ranks import on_ranks, on_two_ranks

K, D, STEPS = 3, 4, 4
SPACE = si.LabelSpace(names=("a", "b", "c"), stuff=(0, 2), things=(1,))


def batch_of(rank: int, step: int) -> tuple[Tensor, Tensor]:
    """Rank 1 sees other labels and surer predictions than rank 0."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    labels = torch.randint(0, K, (2, 6, 5), generator=generator)
    features = (1 + 4 * rank) * torch.randn(2, D, 6, 5, generator=generator)
    return features, labels % (K - rank)


class Network(nn.Module):
    """Fixed weights, so that ranks and one process alone see the same predictions; everything that counts inside."""

    def __init__(self, group: Any = None) -> None:
        super().__init__()
        self.head = nn.Conv2d(D, K, 1)
        for weight in self.head.parameters():
            nn.init.normal_(weight, generator=torch.Generator().manual_seed(7))
        self.sim = si.StuffInstanceMatching(SPACE, D, preset="paper", capacity=40, max_instances=2, group=group)
        self.anchors = si.CategoryAnchors(K, D, min_pixels=1, group=group)
        self.median = si.ClassBalancedThreshold(K, group=group)
        self.portion = si.CBSTThreshold(K, group=group)
        self.adaptive = si.IASTThreshold(K, group=group)
        self.symmetric = si.SymmetricConsistency(si.ClassBalancedThreshold(K, group=group))
        self.score = si.MeanIoU(K, group=group)
        self.entropy = si.PredictionEntropy(K, group=group)
        self.density = si.SoftNeighborhoodDensity(sample=20, group=group)
        self.centers = si.ClassCenterDistance(K, D, group=group)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.head(features)
        probabilities = logits.detach().softmax(1)
        self.sim.update(features, labels, nn.functional.one_hot(labels, K).movedim(3, 1).float())
        self.anchors.update(features, labels)
        for module in (self.median, self.portion, self.adaptive, self.entropy, self.density):
            module.update(probabilities)
        self.symmetric.update(probabilities, probabilities.flip(1))
        self.score.update(probabilities, labels)
        self.centers.update(features, labels)
        return nn.functional.cross_entropy(logits, labels)

    def results(self) -> dict[str, Any]:
        return {
            "stuff": self.sim.stuff_bank.written.clone(),
            "instance": self.sim.instance_bank.written.clone(),
            "rows": self.sim.stuff_bank.features.double().sum(1),
            "anchors": self.anchors.anchors_in(torch.float64),
            "median": self.median.compute(),
            "portion": self.portion.compute(),
            "symmetric": self.symmetric.compute(),
            "adaptive": self.adaptive.compute(),
            "iou": self.score.compute().per_class,
            "entropy": torch.tensor(self.entropy.compute()),
            "density": torch.tensor(self.density.compute()),
            "centers": self.centers.compute(),
        }


def train(rank: int) -> list[dict[str, Any]]:
    network = DistributedDataParallel(Network())  # broadcast_buffers=True, the default
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    for step in range(STEPS):
        optimizer.zero_grad()
        network(*batch_of(rank, step)).backward()
        optimizer.step()
    saved = copy.deepcopy(network.module.state_dict())
    again = Network()
    again.load_state_dict(saved)
    return [network.module.results(), again.results()]


def alone(ranks: tuple[int, ...]) -> dict[str, Any]:
    network = Network()
    for step in range(STEPS):
        network(*(torch.cat(parts) for parts in zip(*(batch_of(rank, step) for rank in ranks), strict=True)))
    return network.results()


def check(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-6, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_counts_of_a_training_under_ddp_are_those_of_one_process(tmp_path: Path) -> None:
    expected = alone((0, 1))
    assert not torch.equal(alone((0,))["iou"], expected["iou"])
    for rank in on_two_ranks(train, tmp_path):
        for found in rank:
            check(found, expected)


def some_adapt(rank: int) -> dict[str, Any] | None:
    """Ranks 0 and 2 share; rank 1 does something else and never calls."""
    group = dist.new_group([0, 2])
    if rank == 1:
        return None
    network = Network(group)
    for step in range(STEPS):
        network(*batch_of(rank // 2, step))
    return copy.deepcopy(network).results()


def test_a_group_of_some_ranks_waits_for_no_other(tmp_path: Path) -> None:
    expected = alone((0, 1))
    first, idle, last = on_ranks(3, some_adapt, tmp_path)
    assert idle is None
    check(first, expected)
    check(last, expected)


def on_a_group_for_gpus(rank: int) -> list[str]:
    """nccl serves GPUs alone: imitated by gloo that is registered for cuda alone."""
    group = dist.new_group([0, 1], backend="cuda:gloo")
    features, labels = batch_of(rank, 0)
    score = si.MeanIoU(K, group=group)
    median = si.ClassBalancedThreshold(K, group=group)
    bank = si.StuffBank((0, 1), D, group=group)
    own = si.StuffBank((0, 1), D, sync="off", group=group)
    own.update(features, labels)
    score.update(labels, labels)
    messages = []
    for call in (score.compute, median.compute, median.counts, lambda: bank.update(features, labels)):
        try:
            call()
        except RuntimeError as error:
            messages.append(str(error))
    assert own.written.any()
    assert not bank.written.any()
    return messages


def test_a_state_on_the_cpu_of_a_group_for_gpus_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    for messages in on_two_ranks(on_a_group_for_gpus, tmp_path):
        assert len(messages) == 4
        for message in messages:
            assert "must be on a device that the process group serves, got a tensor on cpu" in message
            assert ".to('cuda')" in message
            assert "sync='off'" in message
