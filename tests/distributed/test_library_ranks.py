"""Matching and everything that counts, on ranks: the bits of one process; in DDP, in groups, without sync."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import stuffinstance as si
from tests.distributed.ranks import on_ranks
from tests.label_maps import IGNORE

WORLD = 3
SPLIT = si.LabelSpace(names=("a", "b", "c", "d"), stuff=(0, 2), things=(1, 3))
MATCHING_STEPS = 5
K, D, STEPS = 3, 4, 4
SPACE = si.LabelSpace(names=("a", "b", "c"), stuff=(0, 2), things=(1,))


# ------------------------------------------------------------------ matching


def matched_batch(rank: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of other sizes on each rank; now and then a rank has no region or no image."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    images = 0 if (rank, step) == (1, 3) else 2 + rank
    height, width = 6 + 2 * rank, 8
    labels = torch.randint(4, (images, height // 2, width // 2), generator=generator)
    labels = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    logits = 4 * nn.functional.one_hot(labels, 4).movedim(3, 1).float()
    if (rank, step) in ((0, 1), (1, 2)):
        labels = torch.full_like(labels, IGNORE)
    return torch.randn(images, 5, height, width, generator=generator), labels, logits


def matching(sync: str = "auto") -> si.StuffInstanceMatching:
    head = nn.Linear(5, 4, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(4, 5, generator=torch.Generator().manual_seed(99)))
    options = {"preset": "paper", "capacity": 3, "max_instances": 2, "classifier": head, "sync": sync}
    return si.StuffInstanceMatching(SPLIT, 5, **options)


def match(rank: int, sync: str) -> list[dict[str, Tensor]]:
    sim, history = matching(sync), []
    for step in range(MATCHING_STEPS):
        sim.update(*matched_batch(rank, step))
        history.append({name: value.clone() for name, value in sim.state_dict().items()})
    features, _, logits = matched_batch(rank, 0)
    with torch.no_grad():
        history.append(dict(zip(("stuff", "instance"), sim(features, logits), strict=True)))
    return history


def match_alone(ranks: tuple[int, ...]) -> list[dict[str, Tensor]]:
    """The same rows in one process: the images of the ranks one after the other."""
    sim, history = matching(), []
    for step in range(MATCHING_STEPS):
        for rank in ranks:
            features, labels, logits = matched_batch(rank, step)
            for b in range(len(features)):
                sim.update(features[b : b + 1], labels[b : b + 1], logits[b : b + 1])
        history.append({name: value.clone() for name, value in sim.state_dict().items()})
    return history


class Wrapped(nn.Module):
    """A trainer's network that holds the matching module, as a person would wrap it for DDP."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Conv2d(5, 5, 1)
        self.matching = matching()

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        losses = self.matching(self.body(images), logits)
        return losses.stuff + losses.instance


def wrapped(rank: int) -> dict[str, Tensor]:
    network = DistributedDataParallel(Wrapped())
    for step in range(3):
        network.module.matching.update(*matched_batch(rank, step))
        images, _, logits = matched_batch(rank, step)
        network.zero_grad()
        network(images, logits).backward()
    gradient = network.module.body.weight.grad.clone()
    return {"gradient": gradient, **{k: v.clone() for k, v in network.module.matching.state_dict().items()}}


def match_everything(rank: int) -> dict[str, Any]:
    results: dict[str, Any] = {"shared": match(rank, "auto"), "apart": match(rank, "off"), "ddp": wrapped(rank)}
    with pytest.raises(ValueError, match="source_logits must be"):
        matching().update(*matched_batch(rank, 0)[:2], torch.zeros(1))  # on all ranks, so that it hangs none
    return results


# ------------------------------------------------------------------ everything that counts


