"""The table of connected-component backends; all return the same tensor, bit for bit.

A backend is a function ``label(labels, classes, ignore_index, connectivity)``: ``labels`` is (B, H, W) of any integer
dtype with at least one pixel, ``classes`` the ids to number or None for all, ``ignore_index`` an id to leave out or
None. It returns (B, H, W) int32: 0 outside, and 1, 2, ... per image in raster order of each region's first pixel.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stuffinstance.errors import BackendUnavailableError

Run = Callable[[Tensor, Sequence[int] | None, int | None, int], Tensor]


@dataclass(frozen=True)
class Backend:
    """Where a backend runs, what it needs, and the module to import when it is first used."""

    module: str
    devices: tuple[str, ...]
    package: str | None = None

    @property
    def run(self) -> Run:
        """The function itself, imported on first use so that optional packages stay optional."""
        label: Run = importlib.import_module(f"{__name__}.{self.module}").label
        return label

    def obstacle(self, device: torch.device) -> str | None:
        """Why this backend cannot run on tensors of ``device``, or None."""
        if device.type not in self.devices and not (self.package == "triton" and _interpreting(device)):
            return f"labels are on {device.type}, it runs on {' and '.join(self.devices)} tensors"
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            return f"it needs the package {self.package!r}, which is not installed"
        return None


def _interpreting(device: torch.device) -> bool:
    """Whether Triton's kernels run on CPU tensors here, one program after another: for tests, and slow."""
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"


# The order is the preference of "auto". The Triton kernels equal the others in Triton's interpreter and compile for
# Hopper, but have not run on a GPU yet: until they have, "auto" leaves them to those who name them.
BACKENDS: dict[str, Backend] = {
    "cc3d": Backend("cc3d_cpu", ("cpu",), "cc3d"),
    "skimage": Backend("skimage_cpu", ("cpu",), "skimage"),
    "torch": Backend("torch_propagation", ("cpu", "cuda", "mps", "xpu")),
    "triton": Backend("triton_unionfind", ("cuda",), "triton"),
    "reference": Backend("reference", ("cpu",)),
}


def resolve(backend: str, device: torch.device) -> Backend:
    """The backend of that name, or the first that can run on ``device`` for ``"auto"``.

    Raises:
        ValueError: If there is no backend of that name.
        BackendUnavailableError: If it cannot run there. There is no silent fallback.
    """
    if backend == "auto":
        for candidate in BACKENDS.values():
            if device.type in candidate.devices and candidate.obstacle(device) is None:
                return candidate
        raise BackendUnavailableError(f"no backend of {sorted(BACKENDS)} runs on {device} tensors; use labels.cpu().")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {sorted(BACKENDS)}, got {backend!r}.")
    obstacle = BACKENDS[backend].obstacle(device)
    if obstacle is not None:
        raise BackendUnavailableError(f"backend {backend!r} cannot run here: {obstacle}. Use backend='auto'.")
    return BACKENDS[backend]
