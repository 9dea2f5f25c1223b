"""Training with matching on a GPU: NCCL, scaled fp16, a captured graph, two streams. On a CPU what a CPU has of it."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import stuffinstance as si
from tests.distributed.process_groups import ending_the_group
from tests.test_sim import SMALL, batch, make

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_a_card = pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def as_users_run_it() -> None:
    torch.use_deterministic_algorithms(False)


def on_device(seed: int) -> list[Tensor]:
    return [part.to(DEVICE) for part in batch(seed)]


def full(preset: str = "paper") -> si.StuffInstanceMatching:
    sim = make(preset).to(DEVICE)
    for seed in range(6):
        sim.update(*on_device(seed))
    return sim


def step(sim: si.StuffInstanceMatching, seed: int) -> tuple[Tensor, Tensor]:
    """Banks, losses and the target's gradient of one step."""
    sim.update(*on_device(seed))
    features, _, logits = on_device(seed + 50)
    features.requires_grad_()
    losses = sim(features, logits)
    loss = losses.stuff + losses.instance
    return loss.detach(), torch.autograd.grad(loss, features)[0]


def test_a_group_of_one_rank_changes_nothing(tmp_path: Path) -> None:
    """NCCL on a card: collectives go through it, and the states and losses are those without a group."""
    alone, shared = full(), full()
    expected = [step(alone, seed) for seed in range(10, 13)]
    dist.init_process_group(
        "nccl" if DEVICE.type == "cuda" else "gloo",
        store=dist.FileStore(str(tmp_path / "store"), 1),
        rank=0,
        world_size=1,
    )
    with ending_the_group():
        found = [step(shared, seed) for seed in range(10, 13)]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for name, value in alone.state_dict().items():
        assert torch.equal(shared.state_dict()[name], value), name


def test_scaled_fp16_reaches_the_gradient_of_float32() -> None:
    """Matching computes in float32 under autocast, so scaling costs it no digits beyond the features' own."""
    sim = full()
    body = torch.nn.Conv2d(6, 6, 1).to(DEVICE)
    features, _, logits = on_device(60)
    gradients = []
    for enabled in (False, True):
        network, matching = copy.deepcopy(body), copy.deepcopy(sim)
        scaler = torch.amp.GradScaler(DEVICE.type, enabled=enabled, init_scale=2.0**12)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        with torch.autocast(DEVICE.type, torch.float16, enabled=enabled):
            losses = matching(network(features), logits)
        assert losses.stuff.dtype == losses.instance.dtype == torch.float32
        scaler.scale(losses.stuff + losses.instance).backward()
        scaler.unscale_(optimizer)
        gradients.append(network.weight.grad)
        scaler.step(optimizer)
        scaler.update()
    assert gradients[0].any()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.02, atol=1e-3 * float(gradients[0].abs().max()))


@needs_a_card
def test_a_captured_step_replays_with_other_content() -> None:
    """Components, pooling, banks, losses and gradient in one CUDA graph, by the backends that never wait."""
    from benchmarks.network import preferring

    sim, eager = full(), full()
    source, target = on_device(20), on_device(70)
    target[0].requires_grad_()

    def whole(module: si.StuffInstanceMatching) -> tuple[Tensor, Tensor]:
        module.update(*source)
        losses = module(target[0], target[2])
        loss = losses.stuff + losses.instance
        return loss.detach(), torch.autograd.grad(loss, target[0])[0]

    with preferring("triton"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = copy.deepcopy(sim.state_dict())
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            whole(sim)
        torch.cuda.current_stream().wait_stream(side)
        sim.load_state_dict(before)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = whole(sim)
    sim.load_state_dict(before)
    for seed in (21, 22, 23):
        for kept, other in zip((*source, *target), (*on_device(seed), *on_device(seed + 50)), strict=True):
            kept.data.copy_(other)
        graph.replay()
        torch.testing.assert_close(found, whole(eager))
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(sim.state_dict()[name], value)


@needs_a_card
def test_two_modules_on_two_streams_do_not_disturb_each_other() -> None:
    alone, together = [full(), full("code")], [full(), full("code")]
    expected = [[step(sim, seed) for seed in range(30, 40)] for sim in alone]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    found: list[list[tuple[Tensor, Tensor]]] = [[], []]
    for seed in range(30, 40):
        for sim, stream, results in zip(together, streams, found, strict=True):
            with torch.cuda.stream(stream):
                results.append(step(sim, seed))
    torch.cuda.synchronize()
    torch.testing.assert_close(found, expected)


def test_the_losses_are_not_zero() -> None:
    """What the others compare is worth comparing."""
    assert SMALL.num_classes > 1
    loss, gradient = step(full(), 10)
    assert float(loss) > 0
    assert gradient.any()
