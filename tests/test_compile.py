"""torch.compile(fullgraph=True): the same numbers and gradients as without, and no graph break."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import stuffinstance as si
from tests.label_maps import IGNORE, blocks
from tests.test_adaptation import batch, make

IDS = (0, 1, 3, 4, IGNORE)


@pytest.fixture(autouse=True)
def forget_compiled_code() -> Iterator[None]:
    torch.compiler.reset()
    torch.use_deterministic_algorithms(False)  # the compiler's own buffers need no poison
    yield
    torch.compiler.reset()


def compiled(function: Callable[..., Tensor], backend: str = "aot_eager") -> Callable[..., Tensor]:
    return torch.compile(function, fullgraph=True, backend=backend)  # type: ignore[no-any-return]


def check_same(function: Callable[..., Tensor], *inputs: Tensor, backend: str = "aot_eager") -> None:
    features = inputs[0].clone().requires_grad_()
    expected = function(features, *inputs[1:])
    slope = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad(expected, features, slope)
    actual = compiled(function, backend)(features, *inputs[1:])
    (gradient,) = torch.autograd.grad(actual, features, slope)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def warm(preset: str) -> si.StuffInstanceMatching:
    sim = make(preset, classifier=torch.nn.Linear(6, 5) if preset == "code" else None)
    for seed in range(8):
        sim.update(*batch(seed))
    if preset == "code":
        sim.stuff_bank.written += 3  # past the warm-up, whatever the classifier let through
        sim.instance_bank.written += 7
    return sim


def test_region_mean() -> None:
    regions = torch.randint(5, (2, 7, 9))
    check_same(lambda f, r: si.region_mean(f, r, 6), torch.randn(2, 3, 7, 9), regions)


def test_region_mean_of_instances() -> None:
    def pooled(features: Tensor, labels: Tensor) -> Tensor:
        return si.region_mean(features, si.instance_regions(labels, (1, 4), 3))

    check_same(pooled, torch.randn(2, 3, 7, 9), blocks(7, 9, IDS, 1, 2))


@pytest.mark.parametrize("kind", ["stuff", "instance"])
@pytest.mark.parametrize("preset", ["code", "paper"])
def test_losses(preset: str, kind: str) -> None:
    sim = warm(preset)
    loss = sim.stuff_loss if kind == "stuff" else sim.instance_loss
    check_same(loss, torch.randn(2, 6, 7, 9), blocks(14, 18, IDS, 2, 2))


def test_facade() -> None:
    sim = warm("paper")
    features, labels, logits = batch(50)
    check_same(lambda f, z, p: torch.stack(sim(f, z, p)), features, logits, labels)


def test_update() -> None:
    sim, plain = warm("paper"), warm("paper")
    torch.compile(sim.update, fullgraph=True, backend="aot_eager")(*batch(51))
    plain.update(*batch(51))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(sim.state_dict()[name], value)


@pytest.mark.parametrize("preset", ["code", "paper"])
def test_update_with_a_classifier(preset: str) -> None:
    head = torch.nn.Linear(6, 5)
    sim, plain = make(preset, classifier=head), make(preset, classifier=head)
    torch.compile(sim.update, fullgraph=True, backend="aot_eager")(*batch(51))
    plain.update(*batch(51))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(sim.state_dict()[name], value)


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch is too old to refuse another compilation")
def test_another_bank_content_needs_no_other_code() -> None:
    sim = warm("paper")
    loss = compiled(sim.stuff_loss)
    features, labels = torch.randn(2, 6, 7, 9), blocks(7, 9, IDS, 3, 2)
    first = loss(features, labels)
    sim.update(*batch(52))
    with torch.compiler.set_stance("fail_on_recompile"):
        second = loss(features, labels)
    torch.testing.assert_close(second, sim.stuff_loss(features, labels))
    assert first != second


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own use of torch.jit
def test_region_mean_through_the_whole_compiler() -> None:
    regions = torch.randint(5, (2, 7, 9))
    check_same(lambda f, r: si.region_mean(f, r, 6), torch.randn(2, 3, 7, 9), regions, backend="inductor")
