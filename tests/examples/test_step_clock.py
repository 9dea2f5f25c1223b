"""What a step costs: measured where it is said to be, for nothing in numbers, and told wherever it is looked for."""

from __future__ import annotations

import json
import re
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import stuffinstance as si
from examples.gta5_to_cityscapes.checkpoint import load_checkpoint
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.methods import Domain, StepContext
from examples.gta5_to_cityscapes.metrics_log import StepCost, time_of_a_step
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import Event, RunFolder
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training import loop, step_clock
from examples.gta5_to_cityscapes.training.loop import train
from examples.gta5_to_cityscapes.training.step import TrainingStep
from examples.gta5_to_cityscapes.training.step_clock import UNTIMED, StepClock

from .made_steps import made_step
from .test_checkpoints import assert_same

CPU = torch.device("cpu")
BUSY = "aa+it+sim+mix+mask"  # terms before the matching and after it, on the same features


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the clock sees; adding to it is all that takes time."""
    now = [0.0]
    monkeypatch.setattr(step_clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


class Slow(torch.autograd.Function):
    """The identity, which takes so many seconds in either direction."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, seconds: float, hands: list[float]) -> Tensor:
        ctx.seconds, ctx.hands = seconds, hands
        hands[0] += seconds
        return features.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        ctx.hands[0] += ctx.seconds
        return slopes[0], None, None


def slow(features: Tensor, seconds: float, hands: list[float]) -> Tensor:
    return Slow.apply(features, seconds, hands)  # type: ignore[no-any-return, no-untyped-call]


# ------------------------------------------------------------------ the clock


def test_phases_add_up_over_steps_until_they_are_read(hands: list[float]) -> None:
    clock = StepClock(CPU)
    for _ in range(2):
        with clock.step():
            hands[0] += 1
            for seconds in (2.0, 4.0):
                with clock.phase("data"):
                    hands[0] += seconds
            clock.images += 3
        hands[0] += 100  # evaluation, saving
    assert clock.read() == StepCost(2, 6, 14.0, {"data": 12.0})
    assert clock.read() == StepCost()


def test_the_backward_share_of_a_term_is_its_own(hands: list[float]) -> None:
    clock = StepClock(CPU)
    image = torch.ones(3, requires_grad=True)
    with clock.step():
        features = slow(image, 1, hands)
        before = slow(features, 2, hands).sum()
        first, second = clock.forward_and_backward(
            "matching",
            lambda alias: (slow(slow(alias, 4, hands), 8, hands).sum(), slow(alias, 16, hands).sum()),
            features,
        )
        after = slow(features, 32, hands).sum()
        (before + 0.5 * first + 0.5 * second + after).backward()
    assert image.grad is not None
    assert image.grad.tolist() == [3.0, 3.0, 3.0]
    assert clock.read() == StepCost(1, 0, 2 * 63, {"matching": 2 * 28.0})


def test_a_loss_without_gradient_is_timed_forward_alone(hands: list[float]) -> None:
    clock = StepClock(CPU)
    with torch.no_grad():
        clock.forward_and_backward("matching", lambda alias: (slow(alias, 4, hands).sum(),), torch.ones(3))
    assert clock.read().phases == {"matching": 4.0}


def test_without_a_device_nothing_is_measured_and_nothing_added_to_the_graph() -> None:
    clock, features, seen = StepClock(None), torch.ones(3, requires_grad=True), []

    def losses_of(given: Tensor) -> tuple[Tensor]:
        seen.append(given)
        return (given.sum(),)

    with clock.phase("data"):
        clock.forward_and_backward("matching", losses_of, features)
    assert seen[0] is features
    assert clock.read() == StepCost()


class FakeEvent:
    """A CUDA event: it must not be asked before it has been waited for."""

    waits = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: list[float]) -> None:
        self.at = stream[0]

    def synchronize(self) -> None:
        FakeEvent.waits += 1

    def elapsed_time(self, end: FakeEvent) -> float:
        return (end.at - self.at) * 1e3


