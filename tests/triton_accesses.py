"""Triton's interpreter with a check of every address: a kernel may read and write what it was given alone.

Beside the tensors' memory the interpreter reads and writes whatever lies there, and a GPU does too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from triton import language as tl
from triton.runtime import interpreter


class CheckedMemory:
    """The interpreter's loads, stores and atomics, of addresses in the tensors of the running kernel.

    Attributes:
        memory: What carries them out.
        bounds: (T, 2) uint64. The first byte of each tensor's storage and the one behind its last.
        compared: How many addresses have been compared.
    """

    def __init__(self, memory: Any) -> None:
        self.memory = memory
        self.bounds = np.empty((0, 2), dtype=np.uint64)
        self.compared = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.memory, name)

    def given(self, arguments: list[Any]) -> None:
        """Take the tensors among a kernel's arguments as what it may touch."""
        storages = [each.untyped_storage() for each in arguments if isinstance(each, torch.Tensor)]
        bounds = [(storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages]
        self.bounds = np.array(sorted(set(bounds)), dtype=np.uint64).reshape(-1, 2)

    def load(self, addresses: Any, mask: Any, other: Any, dtype: Any) -> Any:
        self._compare(addresses, mask, np.dtype(dtype).itemsize)
        return self.memory.load(addresses, mask, other, dtype)

    def store(self, addresses: Any, values: Any, mask: Any) -> Any:
        self._compare(addresses, mask, values.itemsize)
        return self.memory.store(addresses, values, mask)

    def atomic_rmw(self, operation: Any, addresses: Any, values: Any, mask: Any, order: Any) -> Any:
        self._compare(addresses, mask, values.itemsize)
        return self.memory.atomic_rmw(operation, addresses, values, mask, order)

    def atomic_cas(self, addresses: Any, expected: Any, values: Any, order: Any) -> Any:
        self._compare(addresses, np.True_, values.itemsize)
        return self.memory.atomic_cas(addresses, expected, values, order)

    def _compare(self, addresses: Any, mask: Any, size: int) -> None:
        wanted = np.broadcast_to(addresses, np.broadcast(addresses, mask).shape)[np.broadcast_to(mask, addresses.shape)]
        self.compared += wanted.size
        tensor = np.searchsorted(self.bounds[:, 0], wanted, side="right") - 1
        inside = (tensor >= 0) & (wanted + np.uint64(size) <= self.bounds[tensor, 1] if len(self.bounds) else False)
        assert inside.all(), f"{np.count_nonzero(~inside)} of {wanted.size} addresses are outside of all tensors"


def check_accesses(monkeypatch: pytest.MonkeyPatch) -> CheckedMemory:
    """Compare every address of interpreted kernels from now on, until the patches are undone."""
    checked = CheckedMemory(interpreter._interpreter)
    take_arguments = interpreter.GridExecutor._init_args_hst

    def taken(self: Any, arguments: Any, keywords: Any) -> Any:
        on_host, keywords_on_host = take_arguments(self, arguments, keywords)
        checked.given([*on_host, *keywords_on_host.values()])
        return on_host, keywords_on_host

    monkeypatch.setattr(interpreter.GridExecutor, "_init_args_hst", taken)
    monkeypatch.setattr(interpreter, "_interpreter", checked)
    return checked


@interpreter.InterpretedFunction
def copy_from(source: Any, target: Any, first: Any) -> None:
    """A kernel that copies four values, from ``first`` on."""
    place = tl.arange(0, 4)
    tl.store(target + place, tl.load(source + first + place))
