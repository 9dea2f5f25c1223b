"""torch.func's transforms and fake tensors: every public loss gives what it gives without them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

import stuffinstance as si
from tests.public_calls import B, D, H, K, W, labels, logits, losses, matching, others

NAMES = list(losses())


def point(channels: int, *more: int) -> Tensor:
    return torch.randn(*more, B, channels, H, W, dtype=torch.float64)


def gradient(call, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    x = x.clone().requires_grad_()
    return torch.autograd.grad(call(x), x)[0]


@pytest.mark.parametrize("name", NAMES)
def test_func_grad_equals_autograd(name: str) -> None:
    channels, call = losses(torch.float64)[name]
    x = point(channels)
    expected = gradient(call, x)
    assert expected.any()
    torch.testing.assert_close(grad(call)(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_several_inputs_together(name: str) -> None:
    channels, call = losses(torch.float64)[name]
    x = point(channels, 3)
    several = vmap(grad(call), randomness="same")(x)
    torch.testing.assert_close(several, torch.stack([gradient(call, each) for each in x]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("preset", ["code", "paper"])
def test_gradients_per_image_with_labels_of_their_own(preset: str, layout: torch.memory_format) -> None:
    """Per-sample gradients: features, logits and labels are all mapped over, so each image has its own regions."""
    sim = matching(preset, torch.float64)
    features, scores = point(D).to(memory_format=layout), logits(torch.float64)
    pseudo = torch.where(torch.rand(B, H, W) < 0.7, 255, labels())

    def total(x: Tensor, z: Tensor, p: Tensor) -> Tensor:
        losses = sim(x[None], z[None], p[None])
        return losses.stuff + losses.instance

    several = vmap(grad(total))(features, scores, pseudo)
    alone = [gradient(lambda x, b=b: total(x, scores[b], pseudo[b]), features[b]) for b in range(B)]
    assert all(each.any() for each in alone)
    torch.testing.assert_close(several, torch.stack(alone))


def test_gradients_of_a_networks_parameters_per_image() -> None:
    sim, network = matching("paper", torch.float64), torch.nn.Conv2d(3, D, 1, dtype=torch.float64)
    images, scores = point(3), logits(torch.float64)
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def total(given: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
        return sum(sim(functional_call(network, given, (x[None],)), z[None]))  # type: ignore[return-value]

    several = vmap(grad(total), in_dims=(None, 0, 0))(parameters, images, scores)
    for b in range(B):
        network.zero_grad()
        sum(sim(network(images[b : b + 1]), scores[b : b + 1])).backward()  # type: ignore[union-attr]
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(several[name][b], parameter.grad)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own use
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_forward_mode_and_second_derivatives(layout: torch.memory_format) -> None:
    sim, scores, x = matching("paper", torch.float64), logits(torch.float64), point(D).to(memory_format=layout)

    def total(features: Tensor) -> Tensor:
        return sum(sim(features, scores))  # type: ignore[return-value]

    direction = torch.randn_like(x)
    torch.testing.assert_close(jvp(total, (x,), (direction,))[1], (gradient(total, x) * direction).sum())
    torch.testing.assert_close(hessian(total)(x), jacrev(jacrev(total))(x))


@pytest.mark.parametrize("call", [
    lambda m: si.connected_components(m, ignore_index=None),
    lambda m: torch.stack(list(si.instance_regions(m, (1, 2), 3)[1:3])),
    lambda m: si.stuff_regions(m, (1, 2)).region_map,
    lambda m: si.stuff_regions(m, (1, 2)).area,
])  # fmt: skip
@pytest.mark.parametrize("dim", [0, 1, 3])
def test_regions_of_several_batches_together(call, dim: int) -> None:  # type: ignore[no-untyped-def]
    maps = torch.randint(0, 4, (3, B, H, W))
    expected = torch.stack([call(each) for each in maps])
    assert torch.equal(vmap(call, in_dims=dim)(maps.movedim(0, dim)), expected)


@pytest.mark.parametrize("name", NAMES)
def test_losses_of_fake_tensors(name: str) -> None:
    """As memory estimators run a step: shapes and dtypes alone."""
    with FakeTensorMode():
        channels, call = losses()[name]
        x = torch.randn(B, channels, H, W, requires_grad=True)
        value = call(x)
        value.backward()
    assert isinstance(value, FakeTensor)
    assert (value.shape, value.dtype) == ((), torch.float32)
    assert x.grad.shape == x.shape  # type: ignore[union-attr]


# Without the mean teacher, which copies its network: torch cannot deep-copy a fake tensor.
@pytest.mark.parametrize("name", [name for name in others() if name != "MeanTeacher"])
def test_other_calls_with_fake_tensors(name: str) -> None:
    with FakeTensorMode():
        others()[name]()


@pytest.mark.parametrize("validate_args", [False, True])
def test_a_module_made_before_the_fake_mode(validate_args: bool) -> None:
    sim = si.StuffInstanceMatching(
        si.LabelSpace(tuple("abcd"), (0, 1), (2, 3)), D, preset="paper", validate_args=validate_args
    )
    sim._calls = 99  # the call that looks whether the banks are still empty
    with FakeTensorMode(allow_non_fake_inputs=True):
        value = sim(torch.randn(B, D, H, W), torch.randn(B, K, H, W)).stuff
    assert isinstance(value, FakeTensor)
