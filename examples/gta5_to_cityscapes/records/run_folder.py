"""The folder of one run: what it was asked, where it runs, what it measured, what came out."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..recipes import Recipe
from .environment import environment
from .kept_checkpoints import KeptCheckpoints
from .written_files import DamagedFileError, read_json, remove_unfinished, write_json

FIRST_STEP = "first_step_weights"  # in data.json: the weights that labelled a second step's target


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
    weights_sha256: str | None = None  # of the network; results of earlier versions have none
    entropy: float | None = None  # of the predictions, as is density; results of earlier versions have neither
    density: float | None = None
    seconds_per_step: float | None = None  # means over the steps, as are the next; earlier versions timed none of them
    images_per_second: float | None = None
    data_share: float | None = None
    matching_share: float | None = None  # of a recipe with matching


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        """What was asked for; a folder without it holds no run."""
        return self.path / "recipe.json"

    @property
    def checkpoints(self) -> KeptCheckpoints:
        """What a run resumes from."""
        return KeptCheckpoints(self.path / "checkpoints")

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint, which is also the result."""
        return self.checkpoints.newest

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
        remove_unfinished(self.path)
        write_json(self.recipe_file, recipe.model_dump(mode="json"))
        write_json(self.path / "data.json", data)

    def check(self, recipe: Recipe, data: Mapping[str, Any] | None = None) -> None:
        """Refuse when the folder holds a run of another recipe or other pictures, naming what differs."""
        found: list[str] = []
        data_file = self.path / "data.json"
        if self.recipe_file.is_file():
            found += differences(read_json(self.recipe_file), recipe.model_dump(mode="json"))
        if data is not None and data_file.is_file():
            kept = read_json(data_file)
            if "first_step_checkpoint" in kept and self.result() is None:
                raise RunFolderError(
                    f"run folder {self.path}: expected its first step named by a digest of the weights, it is named "
                    "by one of the whole checkpoint file, as an earlier version did; the two cannot be compared. "
                    "Choose another --out, or delete that folder to run this second step again."
                )
            # Named only where both sides know it: a run that has ended no longer needs its first step.
            known = FIRST_STEP in kept and FIRST_STEP in data
            unknown = () if known else (FIRST_STEP, "first_step_checkpoint")
            found += differences(_without(kept, unknown), _without(data, unknown), "data.")
        if found:
            pictures = any(each.startswith("data.") and FIRST_STEP not in each for each in found)
            raise RunFolderError(
                f"run folder {self.path}: expected a run of the recipe that is asked for, it holds one that "
                f"differs (folder -> asked): {'; '.join(found)}. "
                f"{'Put the pictures back as they were, or choose' if pictures else 'Choose'} "
                "another --out, ask for the same settings, or delete that folder."
            )

    def result(self) -> Result | None:
        """What came out, when the run has ended."""
        file = self.path / "result.json"
        if not file.is_file():
            return None
        content = read_json(file)
        try:
            return Result(**content)
        except TypeError as error:
            raise DamagedFileError(
                f"{file}: expected {', '.join(Result.__dataclass_fields__)}, got {', '.join(content) or 'nothing'}. "
                "Delete the file, and the run ends once more from its last checkpoint."
            ) from error

    def write_result(self, result: Result) -> None:
        """The last thing a run does."""
        write_json(self.path / "result.json", vars(result))

    def write_environment(self, device: torch.device) -> None:
        """Library versions and machine, since both move results."""
        write_json(self.path / "environment.json", environment(device))


def _without(content: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}


def differences(kept: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every setting in which two recipe files differ, as ``group.setting: kept -> asked``."""
    found: list[str] = []
    for key in sorted({*kept, *asked}):
        path = f"{prefix}{key}"
        old, new = kept.get(key), asked.get(key)
        if path == "running" or old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{path}.")
        else:
            found.append(f"{path}: {json.dumps(old)} -> {json.dumps(new)}")
    return found
