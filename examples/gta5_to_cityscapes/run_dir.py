"""Run folder: its files, its result, the events of a run, and checks that a folder holds the run asked for."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass as plain_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import ValidationError
from pydantic.dataclasses import dataclass

import stuffinstance as si

from .atomic_io import DamagedFileError, read_json, remove_unfinished, write_json
from .checkpoint import KeptCheckpoints
from .distributed import world_size
from .input_files import FIRST_STAGE, START_WEIGHTS, InputFiles, changes, digest_of, read_digests, write_digests
from .recipes import PAPER_EXPERIMENTS, PaperExperiment, Recipe, Variant

PACKAGES = ("torch", "numpy", "kornia", "scikit-image", "pillow", "pydantic")
# Settings that name files whose content is in data.json, and where it is there: their place does not matter.
PLACES = {
    "network.weights": START_WEIGHTS,
    "foundation_distance.model": START_WEIGHTS,
    "style_transfer.method": "labeled",
    "target_style_transfer.method": "validation",
}


class Event(NamedTuple):
    """Progress of a task: ``done`` of ``total`` units, with a note.

    ``"stopping"`` comes immediately when a stop is requested, ``"stopped"`` when its state is saved.
    """

    task: str
    done: int
    total: int
    note: str = ""
    kind: Literal["progress", "finished", "stopping", "stopped", "failed"] = "progress"


Watch = Callable[[Event], None]
Tick = Callable[[int, int], None]  # (images done, images in all), from what does not know its task's name


def unwatched(event: Event) -> None:
    """Ignores the event."""


def silent(done: int, total: int) -> None:
    """Ignores the tick."""


class RunFolderError(ValueError):
    """A folder that holds another run than the one that was asked for."""


@dataclass(frozen=True)
class Result:
    """Result of a run, the content of ``result.json``; the network is in the last checkpoint."""

    recipe: str
    seed: int
    step: int
    miou: float
    iou: dict[str, float | None]
    seconds_total: float
    peak_memory_bytes: int
    weights_sha256: str | None = None  # of the network
    entropy: float | None = None  # of the predictions, as is density
    density: float | None = None
    seconds_per_step: float | None = None  # means over the steps, as are the next two
    images_per_second: float | None = None
    data_share: float | None = None


@plain_dataclass(frozen=True)
class RunFolder:
    """Folder of one run, with the paths of its files."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        """The recipe; a folder without it does not hold a run."""
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
        """A few validation images with their predictions."""
        return self.path / "previews"

    @property
    def pseudo_labels(self) -> Path:
        """The target's pseudo-labels (second stage only)."""
        return self.path / "pseudo_labels"

    @property
    def thresholds(self) -> Path:
        """Thresholds and shares kept (second stage only)."""
        return self.path / "thresholds.json"

    @property
    def inputs_file(self) -> Path:
        """A line for every file that the run reads: see :mod:`.input_files`."""
        return self.path / "data_files.jsonl"

    def claim(self, recipe: Recipe, inputs: InputFiles) -> None:
        """Take the folder for this recipe and its input files, or raise as :meth:`check` does; a finished run stays."""
        self.check(recipe, inputs)
        if self.result() is not None:
            return
        remove_unfinished(self.path)
        write_json(self.recipe_file, recipe.model_dump(mode="json"))
        write_digests(self.inputs_file, inputs.digests)
        write_json(self.path / "data.json", inputs.identity())

    def check(self, recipe: Recipe, inputs: InputFiles | None = None) -> None:
        """Raise if the folder holds a run of another recipe or of other files, naming what differs.

        Raises:
            RunFolderError: If it does so.
        """
        settings: list[str] = []
        if self.recipe_file.is_file():
            settings = differences(read_json(self.recipe_file), recipe.model_dump(mode="json"))
        data: list[str] = []
        if inputs is not None and (kept := self._kept_identity()) is not None and self._is_trained():
            data = self._changed(kept, inputs)
            settings = [each for each in settings if not _only_moved(each.partition(":")[0], kept, inputs.identity())]
        if settings or data:
            files = any(FIRST_STAGE not in each for each in data)
            keep = "To keep it, put the files back as they were; to train on what is there now, choose"
            raise RunFolderError(
                f"run folder {self.path}: expected a run of the recipe that is asked for, it holds one that "
                f"differs (folder -> asked): {'; '.join([*settings, *data])}. {keep if files else 'Choose'} another "
                "--out, ask for the same settings, or delete that folder."
            )

    def _is_trained(self) -> bool:
        """Whether there is something that other files would spoil."""
        return self.result() is not None or self.checkpoint.is_file() or bool(self.checkpoints.earlier)

    def _kept_identity(self) -> dict[str, Any] | None:
        """The content of ``data.json``; None where it is absent and nothing depends on it."""
        file = self.path / "data.json"
        if file.is_file():
            return read_json(file)
        if self._is_trained():
            raise RunFolderError(
                f"{file}: expected digests of the files that the run reads, it is gone: whether images, labels or "
                "weights have changed since it began is not known. Choose another --out, or delete that folder to "
                "train again."
            )
        return None

    def _changed(self, kept: Mapping[str, Any], inputs: InputFiles) -> list[str]:
        """What differs from an earlier identity, with examples where the files of the earlier one are known."""
        asked = inputs.identity()
        # Compared only where both sides know it: a run that has ended needs neither any more.
        unknown = {name for name in (FIRST_STAGE, START_WEIGHTS) if name not in kept or name not in asked}
        found = [
            each
            for name in sorted({*kept, *asked} - unknown)
            for each in differences({name: kept.get(name)}, {name: asked.get(name)}, "data.")
        ]
        if not found or not (known := read_digests(self.inputs_file)):
            return found
        sets = {f"data.{name}" for name in inputs.sets}
        others = [each for each in found if not each.startswith(tuple(sets))]
        return [*(each for each in changes(known, inputs) if each.split(".")[1] not in unknown), *others]

    def note_unreadable(self, inputs: InputFiles, reason: str) -> None:
        """Record which file could not be read; if it was damaged from the start, it may be replaced."""
        with suppress(OSError):  # a note for later must not hide what is wrong now
            known = read_digests(self.inputs_file)
            named = [(key, path) for key, path in inputs.named_in(reason) if path.is_file()]
            damaged = {key: None for key, path in named if digest_of(key, path) == known.get(key)}
            if damaged:
                write_digests(self.inputs_file, known | damaged)

    def result(self) -> Result | None:
        """The result; None before the run has ended."""
        file = self.path / "result.json"
        if not file.is_file():
            return None
        content = read_json(file)
        try:
            return Result(**content)
        except ValidationError as error:
            raise DamagedFileError(
                f"{file}: expected {', '.join(Result.__dataclass_fields__)}, got {', '.join(content) or 'nothing'}. "
                "Delete the file, and the run ends once more from its last checkpoint."
            ) from error

    def write_result(self, result: Result) -> None:
        """Write ``result.json``, which ends the run."""
        write_json(self.path / "result.json", vars(result))

    def write_environment(self, device: torch.device) -> None:
        """Library versions and machine, since both move results."""
        content = {
            "python": platform.python_version(),
            "stuffinstance": si.__version__,
            **{name: version(name) for name in PACKAGES},
            "platform": platform.platform(),
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": world_size(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        }
        write_json(self.path / "environment.json", content)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _only_moved(setting: str, kept: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a setting that differs is the place of files whose content is in both identities."""
    both = [each.get(PLACES.get(setting, "")) for each in (kept, asked)]
    return all(isinstance(each, str) or (isinstance(each, Mapping) and "transferred" in each) for each in both)


def differences(kept: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every setting in which two recipe files differ, as ``group.setting: kept -> asked``."""
    found: list[str] = []
    for key in sorted({*kept, *asked}):
        path = "" if key == "methods" else f"{prefix}{key}"  # methods' settings go by their own groups, as in --set
        old, new = kept.get(key), asked.get(key)
        if path == "runtime" or old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{path}." if path else "")
        else:
            found.append(f"{path}: {json.dumps(old)} -> {json.dumps(new)}")
    return found


FILE = "experiment.json"


@dataclass(frozen=True)
class ExperimentRecord:
    """Record of an experiment, the content of ``experiment.json``; only seeds may be added later."""

    name: str
    preset: str
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()  # as --set takes them
    generated: bool = False  # whether the images are those of the generated city
    source_list: str = ""  # name of the file that chooses the images; their own digest is kept with each run
    target_list: str = ""

    @property
    def paper(self) -> PaperExperiment:
        """The experiment itself."""
        return PAPER_EXPERIMENTS[self.name]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Its rows in this preset."""
        return self.paper.variants(self.preset, self.settings)

    @property
    def list_options(self) -> list[str]:
        """The lists as options of the command."""
        lists = {"--source-list": self.source_list, "--target-list": self.target_list}
        return [f"{option} {name}" for option, name in lists.items() if name]

    def claim(self, folder: Path) -> None:
        """Take the folder for this experiment, or raise as :meth:`check` does."""
        kept = self.check(folder)
        seeds = sorted({*self.seeds, *(kept.seeds if kept else ())})
        write_json(folder / FILE, {**vars(self), "seeds": seeds})

    def check(self, folder: Path) -> ExperimentRecord | None:
        """The record of this experiment in the folder; one of another experiment is an error."""
        kept = read_record(folder)
        if kept is not None and kept._asked() != self._asked():
            raise RunFolderError(
                f"{folder / FILE}: expected {self._asked()}, the folder holds {kept._asked()}. "
                "Choose another --out, or ask for the same."
            )
        return kept

    def _asked(self) -> str:
        asked = [*self.settings, *self.list_options]
        return " ".join([f"{self.name} in preset {self.preset}", *(f"with {each}" for each in asked)])


def read_record(folder: Path) -> ExperimentRecord | None:
    """The experiment that a folder holds; None where it holds none of the paper's."""
    file = folder / FILE
    if not file.is_file():
        return None
    content = read_json(file)
    try:
        record = ExperimentRecord(**content)
    except ValidationError as error:
        raise DamagedFileError(f"{file}: expected name, preset, seeds, settings; got {', '.join(content)}.") from error
    if record.name not in PAPER_EXPERIMENTS:
        raise DamagedFileError(
            f"{file}: expected one of {', '.join(PAPER_EXPERIMENTS)}, got {record.name!r}. Delete the file."
        )
    return record
