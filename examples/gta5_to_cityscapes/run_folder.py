"""The folder of one run: what it was asked, where it runs, what it measured, what came out."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .recipes import Recipe, differences
from .written_files import read_json, write_json

PACKAGES = ("stuffinstance", "torch", "numpy", "kornia", "scikit-image", "pillow", "pydantic")


class RunFolderError(ValueError):
    """A folder that holds another run than the one that was asked for."""


@dataclass(frozen=True)
class Result:
    """What ``result.json`` holds; the last checkpoint is the result."""

    recipe: str
    seed: int
    step: int
    miou: float
    iou: dict[str, float | None]
    seconds_total: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint, which is also what a run resumes from."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def metrics(self) -> Path:
        """One JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def previews(self) -> Path:
        """A few validation pictures with their predictions."""
        return self.path / "previews"

    @property
    def pseudo_labels(self) -> Path:
        """The target's pseudo-labels (second step only)."""
        return self.path / "pseudo_labels"

    @property
    def thresholds(self) -> Path:
        """Thresholds and shares kept (second step only)."""
        return self.path / "thresholds.json"

    def claim(self, recipe: Recipe, data: Mapping[str, Any]) -> None:
        """Take the folder for this recipe and these pictures, or refuse as :meth:`check` does."""
        self.check(recipe, data)
        write_json(self.path / "recipe.json", recipe.model_dump(mode="json"))
        write_json(self.path / "data.json", data)

    def check(self, recipe: Recipe, data: Mapping[str, Any] | None = None) -> None:
        """Refuse when the folder holds a run of another recipe or other pictures, naming what differs."""
        found: list[str] = []
        recipe_file, data_file = self.path / "recipe.json", self.path / "data.json"
        if recipe_file.is_file():
            found += differences(read_json(recipe_file), recipe.model_dump(mode="json"))
        if data is not None and data_file.is_file():
            found += differences(read_json(data_file), data, "data.")
        if found:
            raise RunFolderError(
                f"run folder {self.path}: expected a run of the recipe that is asked for, it holds one that "
                f"differs in {len(found)} settings (folder -> asked): {'; '.join(found)}. "
                "Choose another --out, ask for the same settings, or delete that folder."
            )

    def result(self) -> Result | None:
        """What came out, when the run has ended."""
        file = self.path / "result.json"
        return Result(**read_json(file)) if file.is_file() else None

    def write_result(self, result: Result) -> None:
        """The last thing a run does."""
        write_json(self.path / "result.json", vars(result))

    def write_environment(self, device: torch.device) -> None:
        """Library versions and machine, since both move results."""
        write_json(
            self.path / "environment.json",
            {
                "python": platform.python_version(),
                **{name: _version(name) for name in PACKAGES},
                "platform": platform.platform(),
                "cpu": _cpu(),
                "cores": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            },
        )


class MetricsFile:
    """``metrics.jsonl``: appended to line by line, cut back to the checkpoint when a run resumes."""

    def __init__(self, path: Path, last_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                if json.loads(text)["step"] <= last_step:
                    kept.append(text)
            except (ValueError, KeyError, TypeError):
                continue  # half a line, from a run that was stopped while writing
        path.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line, at once visible to whoever reads along."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory this process ever held, on the GPU where there is one."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
