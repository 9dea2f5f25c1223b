"""torch.compile(fullgraph=True) of matching: the same numbers and gradients as without, no second compilation."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import stuffinstance as si
from tests.public_calls import D, K, Maps, matching

pytestmark = pytest.mark.usefixtures("compiling")
MAPS = Maps(2, 7, 9)


def compiled(function: Callable[..., Tensor], backend: str = "aot_eager") -> Callable[..., Tensor]:
    return torch.compile(function, fullgraph=True, backend=backend)


def check_same(function: Callable[..., Tensor], *inputs: Tensor, backend: str = "aot_eager") -> None:
    features = inputs[0].clone().requires_grad_()
    expected = function(features, *inputs[1:])
    slope = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad(expected, features, slope)
    actual = compiled(function, backend)(features, *inputs[1:])
    (gradient,) = torch.autograd.grad(actual, features, slope)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_region_mean_of_instances() -> None:
    check_same(lambda f, y: si.region_mean(f, si.instance_regions(y, (1, 2), 3)), MAPS.features, MAPS.labels)


@pytest.mark.parametrize("preset", ["code", "paper"])
def test_matching(preset: str) -> None:
    """Both losses; the code's preset with a classifier, labels of twice the size."""
    sim = matching(preset, classifier=nn.Linear(D, K) if preset == "code" else None)
    labels = MAPS.labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    check_same(lambda f, z, p: torch.stack(sim(f, z, p)), MAPS.features, MAPS.logits, labels)


@pytest.mark.parametrize("preset", ["code", "paper"])
def test_update_with_a_classifier(preset: str) -> None:
    plain = matching(preset, classifier=nn.Linear(D, K))
    sim = copy.deepcopy(plain)
    batch = MAPS.features, MAPS.labels, MAPS.logits
    compiled(sim.update)(*batch)
    plain.update(*batch)
    torch.testing.assert_close(sim.state_dict(), plain.state_dict())


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch is too old to forbid another compilation")
def test_another_bank_content_needs_no_other_code() -> None:
    sim = matching()
    loss = compiled(sim.stuff_loss)
    first = loss(MAPS.features, MAPS.labels)
    sim.update(2 * MAPS.features, MAPS.labels, MAPS.logits)
    with torch.compiler.set_stance("fail_on_recompile"):
        second = loss(MAPS.features, MAPS.labels)
    torch.testing.assert_close(second, sim.stuff_loss(MAPS.features, MAPS.labels))
    assert first != second


def test_validation_steps_aside_in_compiled_code() -> None:
    sim = si.StuffInstanceMatching(si.CITYSCAPES, 4, validate_args=True)
    assert compiled(sim)(torch.randn(1, 4, 3, 5), torch.randn(1, 19, 3, 5)).stuff == 0


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own use of torch.jit
def test_region_mean_through_the_whole_compiler() -> None:
    check_same(lambda f, r: si.region_mean(f, r, K), MAPS.features, MAPS.labels.clamp(max=K), backend="inductor")
