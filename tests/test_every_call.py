"""What holds for every public call: no float64, meta and fake tensors, torch.func, one graph for all sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kornia.color  # noqa: F401  (its import makes constants on the CPU; lab_color_transfer would do it under watch)
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.public_calls import CALLS, LOSSES, Call, Maps, tensors_in, total
from tests.wrong_arguments import changed, state_of

OLD = not hasattr(torch.compiler, "set_stance")  # before torch 2.6
ON_HOST = {"RareClassSampler"}  # reads its tensor as it is made
WITH_MAPS = [
    n
    for n, call in CALLS.items()
    if n not in ON_HOST and any(isinstance(each, Tensor) for each in call.arguments(Maps()).values())
]
HALF_AND_SINGLE = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
losses = pytest.mark.parametrize("name", LOSSES)
taking_maps = pytest.mark.parametrize("name", WITH_MAPS)


class MadeInFloat64(TorchDispatchMode):
    """The operations that gave a float64 tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        made = (each for each in tree_leaves(result) if isinstance(each, Tensor) and each.dtype == torch.float64)
        self.operations += [str(function) for _ in made]
        return result


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("unread")
def test_devices_without_float64(name: str) -> None:
    """Apple's GPUs: no call on float32 inputs makes a float64 tensor, however small."""
    call = CALLS[name]
    with MadeInFloat64() as made:
        thing = call.make()
        run = thing if call.method is None else getattr(thing, call.method)
        run(**call.arguments(Maps()))
        if isinstance(thing, nn.Module):
            for method in ("compute", "counts"):
                getattr(thing, method, lambda: None)()
            thing.load_state_dict(thing.state_dict())
    assert not made.operations


def value_and_gradient(name: str, maps: Maps) -> tuple[Tensor, Tensor]:
    arguments = CALLS[name].arguments(maps)
    x = arguments[LOSSES[name]].requires_grad_()
    value = total(CALLS[name].bound()(**{**arguments, LOSSES[name]: x}))
    return value, torch.autograd.grad(value, x)[0]


@HALF_AND_SINGLE
@losses
def test_losses_without_float64(name: str, dtype: torch.dtype) -> None:
    of_rows = name == "region_mean"  # which autocast does not reach
    with MadeInFloat64() as made, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        value, _ = value_and_gradient(name, Maps(dtype=dtype if of_rows else torch.float32))
    assert not made.operations
    assert value.dtype != torch.float64


@pytest.mark.parametrize(
    "name", [name for name in LOSSES if not any(kind in name for kind in ("Discriminator", "Output", "Foundation"))]
)
def test_float64_stays_float64(name: str) -> None:
    assert value_and_gradient(name, Maps(dtype=torch.float64))[0].dtype == torch.float64


@taking_maps
def test_inputs_are_not_changed_and_only_updates_write(name: str) -> None:
    call = CALLS[name]
    thing, arguments, expected = call.make(), call.arguments(Maps()), call.arguments(Maps())
    parts = (getattr(thing, part, None) for part in ("bank", "negatives", "anchors"))
    held = [thing, *parts, *getattr(thing, "banks", ()), *arguments.values()]
    before = [state_of(each) for each in held]
    (thing if call.method is None else getattr(thing, call.method))(**arguments)
    assert all(torch.equal(value, expected[key]) for key, value in arguments.items() if isinstance(value, Tensor))
    if not str(call.method).startswith("update"):
        assert not any(changed(each, state) for each, state in zip(held, before, strict=True))


# ------------------------------------------------------------------ meta and fake tensors


def to_meta(thing: Any) -> Any:
    """A module on the meta device, with the parts that belong to the caller."""
    parts = (getattr(thing, name, None) for name in ("bank", "negatives", "anchors", "distributions", "discriminator"))
    for part in (thing, *parts, *getattr(thing, "banks", ())):
        if isinstance(part, nn.Module):
            part.to("meta")
    return thing


@taking_maps
def test_shapes_propagate_on_meta(name: str) -> None:
    call = CALLS[name]
    expected = tensors_in(call.bound()(**call.arguments(Maps())))
    arguments = {key: to_meta(value) for key, value in call.arguments(Maps(device="meta")).items()}
    on_meta = call._replace(make=lambda: to_meta(call.make())).bound()(**arguments)
    for one, other in zip(tensors_in(on_meta), expected, strict=True):
        assert (one.device.type, one.shape, one.dtype) == ("meta", other.shape, other.dtype)


