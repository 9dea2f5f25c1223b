"""``python -m stuffinstance``: versions, devices and backends, for a bug report."""

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch

import stuffinstance
from stuffinstance._backends import Backend, resolve
from stuffinstance.pooling.backends import BACKENDS as POOLING
from stuffinstance.regions.backends import BACKENDS as COMPONENTS

_OPERATIONS: Mapping[str, Mapping[str, Backend]] = {"connected_components": COMPONENTS, "region_mean": POOLING}
_PACKAGES = ("torch", "numpy", "scikit-image", "kornia")
_INSTALL = {
    "matplotlib": "pip install 'stuffinstance[draw]'",
    "numba": "pip install 'stuffinstance[fast]'",
    "triton": "pip install triton",
}


def environment() -> dict[str, Any]:
    """Everything that is printed; ``--json`` prints it as it is.

    Returns:
        ``stuffinstance``, ``python``, the packages that are required, and ``platform``, each with its version;
        ``devices``, by type, with the names of those that are there; ``backends``, by operation and name, with the
        devices here that each ``runs_on``, those it is ``for`` (None for any), the package that is ``missing`` or None,
        the ``fault`` of one that cannot be imported or None, and how to ``install`` it; ``auto``, by operation and
        device, with the backend that ``"auto"`` takes; ``plotting``, with matplotlib's version or how to install it.
    """
    devices = _devices()
    return {
        "stuffinstance": stuffinstance.__version__,
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "platform": platform.platform(),
        "devices": devices,
        "backends": {
            operation: {name: _found(backend, list(devices)) for name, backend in table.items()}
            for operation, table in _OPERATIONS.items()
        },
        "auto": {
            operation: {device: _automatic(table, device) for device in devices}
            for operation, table in _OPERATIONS.items()
        },
        "plotting": _version("matplotlib") if find_spec("matplotlib") else f"missing: {_INSTALL['matplotlib']}",
    }


def _devices() -> dict[str, list[str]]:
    devices = {"cpu": [f"{platform.machine() or 'unknown'}, {torch.get_num_threads()} threads"]}
    for kind in ("cuda", "xpu"):
        accelerator = getattr(torch, kind)
        if accelerator.is_available():
            devices[kind] = [_device_name(accelerator, index) for index in range(accelerator.device_count())]
    if torch.backends.mps.is_available():
        devices["mps"] = ["Metal"]
    return devices


def _device_name(accelerator: Any, index: int) -> str:
    try:
        return str(accelerator.get_device_name(index))
    except RuntimeError as error:  # a driver that does not work is what a report is about
        return f"unusable: {error}".splitlines()[0]


def _version(package: str) -> str:
    if package == "torch":
        return torch.__version__  # with its build, which the package's metadata may omit
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _found(backend: Backend, devices: Sequence[str]) -> dict[str, Any]:
    meant = backend.devices is None or not set(devices).isdisjoint(backend.devices)
    return {
        "runs_on": [device for device in devices if backend.obstacle("labels", torch.device(device)) is None],
        "for": list(backend.devices) if backend.devices else None,
        "missing": None if backend.installed else backend.package,
        "fault": backend.fault if meant else None,
        "install": None if backend.installed else _INSTALL.get(str(backend.package), f"pip install {backend.package}"),
    }


def _automatic(table: Mapping[str, Backend], device: str) -> str:
    taken = resolve(table, "auto", "labels", torch.device(device))
    return next(name for name, backend in table.items() if backend is taken)


def as_text(found: Mapping[str, Any]) -> str:
    """The same for a person, in ASCII, which every console can print."""
    lines = [f"{name}: {found[name]}" for name in ("stuffinstance", "python", *_PACKAGES, "platform")]
    for kind, names in found["devices"].items():
        lines += [f"device {kind}:{index}: {name}" for index, name in enumerate(names)]
    for operation, backends in found["backends"].items():
        automatic = ", ".join(f"{name} on {device}" for device, name in found["auto"][operation].items())
        lines += ["", f"{operation}: backend='auto' is {automatic}"]
        lines += [f"  {name:10} {_state(backend)}" for name, backend in backends.items()]
    lines += ["", f"plotting (matplotlib): {found['plotting']}"]
    return "\n".join(lines).encode("ascii", "backslashreplace").decode("ascii")


def _state(backend: Mapping[str, Any]) -> str:
    if backend["missing"]:
        return f"missing, for {' and '.join(backend['for'] or ['any device'])}: {backend['install']}"
    if backend["fault"]:
        return f"cannot be imported: {backend['fault']}"
    if backend["runs_on"]:
        return f"runs on {' and '.join(backend['runs_on'])}"
    return f"not for a device that is here, but for {' and '.join(backend['for'])}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print it."""
    parser = argparse.ArgumentParser(
        prog="python -m stuffinstance", description="Versions, devices and backends, for a bug report."
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    wanted = parser.parse_args(arguments)
    print(json.dumps(environment(), indent=2) if wanted.json else as_text(environment()))


if __name__ == "__main__":
    main()
