"""Operators: the table of backends, the error of one that cannot run, and registration with the compiler."""

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tag, Tensor
from torch.library import define, impl, register_fake

from stuffinstance._checks import check_choice

PREFERRED_ON_GPU: Mapping[str, tuple[str, ...]] = {"connected_components": (), "region_mean": ()}
"""What ``"auto"`` tries first on a GPU, by operator, before the others in their tables' order.

``make gpu-check`` measures it on a card and prints this line. Empty: no card has measured it yet.
"""


class BackendUnavailableError(RuntimeError):
    """Error of a backend that was selected by name and cannot run here.

    A named backend never falls back to another one.
    """


@dataclass(frozen=True)
class Backend:
    """One way to compute what the others of its table compute.

    Attributes:
        module: Where its function is; imported on first use, so that optional packages stay optional.
        function: The function's name there.
        devices: Types of device that it runs on; None for any.
        package: What it needs beyond the package's own dependencies.
        installed: Whether that package was there when the table was made; older compilers cannot trace the search.
    """

    module: str
    function: str
    devices: tuple[str, ...] | None = None
    package: str | None = None
    installed: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = self.package is None or importlib.util.find_spec(self.package) is not None
        object.__setattr__(self, "installed", found)

    @cached_property
    def loaded(self) -> ModuleType:
        """The module itself."""
        return importlib.import_module(self.module)

    @cached_property
    def run(self) -> Callable[..., Tensor]:
        """The function itself."""
        function: Callable[..., Tensor] = getattr(self.loaded, self.function)
        return function

    @cached_property
    def fault(self) -> str | None:
        """Why the module of a package that is installed cannot be imported, or None; warns where it finds one.

        A compiler such as numba lags behind new releases of Python and numpy, with which it does not import.
        """
        if self.package is None or not self.installed:
            return None
        try:
            _ = self.loaded
        except Exception as error:  # whatever a broken installation raises
            fault = f"{type(error).__name__}: {error}"
            warnings.warn(
                f"{self.package} is installed but cannot be imported, so slower backends are used: {fault}",
                stacklevel=2,
            )
            return fault
        return None

    def is_for(self, device: torch.device) -> bool:
        """Whether it was made for such a device."""
        return self.devices is None or device.type in self.devices

    def obstacle(self, what: str, device: torch.device) -> str | None:
        """Why it cannot run on tensors of ``device``, which are called ``what``, or None."""
        if not self.is_for(device) and not (self.package == "triton" and _interpreting(device)):
            return f"{what} are on {device.type}, it runs on {' and '.join(self.devices or ())} tensors"
        if not self.installed:
            return f"it needs the package {self.package!r}, which is not installed"
        if not torch.compiler.is_compiling() and self.fault is not None:
            return f"its package {self.package!r} cannot be imported ({self.fault})"
        return None


def preferred_first(operator: str, table: Mapping[str, Backend]) -> dict[str, Backend]:
    """The table with what a GPU prefers in front, which other devices skip."""
    return {name: table[name] for name in (*PREFERRED_ON_GPU[operator], *table)}


def _interpreting(device: torch.device) -> bool:
    """Whether Triton's kernels run on CPU tensors here, one program after another: for tests, and slow."""
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"


def check_backend(table: Mapping[str, Backend], backend: Any, what: str, device: torch.device) -> None:
    """As :func:`resolve`, before an operator that resolves again; the operator itself reports that none can run.

    On ``meta``, where nothing is computed but shapes, any backend of the table is right.
    """
    if isinstance(backend, str) and backend == "auto":
        return
    if device.type == "meta":
        check_choice("backend", backend, ("auto", *sorted(table)))
    else:
        resolve(table, backend, what, device)


def resolve(table: Mapping[str, Backend], backend: Any, what: str, device: torch.device) -> Backend:
    """The backend of that name, or for ``"auto"`` the first of the table that is for ``device`` and can run.

    Args:
        table: Backends by name, in the order of preference.
        backend: A name, or ``"auto"``.
        what: The argument whose device counts, for messages: "labels".
        device: Where it is.

    Raises:
        ValueError: If no backend has that name.
        BackendUnavailableError: If it cannot run there; a named backend never falls back to another one.
    """
    if isinstance(backend, str) and backend == "auto":
        for candidate in table.values():
            if candidate.is_for(device) and candidate.obstacle(what, device) is None:
                return candidate
        raise BackendUnavailableError(f"no backend of {sorted(table)} runs on {device} tensors; use {what}.cpu().")
    check_choice("backend", backend, ("auto", *sorted(table)))
    obstacle = table[backend].obstacle(what, device)
    if obstacle is not None:
        raise BackendUnavailableError(f"backend {backend!r} cannot run here: {obstacle}. Use backend='auto'.")
    return table[backend]


def register_operator(schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Register an operator of label maps: one node to the compiler, so that ``run`` may be numpy, a loop or a kernel.

    :func:`torch.func.vmap` passes what it maps over as more images; before torch 2.5 there is nowhere to register that,
    and it calls the operator once for each of them.

    Args:
        schema: ``"name(Tensor labels, settings) -> results"``; labels and results are (B, ...).
        run: What computes it.
        fake: What gives results of the same shapes and dtypes, from the shape of the labels alone.
    """
    operator = schema[: schema.index("(")]
    name = f"stuffinstance::{operator}"
    define(name, schema[len(operator) :], tags=(Tag.pt2_compliant_tag,))
    impl(name, "default", run)
    register_fake(name, fake)
    if not hasattr(torch.library, "register_vmap"):
        return

    def rule(info: Any, in_dims: tuple[int | None, ...], labels: Tensor, *settings: Any) -> tuple[Any, Any]:
        mapped = labels.movedim(in_dims[0] or 0, 0)  # the labels are all there is to map over
        found = getattr(torch.ops.stuffinstance, operator)(mapped.flatten(0, 1), *settings)
        if isinstance(found, Tensor):
            return found.reshape(*mapped.shape[:2], *found.shape[1:]), 0
        return tuple(each.reshape(*mapped.shape[:2], *each.shape[1:]) for each in found), (0,) * len(found)

    torch.library.register_vmap(name, rule)
