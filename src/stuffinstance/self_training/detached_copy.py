"""Deep copy of a network without gradient history and without hooks from outside."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

_HOOKS = frozenset(
    {
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
    }
)
# Packages whose hooks are functions but part of the network that they are registered on.
_WITH_HOOKS = ("torch.nn.utils.", "torch.ao.", "transformers.utils.")


def unwrapped(network: nn.Module) -> nn.Module:
    """The network itself, without what torch.compile and data parallelism put around it."""
    while True:
        if isinstance(network, (DataParallel, DistributedDataParallel)):
            network = network.module
        elif hasattr(network, "_orig_mod"):
            network = network._orig_mod  # type: ignore[assignment]
        else:
            return network


def detached_copy(network: nn.Module) -> nn.Module:
    """Deep copy of a network for use without gradient.

    Tensors with history (features that a module keeps, the ``weight`` of ``torch.nn.utils.weight_norm``, a buffer that
    ``forward`` assigns) are copied without it. Hooks are copied where they belong to the network: methods of its
    modules or of objects that these hold, and those of ``torch.nn.utils``, which compute weights, and of transformers,
    which collect hidden states. All others are omitted, since their copies would write where the originals do.

    Args:
        network: What to copy. Not changed.

    Returns:
        The copy, of the same type.

    Raises:
        TypeError: If a module holds something that cannot be copied. The message names it.
    """
    held = _held_objects(network)
    memo = _detached(held)
    kept = _without_hooks(held, memo)
    try:
        copy = deepcopy(network, memo)
        for hooks, own in kept:  # after the modules that these hooks are methods of
            hooks.update({key: deepcopy(hook, memo) for key, hook in own.items()})
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        raise TypeError(
            f"network must be made of modules that copy.deepcopy can copy, got {_what_cannot_be_copied(network, held)} "
            f"({type(error).__name__}: {error}). Remove it before the teacher is made, or pass teacher=, a second "
            "network built as this one was."
        ) from error
    return copy


def _held_objects(network: nn.Module) -> dict[int, Any]:
    """Everything that a copy of the network copies, by id: modules, tensors, and what holds them. Not its hooks."""
    held: dict[int, Any] = {}
    waiting: list[Any] = [network]
    while waiting:
        value = waiting.pop()
        if id(value) in held or isinstance(value, (FunctionType, MethodType, ModuleType, type)):
            continue
        held[id(value)] = value
        if isinstance(value, nn.Module):
            waiting += _state(value).values()
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += value
        elif not isinstance(value, Tensor):
            waiting += getattr(value, "__dict__", {}).values()
    return held


def _state(module: nn.Module) -> dict[str, Any]:
    """What a module holds by name, without its hooks."""
    return {name: value for name, value in vars(module).items() if name not in _HOOKS}


def _detached(held: dict[int, Any]) -> dict[int, Any]:
    """What deepcopy finds already copied: tensors with history, which it cannot copy, without it."""
    return {
        key: value.detach().clone() for key, value in held.items() if isinstance(value, Tensor) and not value.is_leaf
    }


def _without_hooks(held: dict[int, Any], memo: dict[int, Any]) -> list[tuple[dict[int, Any], dict[int, Any]]]:
    """Let deepcopy find each table of hooks empty; returns these with the hooks that belong in them."""
    kept = []
    for module in [value for value in held.values() if isinstance(value, nn.Module)]:
        for hooks in [value for name, value in vars(module).items() if name in _HOOKS and value]:
            memo[id(hooks)] = OrderedDict()
            kept.append((memo[id(hooks)], {key: hook for key, hook in hooks.items() if _belongs(hook, held)}))
    return kept


def _belongs(hook: Any, held: dict[int, Any]) -> bool:
    """Whether a hook is part of the network that it is registered on."""
    while not isinstance(hook, (FunctionType, MethodType)) and (isinstance(hook, partial) or hasattr(hook, "hook")):
        hook = hook.func if isinstance(hook, partial) else hook.hook  # torch wraps those of load_state_dict
    owner = getattr(hook, "__self__", hook)
    return id(owner) in held or str(getattr(owner, "__module__", "")).startswith(_WITH_HOOKS)


def _what_cannot_be_copied(network: nn.Module, held: dict[int, Any]) -> str:
    """The first tensor or attribute that deepcopy fails on, and where it is."""
    for path, module in network.named_modules():
        for name, value in _state(module).items():
            tensors = name in ("_parameters", "_buffers")
            for key, each in value.items() if tensors else [(name, value)]:
                try:
                    if name != "_modules":
                        deepcopy(each, _detached(held))
                except Exception:
                    return f"{type(each).__name__} in {'.'.join(filter(None, (path, key)))}"
    return f"a {type(network).__name__} that cannot be copied as a whole"
