"""The folder of one run: what it was asked, where it runs, what it measured, what came out."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..recipes import Recipe
from .environment import environment
from .input_files import FileDigest, InputFiles, Key, changes, digest_of, read_digests, write_digests
from .kept_checkpoints import KeptCheckpoints
from .written_files import DamagedFileError, read_json, remove_unfinished, write_json

logger = logging.getLogger(__name__)
FIRST_STEP = "first_step_weights"  # in data.json: the weights that labelled a second step's target
START_WEIGHTS = "start_weights"  # in data.json: the file that network.weights names
# Settings that name files whose content is in data.json: where they lie does not matter.
PLACES = {"network.weights": START_WEIGHTS, "restyle.method": "labelled", "restyle_target.method": "validation"}


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

    @property
    def inputs_file(self) -> Path:
        """A line for every file that the run reads: see :mod:`.input_files`."""
        return self.path / "data_files.jsonl"

    def known_inputs(self) -> dict[Key, FileDigest]:
        """What is known of the files that the run reads, from when it began or last went on."""
        return read_digests(self.inputs_file)

    def claim(self, recipe: Recipe, inputs: InputFiles) -> None:
        """Take the folder for this recipe and what it reads; what has ended stays as it is.

        Raises:
            RunFolderError: As :meth:`check` does.
        """
        self.check(recipe, inputs)
        if self.result() is not None:
            return
        remove_unfinished(self.path)
        write_json(self.recipe_file, recipe.model_dump(mode="json"))
        write_digests(self.inputs_file, inputs.digests)
        write_json(self.path / "data.json", inputs.identity())

    def check(self, recipe: Recipe, inputs: InputFiles | None = None) -> None:
        """Compare the run that the folder holds with this recipe and with what it reads.

        Raises:
            RunFolderError: If they differ; the message names the settings, and the kinds of files with an example.
        """
        settings: list[str] = []
        if self.recipe_file.is_file():
            settings = differences(read_json(self.recipe_file), recipe.model_dump(mode="json"))
        data: list[str] = []
        if inputs is not None and (kept := self._kept_identity()) is not None:
            asked = inputs.identity()
            data = self._changed(kept, asked, inputs) if _has_digests(kept) else _other_counts(kept, asked)
            settings = [each for each in settings if not _only_moved(each.partition(":")[0], kept, asked)]
        if settings or data:
            files = any(FIRST_STEP not in each for each in data)
            keep = "To keep it, put the files back as they were; to train on what is there now, choose"
            raise RunFolderError(
                f"run folder {self.path}: expected a run of the recipe that is asked for, it holds one that "
                f"differs (folder -> asked): {'; '.join([*settings, *data])}. {keep if files else 'Choose'} another "
                "--out, ask for the same settings, or delete that folder."
            )

    def _kept_identity(self) -> dict[str, Any] | None:
        """The content of ``data.json``; None where it cannot be compared and nothing depends on it."""
        file, ended = self.path / "data.json", self.result() is not None
        kept = read_json(file) if file.is_file() else None
        if kept is not None and _has_digests(kept):
            return kept
        wrong = "is gone" if kept is None else "is of an earlier version, without digests of their contents"
        if ended:
            logger.warning(
                "run folder %s: its data.json %s, so whether images, labels or weights have changed since the run "
                "ended is not known. The run is kept as it is.",
                self.path,
                wrong,
            )
        elif self.checkpoint.is_file() or self.checkpoints.earlier:
            raise RunFolderError(
                f"{file}: expected digests of the files that the run reads, it {wrong}: whether images, labels or "
                "weights have changed since it began is not known. Choose another --out, or delete that folder to "
                "train again."
            )
        return kept if ended else None

    def _changed(self, kept: Mapping[str, Any], asked: Mapping[str, Any], inputs: InputFiles) -> list[str]:
        """What differs between two identities, with examples where the files of the earlier one are known."""
        # Compared only where both sides know it: a run that has ended needs neither any more.
        unknown = {name for name in (FIRST_STEP, START_WEIGHTS) if name not in kept or name not in asked}
        kept, asked = _without(kept, unknown), _without(asked, unknown)
        found = differences(kept, asked, "data.")
        if not found or not (known := self.known_inputs()):
            return found
        sets = {f"data.{name}" for name in inputs.sets}
        others = [each for each in found if not each.startswith(tuple(sets))]
        return [*(each for each in changes(known, inputs) if each.split(".")[1] not in unknown), *others]

    def note_unreadable(self, inputs: InputFiles, reason: str) -> None:
        """Keep which file a run stopped at; where it was damaged from the start it may be replaced by a whole one."""
        known = self.known_inputs()
        named = [(key, path) for key, path in inputs.named_in(reason) if key in known and path.is_file()]
        damaged = {key for key, path in named if digest_of(key, path) == known[key].digest}
        if damaged:
            write_digests(
                self.inputs_file,
                {key: each._replace(digest=None) if key in damaged else each for key, each in known.items()},
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


def _has_digests(kept: Mapping[str, Any]) -> bool:
    """Whether an identity is of this version."""
    sets = [each for each in kept.values() if isinstance(each, Mapping)]
    return "first_step_checkpoint" not in kept and all("images" in each for each in sets)


def _other_counts(kept: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Where two identities differ in numbers of images, which those of earlier versions have too."""
    both = [
        {name: {"pictures": each.get("pictures")} for name, each in one.items() if isinstance(each, Mapping)}
        for one in (kept, asked)
    ]
    return differences(both[0], both[1], "data.")


def _only_moved(setting: str, kept: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a setting that differs is the place of files whose content is in both identities."""
    both = [each.get(PLACES.get(setting, "")) for each in (kept, asked)]
    return all(isinstance(each, str) or (isinstance(each, Mapping) and "restyled" in each) for each in both)


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
