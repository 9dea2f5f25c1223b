"""Read the run folders of one experiment into typed records.

An experiment is often looked at while half of it is still running, so nothing that a run has not
written yet is an error: it becomes a sentence in ``problems`` and the page says it aloud.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .recipe_names import LADDER, in_order

RUN_FILES = ("recipe.json", "metrics.jsonl", "result.json")
STEP_MEANS = ("seconds_per_step", "images_per_second", "data_share", "matching_share")


@dataclass(frozen=True)
class Evaluation:
    """One pass over the validation images; fractions, ``None`` for a class that never occurs.

    ``entropy`` and ``density`` need no labels; runs of earlier versions have neither.
    """

    step: int
    miou: float | None
    iou: dict[str, float | None]
    entropy: float | None = None
    density: float | None = None


@dataclass(frozen=True)
class Cost:
    """What a finished run took; the last four are means over its steps, which runs of earlier versions have not."""

    seconds: float | None
    peak_memory_bytes: float | None
    seconds_per_step: float | None = None
    images_per_second: float | None = None
    data_share: float | None = None
    matching_share: float | None = None


@dataclass(frozen=True)
class Thresholds:
    """What the pseudo-labels of one run kept, class by class."""

    thresholds: dict[str, float]
    kept: dict[str, float]
    predicted_pixels: dict[str, float]
    kept_total: float | None


@dataclass(frozen=True)
class Run:
    """One recipe trained with one seed."""

    recipe: str
    seed: int
    folder: Path
    settings: dict[str, Any]
    environment: dict[str, Any]
    data: dict[str, Any]
    training: tuple[dict[str, float], ...]
    evaluations: tuple[Evaluation, ...]
    result: Evaluation | None
    cost: Cost
    thresholds: Thresholds | None
    problems: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """A run counts in the tables once it has written a result with a number in it."""
        return self.result is not None and self.result.miou is not None

    @property
    def stands_on(self) -> tuple[str, ...]:
        """The recipes whose networks it needed, as its ``recipe.json`` names them."""
        start = self.settings.get("start")
        return (
            *([start] if start else []),
            *(self.settings.get("labelled_by") or ()),
            *(self.settings.get("fused_of") or ()),
        )

    @property
    def pictures(self) -> dict[str, int]:
        """How many there were of each set, as its ``data.json`` counts them."""
        return {name: each["pictures"] for name, each in self.data.items() if isinstance(each, dict)}

    @property
    def last_step(self) -> int:
        """The furthest step seen in any file of the run."""
        steps = [int(line["step"]) for line in self.training] + [e.step for e in self.evaluations]
        return max([*steps, self.result.step if self.result else 0])


@dataclass(frozen=True)
class Experiment:
    """All runs below one folder."""

    folder: Path
    runs: tuple[Run, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def recipes(self) -> tuple[str, ...]:
        return in_order(run.recipe for run in self.runs)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({run.seed for run in self.runs}))

    def of(self, recipe: str, *, finished: bool = False) -> tuple[Run, ...]:
        """The runs of one recipe by seed."""
        return tuple(r for r in self.runs if r.recipe == recipe and (r.finished or not finished))

    def whole(self, run: Run) -> tuple[Run, ...] | None:
        """A run and all that it stands on, each once; ``None`` where one of them is not here or has not finished."""
        found: dict[str, Run] = {run.recipe: run}
        waiting = list(run.stands_on)
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            before = next((one for one in self.of(name, finished=True) if one.seed == run.seed), None)
            if before is None:
                return None
            found[name] = before
            waiting += before.stands_on
        return tuple(found.values())

    @property
    def finished_recipes(self) -> tuple[str, ...]:
        return tuple(name for name in self.recipes if self.of(name, finished=True))

    @property
    def scored_classes(self) -> tuple[str, ...]:
        """The classes every mIoU of the report averages over, in the order the recipe names them."""
        for run in sorted(self.runs, key=lambda run: not run.finished):
            if run.settings.get("classes"):
                return tuple(str(name) for name in run.settings["classes"])
        for run in self.runs:
            for scores in filter(None, (run.result, *reversed(run.evaluations))):
                return tuple(name for name, value in scores.iou.items() if value is not None)
        return ()


def read_experiment(folder: Path) -> Experiment:
    """Read ``folder/<recipe>/seed<k>/`` for every recipe and seed there is.

    Raises:
        FileNotFoundError: If the folder is absent or holds no run at all.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"experiment {folder}: expected a folder holding <recipe>/seed<k>/, found no such folder. "
            "Pass the folder that the training command was given as its output."
        )
    runs = [
        read_run(path, recipe=path.parent.name, seed=int(path.name.removeprefix("seed")))
        for path in sorted(folder.glob("*/seed*"))
        if path.is_dir() and path.name.removeprefix("seed").isdigit() and _holds_a_run(path)
    ]
    if not runs:
        raise FileNotFoundError(
            f"experiment {folder}: expected <recipe>/seed<k>/ with {', '.join(RUN_FILES)} "
            f"(recipes: {', '.join(LADDER)}), found none. Train at least one recipe into this folder first, "
            "or pass the folder one level up if this is a single run."
        )
    runs.sort(key=lambda run: run.seed)
    return Experiment(folder, tuple(runs), tuple(_disagreements(runs)))


