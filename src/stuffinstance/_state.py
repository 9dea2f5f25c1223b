"""State of modules that count and remember: initial values, dtypes, devices, and what is saved."""

from __future__ import annotations

import copy
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stuffinstance._checks import checked_flag
from stuffinstance.distributed import Sync, check_sync, shared_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_EXTRA = "_extra_state"  # torch's name of what get_extra_state gives
_ALIGNED = 8  # bytes: numbers behind the header must begin where a view of them may

Kind = Literal["buffer", "counts", "constant"]


class Initial(NamedTuple):
    """What a piece of state is after construction, and how it is kept.

    Attributes:
        shape: Its sizes.
        dtype: Its dtype, whatever the module is converted to.
        value: One number for all, or the numbers themselves.
        kind: ``"buffer"``, ``"counts"`` (a rank's own: saved, but not a buffer) or ``"constant"`` (never saved).
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    value: float | tuple[int, ...]
    kind: Kind

    def on(self, device: torch.device) -> Tensor:
        """The initial value on a device."""
        if isinstance(self.value, tuple):
            return torch.tensor(self.value, dtype=self.dtype, device=device)
        return torch.full(self.shape, self.value, dtype=self.dtype, device=device)

    def put_into(self, tensor: Tensor) -> None:
        """The initial value, in place."""
        with torch.no_grad():
            tensor.copy_(self.on(tensor.device))


class StatefulModule(nn.Module):
    """A module whose state keeps its dtype, can be put back to its start, and survives deferred initialization.

    * Conversions (``.half()``, ``.to(dtype)``) leave the dtype of the state, moves (``.to(device)``) take it along.
    * State that was made on the meta device is at its initial value once it becomes real (``to_empty``, a framework
      that puts uninitialized buffers in its place, ``load_state_dict(assign=True)`` where the state lacks it).
    * Counts of one rank are not buffers, so that ``DistributedDataParallel`` does not overwrite them by those of rank
      0 and averaging of weights does not reach them. ``state_dict`` holds them, with the settings that they depend on,
      as one uint8 tensor under ``_extra_state``. Under ``torch.device("meta")`` they are made on the CPU.
    * Loading a state of other settings is an error that names both, and changes nothing.

    Args:
        sync: ``"auto"`` or ``"off"``.
        group: The ranks that share; None for all.
        validate_args: Also check what must be read from the device.
    """

    _initial: dict[str, Initial]

    def __init__(self, sync: Sync, group: ProcessGroup | None, validate_args: bool = False) -> None:
        super().__init__()
        check_sync(sync)
        self.sync: Sync = sync
        self.validate_args = checked_flag("validate_args", validate_args)
        self._group = shared_group(group)
        self._initial = {}
        self._placed = True
        self._loading = False

    @property
    def group(self) -> ProcessGroup | None:
        """The process group whose ranks share, or None for all ranks."""
        return None if self._group is None else self._group.group

    def reset(self) -> None:
        """Back to the state after construction, in place."""
        for name, initial in self._initial.items():
            initial.put_into(getattr(self, name))

    def reset_parameters(self) -> None:
        """The same as :meth:`reset`, under the name that deferred initialization calls."""
        self.reset()

    def _hold(
        self,
        name: str,
        *shape: int,
        dtype: torch.dtype = torch.int64,
        value: float | tuple[int, ...] = 0,
        kind: Kind = "counts",
    ) -> None:
        """Make a piece of state, once, in ``__init__``."""
        device = torch.empty(0).device
        if kind != "buffer" and device.type == "meta":
            device, self._placed = torch.device("cpu"), False
        initial = Initial(shape, dtype, value, kind)
        if kind == "buffer":
            self.register_buffer(name, initial.on(device))
        else:
            setattr(self, name, initial.on(device))
        self._initial[name] = initial

    def _settings(self) -> dict[str, Any]:
        """What the meaning of the state depends on, as JSON can write it: saved with it and compared on loading."""
        return {}

    def _names(self, kind: Kind) -> list[str]:
        return [name for name, initial in self._initial.items() if initial.kind == kind]

    def _put(self, name: str, tensor: Tensor) -> None:
        held = self._buffers if name in self._buffers else self.__dict__
        held[name] = tensor

    # ------------------------------------------------------------------ dtype and device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StatefulModule:
        held = {name: getattr(self, name) for name in self._initial}
        for name in self._names("buffer"):
            self._buffers[name] = None  # torch skips it
        moved = held
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            moved = {name: self._moved(name, tensor, fn) for name, tensor in held.items()}
        finally:
            for name, tensor in moved.items():
                self._put(name, tensor)
        self._placed = True
        return self

    def _moved(self, name: str, tensor: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
        """What ``fn`` does to an empty tensor shows the device, with which values and dtype are kept."""
        probe = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        applied = fn(probe)
        if applied is probe:  # nothing to do, or done in place, as share_memory_ does it
            return fn(tensor)
        if applied.is_meta:
            return torch.empty_like(tensor, device=applied.device)
        if tensor.is_meta:
            return self._initial[name].on(applied.device)
        return tensor.to(applied.device)

    def __setattr__(self, name: str, value: Any) -> None:
        initial = self.__dict__.get("_initial", {}).get(name)
        if initial is not None and initial.kind == "buffer" and isinstance(value, Tensor):
            value = self._entering(name, initial, value)
        super().__setattr__(name, value)

    def _entering(self, name: str, initial: Initial, value: Tensor) -> Tensor:
        """A tensor on its way into the place of a buffer: one that was not loaded replaces meta with garbage."""
        held = self._buffers[name]
        loaded = self._loading or getattr(value, "_is_hf_initialized", False)
        value = value.to(initial.dtype)
        if value.is_meta:
            return value
        if held is not None and held.is_meta and not loaded and value.shape == held.shape:
            initial.put_into(value)
        self._follow(value.device)
        return value

    def _follow(self, device: torch.device) -> None:
        """Move what is not a buffer to where the buffers are."""
        for name, initial in self._initial.items():
            if initial.kind != "buffer":
                self._put(name, getattr(self, name).to(device))
        self._placed = True

    # ------------------------------------------------------------------ saving and loading

    def get_extra_state(self) -> Tensor:
        """The settings, and the counts that are not buffers: uint8, so that no conversion changes them."""
        counts = [getattr(self, name) for name in self._names("counts")]
        header = json.dumps({"settings": self._settings(), "counts": self._layout()}, sort_keys=True).encode()
        header += b" " * (-len(header) % _ALIGNED)
        first = torch.from_numpy(np.frombuffer(len(header).to_bytes(_ALIGNED, "little") + header, np.uint8).copy())
        if not counts:
            return first
        parts = [count.detach().contiguous().view(-1).view(torch.uint8) for count in counts]
        return torch.cat([first.to(parts[0].device), *parts])

    def set_extra_state(self, state: Tensor) -> None:
        """Take up what :meth:`get_extra_state` gave.

        Raises:
            RuntimeError: If it is the state of a module with other settings. Nothing is then changed.
        """
        faults = self._faults({_EXTRA: state}, "")
        if faults:
            raise RuntimeError(" ".join(faults))
        header, payload = _unpacked(state)
        if header["settings"] != self._settings():
            raise RuntimeError(f"{self._described(header)}. Load it with load_state_dict, which sorts it.")
        if not self._placed:
            self._follow(state.device)
        start = 0
        for name in self._names("counts"):
            held = getattr(self, name)
            stop = start + held.numel() * held.element_size()
            # A copy of the bytes, which begins where a view of larger numbers may.
            held.copy_(payload[start:stop].clone().view(held.dtype).view(held.shape))
            start = stop
        for name in self._names("constant"):
            self._initial[name].put_into(getattr(self, name))

    @property
    def _extra_state(self) -> Tensor:
        return self.get_extra_state()

    @_extra_state.setter
    def _extra_state(self, value: Tensor) -> None:
        """A framework that found no such state puts an uninitialized tensor here: it shows the device alone."""
        if not self._placed:
            self._follow(value.device)

    def _layout(self) -> dict[str, list[Any]]:
        counts = {name: self._initial[name] for name in self._names("counts")}
        return {name: [str(each.dtype), list(each.shape)] for name, each in counts.items()}

    def _described(self, header: dict[str, Any]) -> str:
        """Own settings and those of a state, as the message of an error."""
        own, came = (
            ", ".join(f"{k}={v}" for k, v in sorted(each.items())) for each in (self._settings(), header["settings"])
        )
        if own == came:
            own, came = str(self._layout()), str(header["counts"])
        return f"the state of {type(self).__name__} must be one of {own}, got one of {came}"

    def _fits(self, settings: dict[str, Any]) -> bool:
        return settings == self._settings()

    def _sorted(self, entries: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Tensor]:
        """Buffers of a state that fits, in this module's order."""
        return entries

    def _lacks(self, state_dict: dict[str, Any], prefix: str) -> bool:
        """Whether a state holds less than this module's own."""
        return any(prefix + name not in state_dict for name in (*self._names("buffer"), _EXTRA))

    def _faults(self, state_dict: dict[str, Any], prefix: str) -> list[str]:
        """Why what a state holds for this module cannot be loaded; empty where it can."""
        if prefix + _EXTRA in state_dict:
            try:
                header, _ = _unpacked(state_dict[prefix + _EXTRA])
            except ValueError as error:
                return [f"{prefix + _EXTRA} must be what {type(self).__name__}.state_dict() gave, got {error}."]
            if not self._fits(header["settings"]) or header["counts"] != self._layout():
                return [
                    f"{prefix + _EXTRA}: {self._described(header)}. Build the module with the settings of the state, "
                    "or load the state that belongs to it."
                ]
        faults = []
        for name in self._names("buffer"):
            held, came = getattr(self, name), state_dict.get(prefix + name)
            if isinstance(came, Tensor) and came.shape != held.shape:
                faults.append(
                    f"size mismatch for {prefix + name}: the state of {type(self).__name__} must be of shape "
                    f"{tuple(held.shape)}, got {tuple(came.shape)}."
                )
        return faults

    def _keep_as_it_is(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Put own values into the place of those to load: whoever loads them changes nothing."""
        for name in (*self._names("buffer"), _EXTRA):
            if prefix + name in state_dict:
                state_dict[prefix + name] = getattr(self, name)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        faults = self._faults(state_dict, prefix)
        error_msgs += faults
        state_dict = dict(state_dict)
        if faults or (strict and self._lacks(state_dict, prefix)):
            self._keep_as_it_is(state_dict, prefix)  # torch still finds the missing and the unexpected keys
        elif prefix + _EXTRA in state_dict:
            settings = _unpacked(state_dict[prefix + _EXTRA])[0]["settings"]
            if settings != self._settings():
                names = [name for name in self._names("buffer") if prefix + name in state_dict]
                entries = self._sorted({name: state_dict[prefix + name] for name in names}, settings)
                state_dict.update({prefix + name: entry for name, entry in entries.items()})
                state_dict[prefix + _EXTRA] = self.get_extra_state()
        self._loading = True
        try:
            super()._load_from_state_dict(
                state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )
        finally:
            self._loading = False


class Metric(StatefulModule, ABC):
    """Base of the metrics: :meth:`update` counts a batch, :meth:`compute` gives the value of all batches so far.

    Calling a metric counts a batch too, and returns the value of that batch alone, as metrics of torchmetrics do.
    """

    @abstractmethod
    def update(self, *batch: Any, **named: Any) -> None:
        """Count a batch."""

    @abstractmethod
    def compute(self) -> Any:
        """The value so far."""

    def _of_batch(self, *batch: Tensor) -> Any:
        """Count a batch; its own value, of this rank alone."""
        alone = copy.deepcopy(self)
        alone.sync = "off"
        alone.reset()
        alone.update(*batch)
        self.update(*batch)
        return alone.compute()


def _unpacked(state: object) -> tuple[dict[str, Any], Tensor]:
    """The header with the settings and the layout of the counts, and the bytes of the counts.

    Raises:
        ValueError: If it is not such a state.
    """
    if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.ndim != 1 or state.is_meta:
        raise ValueError(f"{state.dtype} {tuple(state.shape)}" if isinstance(state, Tensor) else type(state).__name__)
    start = _ALIGNED + int.from_bytes(state[:_ALIGNED].cpu().numpy().tobytes(), "little")
    try:
        header: dict[str, Any] = json.loads(state[_ALIGNED:start].cpu().numpy().tobytes())
        sizes = [
            np.dtype(dtype.removeprefix("torch.")).itemsize * math.prod(shape)
            for dtype, shape in header["counts"].values()
        ]
        whole = sum(sizes) == state.numel() - start and "settings" in header
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(f"{state.numel()} bytes that are not such a state")
    return header, state[start:]
