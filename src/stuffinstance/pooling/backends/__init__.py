"""The table of backends that add the features of regions up.

A backend is a function ``region_sums(features, number, num_regions)``: ``features`` (B, D, h, w) floating, ``number``
(B, P) int64 with 0 for no region and 1 .. R. It returns the sums (B, D, R), float32 or, for float64 features, float64.
What is not finite makes the sums that it belongs to not finite, and no others in another region.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stuffinstance.errors import BackendUnavailableError

Run = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Backend:
    """Where a backend runs (None: on any device), what it needs, and the module to import when it is first used."""

    module: str
    devices: tuple[str, ...] | None = None
    package: str | None = None

    @property
    def run(self) -> Run:
        """The function itself, imported on first use so that optional packages stay optional."""
        sums: Run = importlib.import_module(f"{__name__}.{self.module}").region_sums
        return sums

    def obstacle(self, device: torch.device) -> str | None:
        """Why this backend cannot run on tensors of ``device``, or None."""
        interpreting = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"  # for tests, and slow
        if self.devices is not None and device.type not in self.devices and not interpreting:
            return f"features are on {device.type}, it runs on {' and '.join(self.devices)} tensors"
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            return f"it needs the package {self.package!r}, which is not installed"
        return None


# "auto" is the first. The Triton kernel equals the other in Triton's interpreter and compiles for Hopper, but has not
# run on a GPU yet: until it has, "auto" leaves it to those who name it.
BACKENDS: dict[str, Backend] = {
    "torch": Backend("torch_sums"),
    "triton": Backend("triton_sums", ("cuda",), "triton"),
}


def resolve(backend: str, device: torch.device) -> Backend:
    """The backend of that name; ``"auto"`` is ``"torch"``.

    Raises:
        ValueError: If there is no backend of that name.
        BackendUnavailableError: If it cannot run there. There is no silent fallback.
    """
    name = "torch" if backend == "auto" else backend
    if name not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {sorted(BACKENDS)}, got {backend!r}.")
    obstacle = BACKENDS[name].obstacle(device)
    if obstacle is not None:
        raise BackendUnavailableError(f"backend {name!r} cannot run here: {obstacle}. Use backend='auto'.")
    return BACKENDS[name]
