"""Losses of what carries no gradient: one warning where somebody trains, none where values are only wanted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import stuffinstance as si

SPACE = si.LabelSpace(names=("a", "b"), stuff=(0,), things=(1,))
LABELS = torch.tensor([[[0, 0, 1], [0, 1, 1]]])
LOGITS = torch.nn.functional.one_hot(LABELS, 2).movedim(3, 1).float()


@pytest.fixture(autouse=True)
def every_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def features(**options: bool) -> Tensor:
    return torch.randn(1, 3, 2, 3, **options)


def matching() -> si.StuffInstanceMatching:
    sim = si.StuffInstanceMatching(SPACE, 3, preset="paper")
    sim.update(features(), LABELS, LOGITS)
    return sim


def anchors() -> si.CategoryAnchors:
    held = si.CategoryAnchors(2, 3, min_pixels=1)
    held.update(features(), LABELS)
    return held


Call = Callable[[Tensor], object]


def modules() -> dict[str, tuple[nn.Module, Call]]:
    """Every module that is a loss of features (or, of an output's adversary, of logits), and its call."""
    sim, of_means, of_pixels = matching(), si.AnchorDistanceLoss(anchors()), si.AnchorDistanceLoss(anchors(), "paper")
    bank = sim.stuff_bank
    stuff, instance = si.StuffMatchingLoss(bank), si.InstanceMatchingLoss(sim.instance_bank)
    output = si.OutputAdversarialLoss(nn.Conv2d(3, 1, 1).requires_grad_(False))
    fine = si.FineGrainedAdversarialLoss(nn.Conv2d(3, 4, 1))
    return {
        "facade": (sim, lambda x: sum(sim(x, LOGITS))),
        "stuff": (stuff, lambda x: stuff(x, LABELS)),
        "instance": (instance, lambda x: instance(x, LABELS)),
        "anchors, code": (of_means, lambda x: of_means(x, LABELS)),
        "anchors, paper": (of_pixels, lambda x: of_pixels(x, LABELS)),
        "output": (output, output.generator_loss),
        "fine-grained": (fine, lambda x: fine.generator_loss(x, LOGITS)),
    }


FUNCTIONS: dict[str, Call] = {
    "stuff": lambda x: si.stuff_matching_loss(x, LABELS, matching().stuff_bank),
    "instance": lambda x: si.instance_matching_loss(x, LABELS, matching().instance_bank),
    "anchors, code": lambda x: si.anchor_distance_loss(x, LABELS, anchors()),
    "anchors, paper": lambda x: si.anchor_distance_loss(x, LABELS, anchors(), form="paper"),
}
MESSAGE = r"without a gradient came while gradient mode is on, so the .* trains nothing: .*torch\.no_grad\(\)"


@pytest.mark.parametrize("name", list(modules()))
def test_a_module_warns_once(name: str) -> None:
    module, call = modules()[name]
    with pytest.warns(UserWarning, match=MESSAGE + r" or \.eval\(\)") as seen:
        [call(features()) for _ in range(3)]
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert module.state_dict().keys() == modules()[name][0].state_dict().keys()
    another = modules()[name][1]
    with pytest.warns(UserWarning, match=MESSAGE):
        another(features())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_warns(name: str) -> None:
    with pytest.warns(UserWarning, match=MESSAGE) as seen:
        FUNCTIONS[name](features())
    assert len(seen) == 1
    assert seen[0].filename == __file__


@pytest.mark.parametrize("name", [*modules(), *(f"function, {name}" for name in FUNCTIONS)])
def test_nothing_is_said_where_nobody_trains_and_where_there_is_a_gradient(name: str) -> None:
    module, call = (nn.Module(), FUNCTIONS[name[10:]]) if name.startswith("function, ") else modules()[name]
    call(features(requires_grad=True))
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            call(features())
    torch.func.grad(call)(features())
    if not name.startswith("function, "):
        module.eval()
        call(features())


@pytest.mark.parametrize("name", ["facade", "stuff", "instance", "anchors, code"])
def test_compiled_code_says_nothing(name: str) -> None:
    _, call = modules()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.filterwarnings("error", message=MESSAGE)
        torch.compile(call, fullgraph=True, backend="eager")(features())
    torch.compiler.reset()


def test_a_frozen_body_is_named_and_a_projection_is_the_remedy() -> None:
    body, projection, sim = nn.Conv2d(3, 3, 1).requires_grad_(False), nn.Conv2d(3, 3, 1), matching()
    with pytest.warns(UserWarning, match=r"^target_features .*frozen.*projection \(a 1x1 convolution\)"):
        assert not sim(body(features()), LOGITS).stuff.requires_grad
    matching()(projection(body(features())), LOGITS).stuff.backward()
    assert projection.weight.grad is not None


def test_losses_of_logits_may_be_looked_at() -> None:
    """Entropy and its kin of logits without a gradient are what a validation loop logs."""
    logits = torch.randn(1, 2, 2, 3)
    si.EntropyLoss()(logits), si.MaxSquareLoss()(logits)
    si.weighted_cross_entropy(logits, LABELS, torch.ones(1))
    si.mrkld_regularizer(logits, LABELS >= 0)
    si.soft_cross_entropy(logits, logits.softmax(1), LABELS >= 0)
