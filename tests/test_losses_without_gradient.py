"""Losses of what carries no gradient: one warning where somebody trains, none where values are only wanted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.public_calls import CALLS, LOSSES, D, Maps, matching, total

# Of features and of an output's adversary; losses of logits are what a validation loop logs.
WARNING = [
    "StuffInstanceMatching.forward", "StuffMatchingLoss.forward", "InstanceMatchingLoss.forward",
    "AnchorDistanceLoss.forward", "AnchorDistanceLoss.forward of pixels", "OutputAdversarialLoss.generator_loss",
    "FineGrainedAdversarialLoss.generator_loss", "stuff_matching_loss", "instance_matching_loss",
    "anchor_distance_loss", "BankContrastLoss.forward", "BankContrastLoss.forward of two banks",
    "FeatureDistanceLoss.forward", "FoundationFeatureLoss.forward",
    "DistributionContrastLoss.forward", "PrototypeContrastLoss.forward",
    "RegionContrastLoss.forward", "RegionContrastLoss.forward of two banks",
    "RegionContrastLoss.forward of several rows",
]  # fmt: skip
MESSAGE = r"without a gradient came while gradient mode is on, so the .* trains nothing: .*torch\.no_grad\(\)"
losses = pytest.mark.parametrize("name", WARNING)


@pytest.fixture(autouse=True)
def every_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def loss_of(name: str) -> tuple[Any, Callable[[Tensor], Tensor], Tensor]:
    """The module or function, a call of it of one tensor, and that tensor."""
    call, arguments = CALLS[name], CALLS[name].arguments(Maps())
    thing = call.make()
    run = thing if call.method is None else getattr(thing, call.method)
    if isinstance(thing, nn.Module):  # not its method: hooks and warnings belong to a call of the module
        run = thing if call.method == "forward" else run
    return thing, lambda x: total(run(**{**arguments, LOSSES[name]: x})), arguments[LOSSES[name]]


@losses
def test_it_warns_and_a_module_only_once(name: str) -> None:
    thing, call, x = loss_of(name)
    with pytest.warns(UserWarning, match=MESSAGE) as seen:
        [call(x) for _ in range(3)]
    assert len(seen) == (1 if isinstance(thing, nn.Module) else 3)
    assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match=MESSAGE):
        loss_of(name)[1](x)


@losses
def test_nothing_is_said_where_nobody_trains_and_where_there_is_a_gradient(name: str) -> None:
    thing, call, x = loss_of(name)
    call(x.clone().requires_grad_())
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            call(x)
    torch.func.grad(call)(x)
    if isinstance(thing, nn.Module):
        thing.eval()
        call(x)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - set(WARNING)))
def test_losses_of_logits_may_be_logged(name: str) -> None:
    _, call, x = loss_of(name)
    call(x)


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("name", ["StuffInstanceMatching.forward", "AnchorDistanceLoss.forward"])
def test_compiled_code_says_nothing(name: str) -> None:
    _, call, x = loss_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.filterwarnings("error", message=MESSAGE)
        torch.compile(call, fullgraph=True, backend="eager")(x)


def test_a_frozen_body_is_named_and_a_projection_is_the_remedy() -> None:
    body, projection, maps = nn.Conv2d(D, D, 1).requires_grad_(False), nn.Conv2d(D, D, 1), Maps()
    with pytest.warns(UserWarning, match=r"^target_features .*frozen.*projection \(a 1x1 convolution\)"):
        assert not matching()(body(maps.features), maps.logits).stuff.requires_grad
    matching()(projection(body(maps.features)), maps.logits).stuff.backward()
    assert projection.weight.grad is not None
