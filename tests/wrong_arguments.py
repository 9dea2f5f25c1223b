"""Arguments that are wrong in one way each, and what is wrong with the answer to them."""

from __future__ import annotations

import inspect
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.label_maps import IGNORE
from tests.public_calls import SPACE, tensors_in

INTEGERS = ("bool", "uint8", "int8", "int32", "int64", "uint16", "uint32", "uint64")


def anything() -> Iterator[Any]:
    """What is of the wrong kind nearly everywhere."""
    yield from (None, True, False, "auto", "255", b"1", (), [], {}, {"a": 1}, (1, 2.5), ("car", 1))
    yield from (object, SPACE, len, {1, 2}, (k for k in (0, 1)))
    yield from (np.ones((2, 2)), torch.ones(2), torch.tensor([0, 2]), np.array([0, 2], dtype=np.uint8))
    yield from ((1, 1), (-1, 0), (2**70,), (True, 0))  # as ids


def quietly(make: Callable[[], Tensor]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def in_eight_bits(right: Tensor) -> Tensor:
    torch.use_deterministic_algorithms(False)  # older releases cannot fill such memory, which the tests ask for
    try:
        return right.to(torch.float8_e5m2)
    finally:
        torch.use_deterministic_algorithms(True)


def wrong_tensors(right: Tensor, generator: random.Random) -> Iterator[tuple[str, Any]]:
    """The right tensor, spoilt in one way each."""
    place = tuple(generator.randrange(length) for length in right.shape)

    def with_value(value: Any) -> Tensor:
        wrong = right.clone()
        wrong[place] = value
        return wrong

    def nested(layout: torch.layout) -> Tensor:
        rows = [right.flatten(), right.flatten()[:1]]
        return quietly(lambda: torch.nested.nested_tensor(rows, layout=layout))

    yield from {
        "one dimension less": right[0],
        "one dimension more": right[None],
        "a scalar": right.flatten()[0],
        "another batch": right[:1],
        "no image": right[:0],
        "no pixel": right[..., :0],
        "narrower": right[..., :-1],
        "one channel less": right[..., 1:] if right.ndim < 3 else right[:, 1:],
        "transposed": right.mT if right.ndim > 1 else right.flip(0),
        "strided": torch.stack([right, right], -1)[..., 0],
        "expanded": right[:1].expand(right.shape),
        "flipped batch": right.flip(0),
        "on meta": right.to("meta"),
        "sparse": right.to_sparse(),
        "sparse rows": quietly(lambda: right.reshape(right.shape[0], -1).to_sparse_csr()),
        "nested": nested(torch.strided),
        "jagged": nested(torch.jagged),
        "quantized": quietly(lambda: torch.quantize_per_tensor(right.float(), 0.1, 0, torch.quint8)),
        "needs a gradient": right.detach().float().requires_grad_(),
        "in eight bits": in_eight_bits(right),
        "an array": right.numpy(),
        "a list": right.tolist(),
    }.items()
    for dtype in (*INTEGERS, "float16", "bfloat16", "float64", "complex64"):
        yield f"as {dtype}", right.to(getattr(torch, dtype))
    if right.is_floating_point():
        for value in (math.nan, math.inf, -math.inf, 1e30, -1e30, 1e-45, -0.0):
            yield f"with {value}", with_value(value)
        yield from (("all zero", torch.zeros_like(right)), ("times 1e30", 1e30 * right))
    elif right.dtype != torch.bool:
        for value in (-1, -(2**63), 2**63 - 1, 2**40, 2**31, 7, IGNORE):
            yield f"with {value}", with_value(value)
        yield "all ignored", torch.full_like(right, IGNORE)
    else:
        yield "all False", torch.zeros_like(right)


def wrong_numbers(right: float) -> Iterator[tuple[str, Any]]:
    for value in (-1, 0, 1, 2, 7, -(2**63), 2**70, 10**400):
        yield repr(value)[:12], value
    for value in (0.5, 1.0, 254.9, 255.0, -0.5, math.nan, math.inf, -math.inf, 1e308, 5e-324):
        yield repr(value), value
    for kind in (np.int64, np.uint8, np.float32, np.float64, np.bool_, torch.tensor, np.array):
        yield f"as {kind.__name__}", kind(right if right < 256 else 2)
    yield from (("in an array", np.array([right])), ("in a tensor", torch.tensor([right])))
    yield from (("a tensor on meta", torch.tensor(right, device="meta")), ("complex", complex(right, 1)))


def mutations(name: str, arguments: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Arguments with one of them wrong, or two swapped."""
    generator = random.Random(name)
    for argument, right in arguments.items():
        wrong: list[tuple[str, Any]] = [(repr(value)[:40], value) for value in anything()]
        if isinstance(right, Tensor):
            wrong += wrong_tensors(right, generator)
        elif isinstance(right, int | float) and not isinstance(right, bool):
            wrong += wrong_numbers(right)
        for what, value in wrong:
            yield f"{argument}: {what}", {**arguments, argument: value}
    for one, other in zip(arguments, list(arguments)[1:], strict=False):
        yield f"{one} and {other} swapped", {**arguments, one: arguments[other], other: arguments[one]}


def all_of(condition: Callable[[Tensor], Tensor], values: Any) -> bool:
    return all(bool(condition(each).all()) for each in tensors_in(values) if each.device.type != "meta")


def state_of(thing: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in thing.state_dict().items()} if isinstance(thing, nn.Module) else {}


def changed(thing: Any, before: Mapping[str, Tensor]) -> bool:
    return any(not torch.equal(value, before[key]) for key, value in state_of(thing).items())


def fault_of(
    thing: Any,
    method: str | None,
    arguments: Mapping[str, Any],
    inner: str = "\0",
    may_overflow: bool = False,
    undefined: bool = False,
) -> str | None:
    """What is wrong with the answer to such a call, or None: a result, or an error that names an argument.

    ``inner`` may be named instead of an argument; a result may be ``undefined``, or infinite where it ``may_overflow``.
    """
    run = thing if method is None else getattr(thing, method)
    before = state_of(thing)
    try:
        with torch.no_grad():
            result = run(**arguments)
    except (TypeError, ValueError) as error:
        if not any(name in str(error) for name in (*inspect.signature(run).parameters, inner)):
            return f"names no argument: {type(error).__name__}: {error}"
        return f"changed its state and then raised {error}" if changed(thing, before) else None
    except Exception as error:
        return f"raised {type(error).__name__}: {str(error)[:200]}"
    right = (lambda each: ~each.isnan()) if may_overflow else torch.isfinite
    if not all_of(right, list(state_of(thing).values())):
        return "holds NaN"
    given = [value for value in arguments.values() if isinstance(value, Tensor)]
    if not undefined and all_of(torch.isfinite, given) and not all_of(right, result):
        return f"not finite, from finite values: {result}"
    return None


def wrong_in_short(right: Any) -> Iterator[Any]:
    """A few wrong values for an argument, one for each message that it may bring about."""
    if isinstance(right, Tensor):
        yield from (right[0], right[:1], right[..., :-1], right[..., :0], right.to("meta"), right.numpy())
        yield right.long() if right.is_floating_point() else right.float()
        yield from (8 * right, math.nan * right) if right.is_floating_point() else (right + 7,)
        if right.ndim == 4:
            yield right[:, 1:]
    elif isinstance(right, bool):
        yield 1
    elif isinstance(right, int | float):
        yield from (-1, 2.5, "2", 2**70)
    else:
        yield from ("other", 7, (-1,), (0, 0), (2.5,), np.ones(2))
