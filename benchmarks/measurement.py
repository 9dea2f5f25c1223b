"""A benchmark's options and measurements, and their JSON."""

import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from examples.gta5_to_cityscapes.atomic_io import written_beside

PACKAGES = (
    "torch",
    "numpy",
    "scikit-image",
    "numba",
    "connected-components-3d",
    "opencv-python-headless",
    "pillow",
    "scipy",
    "kornia",
    "triton",
    "cupy",
    "cucim",
    "colorcc",
)
NOT_INSTALLED = "not installed"


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        device: Where the library runs.
        threads: CPU threads that torch and OpenCV may use.
        quick: Small sizes and few repeats: whether everything runs, not how fast.
        repeats: Rounds of a comparison; see :func:`benchmarks.timing.time_in_turn`.
        images: Probability maps that stream through the thresholds, a multiple of 16.
        seconds_per_way: What the repeats of one way may take; a slower way is repeated less, never below 3 times.
        interpreted: On a CPU, run the Triton kernels in Triton's interpreter too: whether they run, not how fast.
    """

    device: torch.device
    threads: int = 2
    quick: bool = False
    repeats: int = 21
    images: int = 240
    seconds_per_way: float = 1.5
    interpreted: bool = False


@dataclass(frozen=True)
class Timing:
    """Median and quartiles of the time of one call, in milliseconds."""

    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int


@dataclass(frozen=True)
class Floor:
    """What no way can be faster than, measured in the same run.

    Attributes:
        what: What was timed.
        ms: Its median, in milliseconds.
        bytes: What has to be moved, where that bounds the time.
        operations: What has to be computed, where that bounds the time.
    """

    what: str
    ms: float
    bytes: int | None = None
    operations: int | None = None


@dataclass(frozen=True)
class Measurement:
    """One way of computing one case.

    Attributes:
        benchmark: The part of ``python -m benchmarks`` that took it.
        case: The input, such as ``"city 1x1024x2048"``.
        way: Who computes it, such as ``"stuffinstance numba"``.
        timing: None where only ``extra`` holds something: a count, a memory, a way that cannot run here.
        floor: None where no bound was measured.
        extra: Further numbers, and words such as why a way was not timed.
    """

    benchmark: str
    case: str
    way: str
    timing: Timing | None
    floor: Floor | None = None
    extra: dict[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Whether a target is met.

    Attributes:
        target: Its name in the table of targets.
        description: What is asked, in words, with the bound.
        measured: The ratio or number that was compared, None where nothing was measured.
        verdict: ``"unmeasured"`` where the run holds no measurement to compare.
        reason: Why it was missed or not measured; empty where it is met.
    """

    target: str
    description: str
    measured: float | None
    verdict: Literal["met", "MISSED", "unmeasured"]
    reason: str = ""


class WrongResult(AssertionError):
    """A way computes something else than the oracle: its time means nothing, and the run stops."""


def environment(settings: Settings) -> dict[str, Any]:
    """Where and with what a benchmark ran: commit, versions, device, threads, date, how busy the machine was before."""
    root = Path(__file__).parent.parent
    # Results of an earlier part of the same run do not make the code another one.
    changed = _git(root, "status", "--porcelain", "--", ".", ":(exclude)benchmarks/results")
    return {
        "commit": _git(root, "rev-parse", "HEAD"),
        "dirty": None if changed is None else bool(changed),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "device": device_name(settings.device),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "threads": settings.threads,
        "repeats": settings.repeats,
        "quick": settings.quick,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def device_name(device: torch.device) -> str:
    """``"cpu"``, or the card's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def slug(name: str) -> str:
    """A device name as a file name.

    >>> slug("NVIDIA H100 80GB HBM3")
    'nvidia-h100-80gb-hbm3'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write_measurements(path: Path, parts: Mapping[str, tuple[dict[str, Any], Sequence[Measurement]]]) -> None:
    """Write ``{benchmark: (environment, measurements)}``; parts that the file holds already and these lack stay."""
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for benchmark, (where, measurements) in parts.items():
        held[benchmark] = {"environment": where, "measurements": [_plain(asdict(one)) for one in measurements]}
    with written_beside(path) as beside:
        beside.write_text(json.dumps(held, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_measurements(path: Path) -> dict[str, tuple[dict[str, Any], list[Measurement]]]:
    """What :func:`write_measurements` wrote: ``{benchmark: (environment, measurements)}``."""
    return {
        benchmark: (part["environment"], [_measurement(one) for one in part["measurements"]])
        for benchmark, part in json.loads(path.read_text(encoding="utf-8")).items()
    }


def _measurement(plain: dict[str, Any]) -> Measurement:
    timing, floor = plain["timing"], plain["floor"]
    return Measurement(
        **{
            **plain,
            "timing": None if timing is None else Timing(**timing),
            "floor": None if floor is None else Floor(**floor),
        }
    )


def _plain(value: Any) -> Any:
    # JSON knows no NaN: a number that could not be measured is written as that word.
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return "unmeasured" if isinstance(value, float) and not math.isfinite(value) else value


def _version(package: str) -> str:
    # CuPy's and cuCIM's distributions are named after the CUDA release that they were built for.
    suffixes = {"cupy": ("-cuda12x", "-cuda13x"), "cucim": ("-cu12", "-cu13")}.get(package, ())
    for name in (package, *(f"{package}{suffix}" for suffix in suffixes)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return NOT_INSTALLED


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
