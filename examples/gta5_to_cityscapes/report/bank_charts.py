"""The banks made visible: how full each class is, and where its rows lie relative to the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from matplotlib.figure import Figure

import stuffinstance as si
from stuffinstance import drawing

from .drawn_figure import Drawn, Theme, draw
from .recipe_names import LADDER
from .results import Experiment, Run

Bank = TypeVar("Bank", si.StuffBank, si.InstanceBank)


@dataclass(frozen=True)
class Banks:
    """Both banks of one run at its last checkpoint."""

    stuff: si.StuffBank
    things: si.InstanceBank
    run: Run

    @property
    def feature_dim(self) -> int:
        return self.stuff.feature_dim

    @property
    def both(self) -> tuple[si.StuffBank, si.InstanceBank]:
        return self.stuff, self.things


def read_banks(experiment: Experiment, space: si.LabelSpace) -> tuple[Banks | None, tuple[str, ...]]:
    """Banks of the furthest recipe that kept some, and a sentence per checkpoint that could not be used."""
    problems: list[str] = []
    rank = {name: k for k, name in enumerate(LADDER)}
    runs = sorted(experiment.runs, key=lambda run: (-rank.get(run.recipe, -1), not run.finished, run.seed))
    for run in runs:
        if "sim" not in run.recipe.split("+") and run.recipe in LADDER:
            continue
        state = _matching_state(run.folder / "checkpoints" / "last.pt", problems, run)
        if not state:
            continue
        try:
            stuff = _filled(si.StuffBank, space.stuff, state, "stuff_bank")
            things = _filled(si.InstanceBank, space.things, state, "instance_bank")
        except (KeyError, ValueError, RuntimeError) as error:
            problems.append(f"{run.recipe}, seed {run.seed}: the banks of last.pt do not fit the classes: {error}.")
            continue
        return Banks(stuff, things, run), tuple(problems)
    return None, tuple(problems)


def _matching_state(path: Path, problems: list[str], run: Run) -> Mapping[str, Any] | None:
    if not path.exists():
        return None
    try:
        # Mapped, not read: of a large checkpoint only the banks are needed.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load raises many kinds for one thing: this file cannot be used
        reason = (str(error) or type(error).__name__).splitlines()[0]
        problems.append(f"{run.recipe}, seed {run.seed}: checkpoints/last.pt cannot be read ({reason}).")
        return None
    state = content.get("sim") if isinstance(content, Mapping) else None
    return state if isinstance(state, Mapping) else None


def _filled(kind: type[Bank], classes: tuple[int, ...], state: Mapping[str, Any], name: str) -> Bank:
    """A bank with the state of the checkpoint, whose buffers stay mapped."""
    kept = {key: state[f"{name}.{key}"] for key in ("features", "written", "_extra_state")}
    held, slots, feature_dim = kept["features"].shape
    if held != len(classes):
        raise ValueError(f"{name} holds {held} classes, the space has {len(classes)} of that kind")
    bank = kind(classes, feature_dim, slots)
    bank.load_state_dict(kept, assign=True)
    return bank


def draw_bank_fill(banks: Banks, space: si.LabelSpace) -> Drawn:
    """How many slots hold a row; the number on the right counts every row ever written."""
    filled = {space.names[k]: row for bank in banks.both for k, row in zip(bank.classes, bank.filled, strict=True)}
    empty = [name for name, row in filled.items() if not row.any()]
    full = sum(bool(row.all()) for row in filled.values())
    alt = f"Bar chart of slots filled per class: {full} of {len(filled)} classes are full"
    alt += f"; empty: {', '.join(empty)}." if empty else "; none is empty."

    def paint(figure: Figure, theme: Theme) -> None:
        drawing.draw_bank_fill(banks.both, space, ax=figure.subplots())

    return draw("bank_fill", alt, (7, 0.9 + 0.29 * len(filled)), paint)


def draw_bank_rows(banks: Banks, space: si.LabelSpace) -> Drawn:
    """Every mark is one row of a bank, circles for stuff, triangles for things."""

    def paint(figure: Figure, theme: Theme) -> None:
        drawing.draw_bank_rows(banks.both, space, ax=figure.subplots())

    alt = "Scatter plot of bank rows on their two main axes: one cluster of marks per class with its name beside it."
    return draw("bank_rows", alt, (7, 5.6), paint)