def fake(call: Call, mode: FakeTensorMode) -> dict[str, Any]:
    given = call.arguments(Maps()).items()
    return {key: mode.from_tensor(value) if isinstance(value, Tensor) else value for key, value in given}


@taking_maps
def test_fake_tensors(name: str) -> None:
    """As memory estimators run a step: shapes and dtypes alone; modules may have been made before."""
    call = CALLS[name]
    run = call.bound()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        arguments = fake(call, mode)
        for value in tensors_in(run(**arguments)):
            assert isinstance(value, FakeTensor)
        if name in LOSSES:
            x = arguments[LOSSES[name]].requires_grad_()
            (gradient,) = torch.autograd.grad(total(run(**arguments)), x)
            assert (gradient.shape, gradient.dtype) == (x.shape, torch.float32)


# ------------------------------------------------------------------ torch.func


def of_one_tensor(name: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    arguments, run = CALLS[name].arguments(Maps()), CALLS[name].bound()
    for key in set(arguments) & {"generator"}:
        arguments[key] = None

    def value(x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return total(run(**{**arguments, LOSSES[name]: x}))

    return value, arguments[LOSSES[name]]


@losses
def test_func_grad_equals_autograd_for_one_and_several_inputs(name: str) -> None:
    call, x = of_one_tensor(name)
    several = torch.stack([x, x.roll(1, -1), x.roll(1, -2)])
    expected = torch.stack([torch.autograd.grad(call(each), each)[0] for each in several.clone().requires_grad_()])
    assert expected.any()
    torch.testing.assert_close(grad(call)(x), expected[0])
    torch.testing.assert_close(vmap(grad(call), randomness="same")(several), expected, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------ torch.compile


# Compiled within another call.
COMPILED_ELSEWHERE = {
    "StuffBank.update", "InstanceBank.update", "InstanceMatchingLoss.matches", "FineGrainedDiscriminator.forward",
    "OutputDiscriminator.forward", "AnchorDistanceLoss.forward", "StuffMatchingLoss.forward of a callable",
    "StuffMatchingLoss.forward", "InstanceMatchingLoss.forward", "CBSTThreshold.update",
    "ClassBalancedThreshold.update_scores", "ClassBalancedThreshold.filter", "class_center_distance",
    "OutputAdversarialLoss.discriminator_loss", "FineGrainedAdversarialLoss.discriminator_loss",
}  # fmt: skip
# With torch's default options: a second size makes a second graph, in which sizes vary.
DEFAULT_OPTIONS = {"random_block_mask", "random_token_mask", "class_mix", "SoftNeighborhoodDensity.update"}
SIZES = (Maps(2, 6, 8), Maps(3, 9, 7), Maps(4, 5, 11))


def made(call: Call) -> Any:
    torch.manual_seed(0)
    return call.make()


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("name", [name for name in WITH_MAPS if name not in COMPILED_ELSEWHERE])
def test_sizes_vary_in_one_compiled_function(name: str) -> None:
    if OLD and name == "fourier_amplitude_transfer":
        pytest.skip("this torch compiles no Fourier transform of a size that varies")
    call = CALLS[name]
    plain, other = made(call), made(call)
    run = plain if call.method is None else getattr(plain, call.method)
    traced = other if call.method is None else getattr(other, call.method)
    fixed = {key: value for key, value in call.arguments(SIZES[0]).items() if not isinstance(value, Tensor)}
    fixed.update({key: None for key in fixed if key == "generator"})
    dynamic = None if OLD or name in DEFAULT_OPTIONS else True
    backend = "aot_eager" if call.method == "update" or not dynamic else "eager"  # what is written, functionalized too
    compiled = torch.compile(
        lambda **tensors: traced(**fixed, **tensors),
        fullgraph=True,
        backend=backend,
        dynamic=dynamic,
    )
    for maps in SIZES:
        tensors = {key: value for key, value in call.arguments(maps).items() if isinstance(value, Tensor)}
        with torch.random.fork_rng():
            expected = run(**{**call.arguments(maps), **fixed})
        torch.testing.assert_close(compiled(**tensors), expected, equal_nan=True)
        if isinstance(plain, nn.Module):
            torch.testing.assert_close(other.state_dict(), plain.state_dict())