def test_on_a_gpu_events_are_read_when_the_clock_is(hands: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: hands)
    monkeypatch.setattr(FakeEvent, "waits", 0)
    clock = StepClock(torch.device("cuda"))
    features = torch.ones(3, requires_grad=True)
    for _ in range(3):
        with clock.step(), clock.phase("data"):
            hands[0] += 0.5
            (loss,) = clock.forward_and_backward("matching", lambda alias: (slow(alias, 1, hands).sum(),), features)
            loss.backward()
    assert FakeEvent.waits == 0
    assert clock.read() == StepCost(3, 0, 7.5, {"matching": 6.0, "data": 7.5})
    assert FakeEvent.waits > 0
    assert clock.read() == StepCost()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")  # that it does not see everything
def test_on_a_real_gpu_no_step_waits_and_the_times_are_the_streams() -> None:
    device = torch.device("cuda")
    clock, features = StepClock(device), torch.ones(1 << 24, device=device, requires_grad=True)
    features.sin().mean().backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            with clock.step():
                (features.cos().mean() + clock.forward_and_backward("matching", one_loss, features)[0]).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    cost = clock.read()
    assert cost.steps == 20
    assert 1e-4 < cost.phases["matching"] < cost.seconds < 10


def one_loss(features: Tensor) -> tuple[Tensor]:
    return (features.sin().mean(),)


# ------------------------------------------------------------------ in a real step


def matching_of(step: TrainingStep) -> si.StuffInstanceMatching:
    modules = {name: each for method in step.methods for name, each in method.modules().items()}
    assert isinstance(modules["sim"], si.StuffInstanceMatching)
    return modules["sim"]


def busy_step() -> tuple[TrainingStep, StepContext]:
    """A step of many terms whose banks are full, so that whatever the network predicts is matched."""
    torch.manual_seed(0)
    step, context = made_step(compose_recipe(BUSY, "smoke", overrides=["matching.agreement=false"]), same_size=True)
    for bank in (matching_of(step).stuff_bank, matching_of(step).instance_bank):
        bank.features.uniform_()
        bank.written += 2 * bank.capacity
    return step, context


def anew(context: StepContext, step: int, clock: StepClock) -> StepContext:
    """The same images, before a step has seen them."""
    domains = [Domain(each.images, each.labels) for each in (context.labeled, context.unlabeled)]
    return StepContext(step, *domains, clock=clock)


def nodes_of(loss: Tensor) -> list[Any]:
    """All nodes of a loss' graph."""
    found, waiting = [], [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.append(node)
            waiting += [before for before, _ in node.next_functions]
    return found


def test_in_a_whole_step_it_measures_the_nodes_of_an_isolated_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []  # nodes of the backward pass; the clock's hands, so what it measures is a number of them
    monkeypatch.setattr(step_clock, "time", SimpleNamespace(perf_counter=lambda: float(len(ran))))
    backward = Tensor.backward

    def note(name: str, _: object) -> None:
        ran.append(name)

    def counted(loss: Tensor) -> None:
        for node in nodes_of(loss):
            node.register_prehook(partial(note, node.name()))
        backward(loss)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(Tensor, "backward", counted)
    step, context = busy_step()
    sim = matching_of(step)
    given: list[Any] = []
    sim.register_forward_hook(lambda _, args, kwargs, __: given.append((args, kwargs)), with_kwargs=True)
    clock = StepClock(CPU)
    for _ in range(3):
        ran.clear()
        given.clear()
        clock.read()
        losses = step([anew(context, 0, clock)])
    assert losses["stuff"] > 0
    assert losses["instance"] > 0
    measured, whole_step = clock.read().phases["matching"], len(ran)

    ran.clear()
    (features,), others = given[0]
    alone = sim(features.detach().requires_grad_(), **others)
    (alone.stuff + alone.instance).backward()
    around = {"AddBackward0": 1, "torch::autograd::AccumulateGrad": 1}  # the sum, and the features as a leaf
    assert all(ran.count(name) >= count for name, count in around.items())
    assert measured == len(ran) - 2
    assert 10 < measured < whole_step / 3


def test_the_clock_changes_no_bit(one_thread: None) -> None:
    def trained(clock: StepClock) -> TrainingStep:
        step, context = busy_step()
        for number in range(3):
            losses = step([anew(context, number, clock)])
        assert losses["stuff"] > 0
        return step

    assert_same(trained(StepClock(CPU)).state(), trained(UNTIMED).state(), "step")


# ------------------------------------------------------------------ in a run


def lines_of(run: RunFolder) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "cost"]


