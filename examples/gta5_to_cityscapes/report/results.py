"""Run folders as typed records; what a run has not written yet, or left damaged, is empty and named in ``problems``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch

import stuffinstance as si

from ..data import Classes
from .recipe_names import LADDER, in_order

Bank = TypeVar("Bank", si.StuffBank, si.InstanceBank)
RUN_FILES = ("recipe.json", "metrics.jsonl", "result.json")
SCORES = ("miou", "entropy", "density")


@dataclass(frozen=True)
class Run:
    """One recipe trained with one seed.

    Attributes:
        settings, environment, data, result, thresholds: Its files as written; empty where one is absent.
        training: What was logged by step, such as ``loss/stuff``; NaN where it was not.
        evaluations: ``miou``, ``entropy`` and ``density`` by step, fractions; NaN where one was not taken.
        problems: A sentence for each file that could not be read.
    """

    recipe: str
    seed: int
    folder: Path
    settings: dict[str, Any]
    environment: dict[str, Any]
    data: dict[str, Any]
    result: dict[str, Any]
    thresholds: dict[str, Any]
    training: pd.DataFrame
    evaluations: pd.DataFrame
    problems: tuple[str, ...]

    @property
    def miou(self) -> float:
        """Final mIoU in percent; NaN for an unfinished run."""
        return 100 * self.number("miou")

    @property
    def finished(self) -> bool:
        """Whether the run counts in the tables: it has written a result with a score."""
        return not math.isnan(self.miou)

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The recipes whose networks it needed, as its ``recipe.json`` names them."""
        needed = (self.settings.get(key) or () for key in ("start", "labeled_by", "fused_of"))
        return tuple(name for names in needed for name in ([names] if isinstance(names, str) else names))

    @property
    def last_step(self) -> int:
        """The furthest step in any file of the run."""
        return max([*self.training.index, *self.evaluations.index, int(numeric(self.result.get("step"), 0))])

    def number(self, name: str) -> float:
        """A number of the result; NaN where it is absent."""
        return numeric(self.result.get(name))

    def setting(self, group: str, name: str) -> Any:
        """A setting of the recipe, in a group of its own or of a method; None where it is not recorded."""
        return mapping({**mapping(self.settings, "methods"), **self.settings}, group).get(name)


@dataclass(frozen=True)
class Experiment:
    """All runs below one folder, by seed."""

    folder: Path
    runs: tuple[Run, ...]
    problems: tuple[str, ...] = ()

    @property
    def recipes(self) -> tuple[str, ...]:
        return in_order(run.recipe for run in self.runs)

    @property
    def finished_recipes(self) -> tuple[str, ...]:
        return in_order(run.recipe for run in self.runs if run.finished)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({run.seed for run in self.runs}))

    def of(self, recipe: str | None, *, finished: bool = False) -> tuple[Run, ...]:
        """The runs of one recipe."""
        return tuple(run for run in self.runs if run.recipe == recipe and (run.finished or not finished))

    def whole(self, run: Run) -> tuple[Run, ...] | None:
        """A run and all that it depends on, each once; None where one of them is absent or unfinished."""
        found, waiting = {run.recipe: run}, list(run.depends_on)
        while waiting:
            name = waiting.pop()
            if name not in found:
                before = next((one for one in self.of(name, finished=True) if one.seed == run.seed), None)
                if before is None:
                    return None
                found[name] = before
                waiting += before.depends_on
        return tuple(found.values())

    @property
    def scored_classes(self) -> tuple[str, ...]:
        """The classes that every mIoU averages over, in the order of the recipe."""
        for run in sorted(self.runs, key=lambda run: not run.finished):
            if run.settings.get("classes"):
                return tuple(map(str, run.settings["classes"]))
        scored = (
            {name: iou for name, iou in mapping(run.result, "iou").items() if iou is not None} for run in self.runs
        )
        return next((tuple(classes) for classes in scored if classes), ())

    @property
    def space(self) -> si.LabelSpace:
        """The label space that the runs were trained in; Cityscapes where no run names one."""
        for run in self.runs:
            if found := run.settings.get("space"):
                return Classes.model_validate(found).space
        return si.CITYSCAPES


