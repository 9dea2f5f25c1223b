"""Things to draw, and what to ask a drawing."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection

import stuffinstance as si

SPACE = si.LabelSpace(
    names=("road", "sky", "car", "person"),
    stuff=(0, 1),
    things=(2, 3),
    palette=[(128, 64, 128), (70, 130, 180), (0, 0, 142), (220, 20, 60)],
)
PLAIN = si.LabelSpace(names=("one class",), stuff=(0,))
LABELS = torch.tensor([[[1, 1, 1, 1, 255], [2, 2, 0, 2, 2], [2, 2, 0, 2, 0], [0, 0, 0, 0, 0]]])
REGIONS = si.instance_regions(LABELS, SPACE.things, 3)
SCORE = si.IoU(0.5, torch.tensor([0.9, 0.35, 0.25, torch.nan], dtype=torch.float64))


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def legend(ax: Axes) -> set[str]:
    found = ax.get_legend()
    return {text.get_text() for text in found.get_texts()} if found else set()


def rows(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]


def render(ax: Axes) -> bytes:
    """What a warning in drawing would come from."""
    buffer = io.BytesIO()
    ax.figure.figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


def settings() -> dict[str, Any]:
    """All but the backend: to read that one is to choose one."""
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


def bank(rows_of_class: dict[int, torch.Tensor], capacity: int = 4) -> si.StuffBank:
    """A bank that was given these rows, (n, D), one after another."""
    filled = si.StuffBank(tuple(rows_of_class), next(iter(rows_of_class.values())).shape[1], capacity)
    for class_id, features in rows_of_class.items():
        for row in features:
            filled.update(row[None, :, None, None], torch.full((1, 1, 1), class_id))
    return filled


def seen_rule(**choices: Any) -> tuple[si.ClassBalancedThreshold, torch.Tensor]:
    """A rule and what it took in: the last class is never predicted."""
    logits = 2 * torch.randn(2, 4, 16, 16)
    logits[:, 3] = -torch.inf
    rule, probabilities = si.ClassBalancedThreshold(4, **choices), logits.softmax(1)
    rule.update(probabilities)
    return rule, probabilities


def matched() -> tuple[si.Matches, si.InstanceBank]:
    """The matches of two cars, and the bank that they were matched with."""
    source = si.InstanceBank(SPACE.things, feature_dim=3, capacity=5, max_instances=3)
    source.update(torch.randn(1, 3, 4, 5), LABELS)
    return si.InstanceMatchingLoss(source).matches(torch.randn(1, 3, 4, 5), LABELS), source


def marks(ax: Axes) -> dict[str, PathCollection]:
    return {str(found.get_label()): found for found in ax.collections if isinstance(found, PathCollection)}
