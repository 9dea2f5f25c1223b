"""torch.func over matching and regions: gradients per image, forward mode, second derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

import stuffinstance as si
from tests.public_calls import IGNORE, D, Maps, matching, total

DOUBLE = Maps(dtype=torch.float64)
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


def gradient(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(call(x), x)[0]


@LAYOUTS
@pytest.mark.parametrize("preset", ["code", "paper"])
def test_gradients_per_image_with_labels_of_their_own(preset: str, layout: torch.memory_format) -> None:
    """Per-sample gradients: features, logits and labels are all mapped over, so each image has its own regions."""
    sim, features, scores = matching(preset), DOUBLE.features.to(memory_format=layout), DOUBLE.logits
    pseudo = torch.where(torch.rand(DOUBLE.size) < 0.7, IGNORE, DOUBLE.labels)

    def of_image(x: Tensor, z: Tensor, p: Tensor) -> Tensor:
        return total(sim(x[None], z[None], p[None]))

    alone = [gradient(lambda x, b=b: of_image(x, scores[b], pseudo[b]), features[b]) for b in range(2)]
    assert all(each.any() for each in alone)
    torch.testing.assert_close(vmap(grad(of_image))(features, scores, pseudo), torch.stack(alone))


def test_gradients_of_a_networks_parameters_per_image() -> None:
    sim, network = matching(), torch.nn.Conv2d(3, D, 1, dtype=torch.float64)
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def of_image(given: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
        return total(sim(functional_call(network, given, (x[None],)), z[None]))

    several = vmap(grad(of_image), in_dims=(None, 0, 0))(parameters, DOUBLE.images, DOUBLE.logits)
    for b in range(2):
        network.zero_grad()
        total(sim(network(DOUBLE.images[b : b + 1]), DOUBLE.logits[b : b + 1])).backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(several[name][b], parameter.grad)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own use
@LAYOUTS
def test_forward_mode_and_second_derivatives(layout: torch.memory_format) -> None:
    sim, x = matching(), DOUBLE.features.to(memory_format=layout)

    def of_features(features: Tensor) -> Tensor:
        return total(sim(features, DOUBLE.logits))

    direction = torch.randn_like(x)
    torch.testing.assert_close(jvp(of_features, (x,), (direction,))[1], (gradient(of_features, x) * direction).sum())
    torch.testing.assert_close(hessian(of_features)(x), jacrev(jacrev(of_features))(x))


@pytest.mark.parametrize("call", [
    lambda m: si.connected_components(m, ignore_index=None),
    lambda m: torch.stack(list(si.instance_regions(m, (1, 2), 3)[1:3])),
    lambda m: si.stuff_regions(m, (1, 2)).region_map,
    lambda m: si.stuff_regions(m, (1, 2)).area,
])  # fmt: skip
@pytest.mark.parametrize("dim", [0, 1, 3])
def test_regions_of_several_batches_together(call: Callable[[Tensor], Tensor], dim: int) -> None:
    maps = torch.randint(0, 4, (3, 2, 6, 8))
    expected = torch.stack([call(each) for each in maps])
    assert torch.equal(vmap(call, in_dims=dim)(maps.movedim(0, dim)), expected)


@pytest.mark.parametrize("validate_args", [False, True])
def test_the_search_for_empty_banks_reads_no_fake_tensor(validate_args: bool) -> None:
    sim = si.StuffInstanceMatching(si.CITYSCAPES, D, validate_args=validate_args)
    sim._calls = 99  # the call that looks whether the banks are still empty
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert isinstance(sim(torch.randn(2, D, 6, 8), torch.randn(2, 19, 6, 8)).stuff, FakeTensor)