def read_experiment(folder: Path) -> Experiment:
    """Read ``folder/<recipe>/seed<k>/`` for every recipe and seed there is.

    Raises:
        FileNotFoundError: If the folder is absent or does not hold a run.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"experiment {folder}: expected a folder holding <recipe>/seed<k>/, found no such folder. "
            "Pass the folder that the training command was given as its output."
        )
    runs = [
        read_run(path, recipe=path.parent.name, seed=int(path.name.removeprefix("seed")))
        for path in sorted(folder.glob("*/seed*"))
        if path.name.removeprefix("seed").isdecimal() and any((path / name).exists() for name in RUN_FILES)
    ]
    if not runs:
        raise FileNotFoundError(
            f"experiment {folder}: expected <recipe>/seed<k>/ with {', '.join(RUN_FILES)} "
            f"(recipes: {', '.join(LADDER)}), found none. Train at least one recipe into this folder first, "
            "or pass the folder one level up if this is a single run."
        )
    problems = []
    if (lists := len({tuple(run.settings["classes"]) for run in runs if run.settings.get("classes")})) > 1:
        problems.append(f"The runs score {lists} different class lists: their mIoU cannot be compared.")
    versions = sorted({str(run.environment.get("torch")) for run in runs if run.environment})
    if len(versions) > 1:
        problems.append(f"The runs used different versions of torch: {', '.join(versions)}.")
    return Experiment(folder, tuple(sorted(runs, key=lambda run: run.seed)), tuple(problems))


def read_run(folder: Path, *, recipe: str, seed: int) -> Run:
    """Read one run folder."""
    problems: list[str] = []
    names = ("recipe", "environment", "data", "result", "thresholds")
    files = (_json(folder / f"{name}.json", problems) for name in names)
    metrics = _metrics(folder / "metrics.jsonl", problems)
    return Run(recipe, seed, folder, *files, *metrics, tuple(f"{recipe}, seed {seed}: {text}" for text in problems))


def numeric(value: object, default: float = math.nan) -> float:
    """A finite number as a float, anything else as ``default``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e308:
        return default
    return float(value)


def mapping(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object within an object; empty where it is absent or of another type."""
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _json(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if isinstance(content, dict):
            return content
        problems.append(f"{path.name} should hold one JSON object; it is treated as absent.")
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name} cannot be read ({error}); it is treated as absent.")
    return {}


def _metrics(path: Path, problems: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both kinds of line by step. A resumed run writes some steps twice: the later line holds."""
    found: dict[str, dict[int, dict[str, float]]] = {"train": {}, "evaluation": {}}
    damaged = 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
            if line["kind"] in found:
                found[line["kind"]][int(line["step"])] = {key: numeric(value) for key, value in line.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            damaged += bool(text.strip())  # a run that was killed while writing leaves half a line
    if damaged:
        problems.append(f"{damaged} line(s) of {path.name} cannot be read and are ignored.")
    training, evaluations = (pd.DataFrame.from_dict(lines, orient="index").sort_index() for lines in found.values())
    return training, evaluations.reindex(columns=SCORES)


@dataclass(frozen=True)
class Banks:
    """Both banks of one run at its last checkpoint."""

    stuff: si.StuffBank
    things: si.InstanceBank
    run: Run


def read_banks(experiment: Experiment) -> tuple[Banks | None, tuple[str, ...]]:
    """Banks of the furthest recipe that kept some, and a sentence per checkpoint that could not be used."""
    problems: list[str] = []
    rank = {name: k for k, name in enumerate(LADDER)}
    for run in sorted(experiment.runs, key=lambda run: (-rank.get(run.recipe, -1), not run.finished, run.seed)):
        path, where = run.folder / "checkpoints" / "last.pt", f"{run.recipe}, seed {run.seed}"
        if not path.exists() or ("sim" not in run.recipe.split("+") and run.recipe in LADDER):
            continue
        try:  # mapped, since only the banks of a large checkpoint are needed
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch.load raises many kinds for a file that cannot be used
            reason = (str(error) or type(error).__name__).splitlines()[0]
            problems.append(f"{where}: checkpoints/last.pt cannot be read ({reason}).")
            continue
        state = content.get("sim") if isinstance(content, Mapping) else None
        if not isinstance(state, Mapping) or not state:
            continue
        try:
            stuff = _filled(si.StuffBank, experiment.space.stuff, state, "stuff_bank")
            things = _filled(si.InstanceBank, experiment.space.things, state, "instance_bank")
            return Banks(stuff, things, run), tuple(problems)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            problems.append(f"{where}: the banks of last.pt do not fit the classes: {error}.")
    return None, tuple(problems)


def _filled(kind: type[Bank], classes: tuple[int, ...], state: Mapping[str, Any], name: str) -> Bank:
    """A bank with the state of the checkpoint, whose buffers stay mapped."""
    kept = {key: state[f"{name}.{key}"] for key in ("features", "written", "_extra_state")}
    held, slots, feature_dim = kept["features"].shape
    if held != len(classes):
        raise ValueError(f"{name} holds {held} classes, the space has {len(classes)} of that kind")
    bank = kind(classes, feature_dim, slots)
    bank.load_state_dict(kept, assign=True)
    return bank
