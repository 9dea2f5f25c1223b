"""The banks made visible: how full each class is, and where its rows lie relative to the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

import stuffinstance as si

from .drawn_figure import Drawn, Theme, draw, name_rows
from .previews import colour_labels
from .recipe_names import LADDER
from .results import Experiment, Run

ROWS_SHOWN = 60  # per class; hundreds of marks on one spot say no more than sixty


@dataclass(frozen=True)
class ClassRows:
    """The bank of one class: filled rows only."""

    name: str
    role: str
    color: str
    features: NDArray[np.float32]
    written: int
    capacity: int

    @property
    def filled(self) -> int:
        return min(self.written, self.capacity)


@dataclass(frozen=True)
class Banks:
    """Both banks of one run at its last checkpoint."""

    classes: tuple[ClassRows, ...]
    run: Run
    feature_dim: int


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
            classes = (
                *_classes(state, "stuff_bank", space.stuff, "stuff", space),
                *_classes(state, "instance_bank", space.things, "thing", space),
            )
        except (KeyError, ValueError) as error:
            problems.append(f"{run.recipe}, seed {run.seed}: the banks of last.pt do not fit the classes: {error}.")
            continue
        return Banks(classes, run, int(state["stuff_bank.features"].shape[-1])), tuple(problems)
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


def _classes(
    state: Mapping[str, Any], bank: str, ids: tuple[int, ...], role: str, space: si.LabelSpace
) -> list[ClassRows]:
    features, written = state[f"{bank}.features"].float().numpy(), state[f"{bank}.written"].tolist()
    if len(features) != len(ids):
        raise ValueError(f"{bank} holds {len(features)} classes, the space has {len(ids)} of that kind")
    colors = colour_labels(np.arange(256, dtype=np.uint8), space)
    return [
        ClassRows(
            name=space.names[k],
            role=role,
            color="#{:02x}{:02x}{:02x}".format(*colors[k]),
            features=rows[: min(count, len(rows))],
            written=int(count),
            capacity=len(rows),
        )
        for k, rows, count in zip(ids, features, written, strict=True)
    ]


def project(banks: Banks) -> tuple[list[NDArray[np.float64]], tuple[float, float]]:
    """Two principal axes of the rows shown, every class weighing the same; and the variance they hold."""
    samples = [_spaced(one.features).astype(np.float64) for one in banks.classes]
    filled = [rows for rows in samples if len(rows)]
    if sum(map(len, filled)) < 3:
        return [np.zeros((len(rows), 2)) for rows in samples], (0.0, 0.0)
    centre = np.mean([rows.mean(0) for rows in filled], axis=0)
    weighted = np.concatenate([(rows - centre) / np.sqrt(len(rows)) for rows in filled])
    _, scale, axes = np.linalg.svd(weighted, full_matrices=False)
    axes = np.pad(axes, ((0, max(0, 2 - len(axes))), (0, 0)))[:2]
    shares = np.pad(scale**2, (0, 2))[:2] / max(float((scale**2).sum()), 1e-12)
    return [(rows - centre) @ axes.T for rows in samples], (float(shares[0]), float(shares[1]))


def _spaced(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(rows) <= ROWS_SHOWN:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, ROWS_SHOWN).astype(int)])


def draw_bank_fill(banks: Banks) -> Drawn:
    """How many slots hold a row; the number on the right counts every row ever written."""

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        for place, one in enumerate(banks.classes):
            axes.barh(place, 100, height=0.58, color=theme.grid)
            axes.barh(
                place,
                100 * one.filled / one.capacity,
                height=0.58,
                color="#56b4e9" if one.role == "stuff" else "#e69f00",
            )
            text = f"{one.filled} / {one.capacity}   ({one.written:,} written)"
            axes.text(102, place, text, va="center", fontsize=8, color=theme.soft)
        name_rows(axes, [f"{one.name}  {'●' if one.role == 'stuff' else '▲'}" for one in banks.classes], theme)
        axes.grid(visible=False)
        axes.set_xlim(0, 150)
        axes.set_xticks([0, 50, 100])
        axes.set(xlabel="slots filled, %")

    full = sum(one.filled == one.capacity for one in banks.classes)
    empty = [one.name for one in banks.classes if not one.filled]
    alt = f"Bar chart of slots filled per class: {full} of {len(banks.classes)} classes are full"
    alt += f"; empty: {', '.join(empty)}." if empty else "; none is empty."
    return draw("bank_fill", alt, (7, 0.9 + 0.29 * len(banks.classes)), paint)


def draw_bank_rows(banks: Banks) -> Drawn:
    """Every mark is one row of a bank, circles for stuff, triangles for things."""
    points, shares = project(banks)

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        for one, place in zip(banks.classes, points, strict=True):
            axes.scatter(
                place[:, 0],
                place[:, 1],
                marker="o" if one.role == "stuff" else "^",
                s=22,
                color=one.color,
                edgecolor=theme.soft,
                linewidth=0.45,
                alpha=0.85,
            )
        _name_clusters(axes, banks, points, theme)
        axes.set(xlabel=f"first axis, {100 * shares[0]:.0f} % of variance")
        axes.set_ylabel(f"second axis, {100 * shares[1]:.0f} %")
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        axes.margins(0.08)

    alt = (
        f"Scatter plot of bank rows on their two main axes ({100 * sum(shares):.0f} % of the variance), "
        "one cluster of marks per class with its name at the middle."
    )
    return draw("bank_rows", alt, (7, 5.6), paint)


def _name_clusters(axes: Axes, banks: Banks, points: list[NDArray[np.float64]], theme: Theme) -> None:
    """Names at the median of each class, pushed apart downwards where two would cover each other."""
    spots = [(one.name, np.median(p, axis=0)) for one, p in zip(banks.classes, points, strict=True) if len(p)]
    if not spots:
        return
    every = np.concatenate([p for p in points if len(p)])
    step = 0.045 * max(float(np.ptp(every[:, 1])), 1e-9)
    reach = 0.13 * max(float(np.ptp(every[:, 0])), 1e-9)
    placed: list[NDArray[np.float64]] = []
    for name, spot in sorted(spots, key=lambda entry: -entry[1][1]):
        place = spot.copy()
        while any(abs(place[1] - p[1]) < step and abs(place[0] - p[0]) < reach for p in placed):
            place[1] -= step / 4
        placed.append(place)
        box = {"boxstyle": "round,pad=0.15", "facecolor": theme.paper, "edgecolor": "none", "alpha": 0.72}
        axes.annotate(
            name,
            (float(spot[0]), float(spot[1])),
            xytext=(float(place[0]), float(place[1])),
            ha="center",
            va="center",
            fontsize=8,
            color=theme.ink,
            bbox=box,
        )