def read_run(folder: Path, *, recipe: str, seed: int) -> Run:
    """Read one run folder; whatever is absent or damaged stays empty and is named in ``problems``."""
    problems: list[str] = []
    where = f"{recipe}, seed {seed}"
    result = _json(folder / "result.json", where, problems)
    limits = _json(folder / "thresholds.json", where, problems)
    training, evaluations = _metrics(folder / "metrics.jsonl", where, problems)
    return Run(
        recipe=recipe,
        seed=seed,
        folder=folder,
        settings=_json(folder / "recipe.json", where, problems),
        environment=_json(folder / "environment.json", where, problems),
        data=_json(folder / "data.json", where, problems),
        training=training,
        evaluations=evaluations,
        result=_evaluation(result) if result else None,
        cost=_cost(result),
        thresholds=_thresholds(limits) if limits else None,
        problems=tuple(problems),
    )


def _holds_a_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in RUN_FILES)


def _json(path: Path, where: str, problems: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{where}: {path.name} cannot be read ({error}); it is treated as absent.")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{where}: {path.name} should hold one JSON object; it is treated as absent.")
        return {}
    return content


def _metrics(
    path: Path, where: str, problems: list[str]
) -> tuple[tuple[dict[str, float], ...], tuple[Evaluation, ...]]:
    """Both kinds of line by step. A resumed run writes some steps twice: the later line holds."""
    training: dict[int, dict[str, float]] = {}
    evaluations: dict[int, Evaluation] = {}
    damaged = 0
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            if line["kind"] == "evaluation":
                evaluations[int(line["step"])] = _evaluation(line)
            elif line["kind"] == "train":
                training[int(line["step"])] = {
                    key: number for key, value in line.items() if (number := _number(value)) is not None
                }
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged += 1  # a run stopped while writing leaves half a line behind
    if damaged:
        problems.append(f"{where}: {damaged} line(s) of {path.name} cannot be read and are left out.")
    return (
        tuple(training[step] for step in sorted(training)),
        tuple(evaluations[step] for step in sorted(evaluations)),
    )


def _evaluation(line: dict[str, Any]) -> Evaluation:
    iou = {str(name): _number(value) for name, value in (line.get("iou") or {}).items()}
    return Evaluation(
        int(line.get("step") or 0),
        _number(line.get("miou")),
        iou,
        _number(line.get("entropy")),
        _number(line.get("density")),
    )


def _cost(result: dict[str, Any]) -> Cost:
    means = {name: _number(result.get(name)) for name in STEP_MEANS}
    return Cost(_number(result.get("seconds_total")), _number(result.get("peak_memory_bytes")), **means)


def _thresholds(content: dict[str, Any]) -> Thresholds:
    def numbers(key: str) -> dict[str, float]:
        found = {str(name): _number(value) for name, value in (content.get(key) or {}).items()}
        return {name: value for name, value in found.items() if value is not None}

    return Thresholds(
        numbers("thresholds"),
        numbers("kept"),
        numbers("predicted_pixels"),
        _number(content.get("kept_total")),
    )


def _number(value: object) -> float | None:
    """A finite float, or ``None`` for null, NaN, infinities and anything that is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < float("inf") else None


def _disagreements(runs: list[Run]) -> list[str]:
    """What makes runs of one experiment incomparable: other scored classes, other library versions."""
    found = []
    classes = {tuple(run.settings["classes"]) for run in runs if run.settings.get("classes")}
    if len(classes) > 1:
        found.append(f"The runs score {len(classes)} different class lists: their mIoU cannot be compared.")
    versions = {str(run.environment.get("torch")) for run in runs if run.environment}
    if len(versions) > 1:
        found.append(f"The runs used different versions of torch: {', '.join(sorted(versions))}.")
    return found