def test_a_run_logs_what_its_steps_cost_and_ends_with_the_mean(
    streets: Folders, tmp_path: Path, quiet: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, pause = loop.evaluate_recipe, 0.25

    def slow_evaluation(*args: Any, **options: Any) -> Any:
        time.sleep(pause)
        return evaluate(*args, **options)

    monkeypatch.setattr(loop, "evaluate_recipe", slow_evaluation)
    overrides = [*quiet, "schedule.max_steps=8", "schedule.log_every=4", "schedule.evaluate_every=2"]
    recipe = compose_recipe("sim", "smoke", overrides=overrides)
    run, events = RunFolder(tmp_path / "run"), list[Event]()
    result = train(recipe, run, open_training_data(recipe, streets), device=CPU, watch=events.append)
    lines = lines_of(run)
    assert [line["step"] for line in lines] == [4, 8]
    means = {"seconds_per_step", "images_per_second", "data_share", "matching_share"}
    for line in lines:
        assert set(line) == {"step", "kind", *means, "peak_memory_bytes"}
        assert line["seconds_per_step"] * line["images_per_second"] == pytest.approx(4)  # two of each domain
        assert 0 < line["data_share"] < line["data_share"] + line["matching_share"] < 1
        assert line["peak_memory_bytes"] > 1e7
    assert result.seconds_per_step == pytest.approx(sum(line["seconds_per_step"] for line in lines) / 2)
    assert 8 * result.seconds_per_step < result.seconds_total - 4 * pause
    assert RunFolder(run.path).result() == result
    assert any(re.search(r"\d m?s a step$", event.note) for event in events)


def test_a_run_without_matching_or_target_tells_what_there_is(
    streets: Folders, tmp_path: Path, quiet: list[str]
) -> None:
    recipe = compose_recipe("source", "smoke", overrides=[*quiet, "schedule.max_steps=2"])
    run = RunFolder(tmp_path / "run")
    result = train(recipe, run, open_training_data(recipe, streets), device=CPU)
    (line,) = lines_of(run)
    assert "matching_share" not in line
    assert result.matching_share is None
    assert line["seconds_per_step"] * line["images_per_second"] == pytest.approx(2)


def test_a_resumed_run_counts_the_steps_before(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    recipe = compose_recipe("sim", "smoke", overrides=[*quiet, "schedule.max_steps=4", "schedule.log_every=1"])
    run = RunFolder(tmp_path / "run")
    with pytest.raises(Stopped):
        train(recipe, run, open_training_data(recipe, streets), device=CPU, stop_after=3)
    before = StepCost(**load_checkpoint(run.checkpoint)["cost"])
    assert (before.steps, before.images) == (3, 12)
    result = train(recipe, run, open_training_data(recipe, streets), device=CPU)
    seconds = [line["seconds_per_step"] for line in lines_of(run)]
    assert sum(seconds[:3]) == pytest.approx(before.seconds)
    assert result.seconds_per_step == pytest.approx(sum(seconds) / 4)


def test_costs_of_two_intervals_add_up() -> None:
    both = StepCost(1, 2, 3.0, {"data": 1.0}) + StepCost(3, 6, 5.0, {"data": 1.0, "matching": 2.0})
    assert both == StepCost(4, 8, 8.0, {"data": 2.0, "matching": 2.0})
    assert both.means() == {
        "seconds_per_step": 2.0,
        "images_per_second": 1.0,
        "data_share": 0.25,
        "matching_share": 0.25,
    }
    assert StepCost().means() == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00042, "0.42 ms"), (0.3514, "351 ms"), (0.9994, "999 ms"), (0.9996, "1 s"), (46.13, "46.1 s")],
)
def test_the_time_of_a_step_has_a_unit_that_fits(seconds: float, text: str) -> None:
    assert time_of_a_step(seconds) == text