def batch_of(rank: int, step: int) -> tuple[Tensor, Tensor]:
    """Each rank sees other labels and surer predictions, rank 1 once no image and once broken pixels."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    images = 0 if (rank, step) == (1, 2) else 2 + rank
    labels = torch.randint(0, K, (images, 6, 5), generator=generator)
    features = (1 + 4 * rank) * torch.randn(images, D, 6, 5, generator=generator)
    if (rank, step) == (1, 3):
        features[0, :, 0] = torch.nan
    return features, labels % (K - rank)


class Network(nn.Module):
    """Fixed weights, so that ranks and one process alone see the same predictions; everything that counts inside."""

    def __init__(self, **ranks: Any) -> None:
        super().__init__()
        self.head = nn.Conv2d(D, K, 1)
        for weight in self.head.parameters():
            nn.init.normal_(weight, generator=torch.Generator().manual_seed(7))
        self.sim = si.StuffInstanceMatching(SPACE, D, preset="paper", capacity=40, max_instances=2, **ranks)
        self.counting = nn.ModuleDict({
            "anchors": si.CategoryAnchors(K, D, min_pixels=1, max_count=6, **ranks),
            "distributions": si.ClassDistributions(K, D, **ranks),
            "centers": si.ClassCenterDistance(K, D, **ranks),
            "median": si.ClassBalancedThreshold(K, **ranks),
            "portion": si.CBSTThreshold(K, **ranks),
            "online": si.IASTThreshold(K, **ranks),
            "entropy": si.PredictionEntropy(K, **ranks),
            "density": si.SoftNeighborhoodDensity(sample=20, **ranks),
            "symmetric": si.SymmetricConsistency(si.ClassBalancedThreshold(K, **ranks)),
            "iou": si.MeanIoU(K, **ranks),
        })  # fmt: skip

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.head(features.nan_to_num())
        p = logits.detach().softmax(1)
        self.sim.update(features, labels, nn.functional.one_hot(labels, K).movedim(3, 1).float())
        inputs = {
            "anchors": (features, labels),
            "distributions": (features, labels),
            "centers": (features, labels),
            "symmetric": (p, p.flip(1)),
            "iou": (p, labels),
        }
        for name, module in self.counting.items():
            module.update(*inputs.get(name, (p,)))
        return nn.functional.cross_entropy(logits, labels, reduction="sum")

    def results(self) -> dict[str, Tensor]:
        found = {name: value for name, value in self.sim.state_dict().items() if "extra" not in name}
        for name, module in self.counting.items():
            if name == "anchors":
                value = module.anchors_in(torch.float64)
            elif name == "distributions":
                value = torch.cat(module.moments_in(torch.float64))
            else:
                value = module.compute()
            found[name] = torch.as_tensor(value.per_class if name == "iou" else value)
            if hasattr(module, "counts"):
                found[f"counts of {name}"] = module.counts()
        again = self.counting["iou"].compute().per_class  # the other ranks' counts are not added to the own ones
        assert torch.equal(again.nan_to_num(), found["iou"].nan_to_num())
        return {name: value.clone() for name, value in found.items()}


def alone(*ranks: int) -> dict[str, Tensor]:
    network = Network()
    for step in range(STEPS):
        network(*(torch.cat(parts) for parts in zip(*(batch_of(rank, step) for rank in ranks), strict=True)))
    return network.results()


def check(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-6, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


def train_under_ddp(rank: int) -> list[dict[str, Tensor]]:
    network = DistributedDataParallel(Network())  # broadcast_buffers=True, the default
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    for step in range(STEPS):
        optimizer.zero_grad()
        network(*batch_of(rank, step)).backward()
        optimizer.step()
    again = Network()
    again.load_state_dict(copy.deepcopy(network.module.state_dict()))
    return [network.module.results(), again.results()]


def without_sync(rank: int) -> dict[str, Tensor]:
    network = Network(sync="off")
    for step in range(STEPS):
        network(*batch_of(rank, step))
    return network.results()


def on_a_group_for_gpus(rank: int) -> list[str]:
    """nccl serves GPUs alone: imitated by gloo that is registered for cuda alone."""
    group = dist.new_group([*range(WORLD)], backend="cuda:gloo")
    features, labels = batch_of(rank, 0)
    score, median = si.MeanIoU(K, group=group), si.ClassBalancedThreshold(K, group=group)
    bank, own = si.StuffBank((0, 1), D, group=group), si.StuffBank((0, 1), D, sync="off", group=group)
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


def some_adapt(rank: int) -> dict[str, Tensor] | None:
    """Ranks 0 and 2 share; rank 1 does something else and never calls."""
    group = dist.new_group([0, 2])
    if rank == 1:
        return None
    network = Network(group=group)
    for step in range(STEPS):
        network(*batch_of(rank // 2, step))
    return copy.deepcopy(network).results()


COUNTS = torch.tensor([[60, 30, 9], [60, 39, 0], [60, 0, 10]] * 10)


def rare_classes(rank: int) -> list[int]:
    batches = DataLoader(range(30), batch_size=4, sampler=si.RareClassSampler(COUNTS, 0.3))  # type: ignore[arg-type, var-annotated]
    return [image for batch in batches for image in batch.tolist()]


def transport(rank: int) -> list[Tensor]:
    prior = torch.tensor([0.5, 0.25, 0.25, 0.0])
    return [si.SinkhornLabels(0.5)(batch_of(rank, step)[0], prior) for step in range(STEPS)]


def everything(rank: int) -> dict[str, Any]:
    """All that ranks do, in one start of the processes."""
    functions = (
        match_everything,
        train_under_ddp,
        without_sync,
        some_adapt,
        on_a_group_for_gpus,
        rare_classes,
        transport,
    )
    return {function.__name__: function(rank) for function in functions}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(WORLD, everything, tmp_path_factory.mktemp("ranks"))


@pytest.fixture
def matched(ranks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rank["match_everything"] for rank in ranks]


def test_banks_of_all_ranks_are_the_same_bits_and_those_of_one_process(matched: list[dict[str, Any]]) -> None:
    alone = match_alone(tuple(range(WORLD)))
    for rank in matched:
        for found, first, expected in zip(rank["shared"][:-1], matched[0]["shared"][:-1], alone, strict=True):
            assert all(torch.equal(found[name], first[name]) for name in first)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert int(found["stuff_bank.written"].max()) > 3


def test_without_sync_each_rank_keeps_its_own_bank(matched: list[dict[str, Any]]) -> None:
    for number, rank in enumerate(matched):
        for apart, alone in zip(rank["apart"][:-1], match_alone((number,)), strict=True):
            torch.testing.assert_close(apart, alone)


def test_losses_are_each_ranks_own(matched: list[dict[str, Any]]) -> None:
    values = [sum(rank["shared"][-1].values()).item() for rank in matched]
    assert all(value > 0 for value in values)
    assert len(set(values)) == WORLD


def test_ddp_averages_gradients_and_keeps_banks_equal(matched: list[dict[str, Any]]) -> None:
    first = matched[0]["ddp"]
    assert all(torch.equal(rank["ddp"][name], first[name]) for rank in matched for name in first)
    assert bool(first["gradient"].any())
    for name in ("stuff_bank.written", "instance_bank.features"):
        torch.testing.assert_close(first[name], matched[0]["shared"][2][name])


def test_counts_of_a_training_under_ddp_are_those_of_one_process(ranks: list[dict[str, Any]]) -> None:
    expected = alone(*range(WORLD))
    for one in (alone(0), alone(1, 0, 2)):
        assert not torch.allclose(one["anchors"], expected["anchors"])  # the order of images matters to some
    for rank in ranks:
        for found, first in zip(rank["train_under_ddp"], ranks[0]["train_under_ddp"], strict=True):
            check(found, expected)
            assert all(torch.equal(value.nan_to_num(), first[name].nan_to_num()) for name, value in found.items())


def test_without_sync_each_rank_keeps_its_own(ranks: list[dict[str, Any]]) -> None:
    for number, rank in enumerate(ranks):
        check(rank["without_sync"], alone(number))


def test_the_transport_of_all_ranks_is_that_of_one_process(ranks: list[dict[str, Any]]) -> None:
    for step in range(STEPS):
        features = torch.cat([batch_of(rank, step)[0] for rank in range(WORLD)])
        expected = si.SinkhornLabels(0.5)(features, torch.tensor([0.5, 0.25, 0.25, 0.0]))
        torch.testing.assert_close(torch.cat([rank["transport"][step] for rank in ranks]), expected)


def test_a_state_on_the_cpu_of_a_group_for_gpus_is_an_error_with_its_remedy(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert len(rank["on_a_group_for_gpus"]) == 4
        for message in rank["on_a_group_for_gpus"]:
            assert "must be on a device that the process group serves, got a tensor on cpu" in message
            assert ".to('cuda')" in message
            assert "sync='off'" in message


def test_a_group_of_some_ranks_waits_for_no_other(ranks: list[dict[str, Any]]) -> None:
    first, idle, last = (rank["some_adapt"] for rank in ranks)
    assert idle is None
    check(first, alone(0, 1))
    check(last, alone(0, 1))


def test_rare_class_sampling_gives_each_rank_its_part_of_one_stream(ranks: list[dict[str, Any]]) -> None:
    stream = list(si.RareClassSampler(COUNTS, 0.3, num_replicas=1))
    assert [rank["rare_classes"] for rank in ranks] == [stream[own::WORLD] for own in range(WORLD)]
