"""Random training histories for matching: the situations in which banks and losses go wrong.

A case is a label space, bank sizes and a few steps; each step is a source batch and a target batch as numpy
arrays, from which both the oracle and the library are fed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORE = 255
KINDS = (
    "ordinary",
    "absent-classes",
    "all-ignored",
    "one-pixel",
    "giant-region",
    "wrap-around",
    "larger-than-bank",
    "no-stuff",
    "no-things",
    "many-instances",
)


@dataclass(frozen=True)
class Step:
    """One training step: features (B, D, h, w), logits (B, K, h, w), labels (B, H, W)."""

    source_features: NDArray[np.float32]
    source_labels: NDArray[np.int64]
    source_logits: NDArray[np.float32]
    target_features: NDArray[np.float32]
    target_logits: NDArray[np.float32]
    pseudo_labels: NDArray[np.int64] | None


@dataclass(frozen=True)
class Case:
    """A label space, bank sizes, and the steps."""

    classes: int
    stuff: tuple[int, ...]
    things: tuple[int, ...]
    feature_dim: int
    capacity: int
    max_instances: int
    steps: tuple[Step, ...]
    head: NDArray[np.float32]  # (K, D), for the agreement filter


def random_case(kind: str, seed: int) -> Case:
    """The case of this kind and seed; the same on every machine."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    classes = int(rng.integers(3, 8))
    ids = rng.permutation(classes)
    cut = {"no-stuff": 0, "no-things": classes}.get(kind, int(rng.integers(1, classes)))
    unmatched = int(rng.integers(0, 2)) if 0 < cut < classes - 1 else 0  # a class that is neither
    batch, steps, capacity = int(rng.integers(1, 3)), 3, int(rng.integers(1, 4))
    if kind == "wrap-around":
        batch, steps, capacity = 2, 5, int(rng.integers(2, 4))
    if kind == "larger-than-bank":
        batch, steps, capacity = int(rng.integers(4, 6)), 2, int(rng.integers(1, 3))
    height, width = (1, 1) if kind == "one-pixel" else (int(n) for n in rng.integers(3, 11, 2))
    dim = int(rng.integers(2, 7))
    head = rng.normal(size=(classes, dim)).astype(np.float32)
    scene = Scene(kind, classes, height, width, dim, head, rng)
    return Case(
        classes=classes,
        stuff=tuple(sorted(ids[:cut].tolist())),
        things=tuple(sorted(ids[cut : classes - unmatched].tolist())),
        feature_dim=dim,
        capacity=capacity,
        max_instances=int(rng.integers(1, 5)),
        steps=tuple(scene.step(batch) for _ in range(steps)),
        head=head,
    )


@dataclass(frozen=True)
class Scene:
    """Draws batches of one kind and size."""

    kind: str
    classes: int
    height: int
    width: int
    dim: int
    head: NDArray[np.float32]
    rng: np.random.Generator

    def step(self, batch: int) -> Step:
        grow = int(self.rng.integers(1, 4)), int(self.rng.integers(1, 4))
        # One pixel more than a multiple: sizes need not divide.
        rest = int(self.rng.integers(0, 2)) if min(self.height, self.width) > 2 else 0
        source = self.labels(batch)
        target = self.labels(batch)
        pseudo = self.enlarge(self.labels(batch), grow, rest) if self.rng.random() < 0.4 else None
        source_logits = self.logits(source)
        if self.kind == "all-ignored" or self.rng.random() < 0.1:
            source = np.full_like(source, IGNORE)
        return Step(
            self.features(source),
            self.enlarge(source, grow, rest),
            source_logits,
            self.features(target),
            self.logits(target),
            pseudo,
        )

    def labels(self, batch: int) -> NDArray[np.int64]:
        shape = (batch, self.height, self.width)
        present = self.rng.permutation(self.classes)
        if self.kind == "absent-classes":
            present = present[: max(1, self.classes // 3)]
        if self.kind == "giant-region":
            return np.full(shape, present[0])
        cell = 1 if self.kind == "many-instances" else int(self.rng.integers(1, 4))
        coarse = self.rng.choice(present, (batch, -(-self.height // cell), -(-self.width // cell)))
        labels = coarse.repeat(cell, 1).repeat(cell, 2)[:, : self.height, : self.width].astype(np.int64)
        labels[self.rng.random(shape) < 0.05] = IGNORE
        return labels

    def enlarge(self, labels: NDArray[np.int64], grow: tuple[int, int], rest: int) -> NDArray[np.int64]:
        large = labels.repeat(grow[0], 1).repeat(grow[1], 2)
        return np.pad(large, ((0, 0), (0, rest), (0, rest)), mode="edge")

    def features(self, labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Noise plus each pixel's row of the head, so that the filter accepts some regions and not others."""
        lean = self.head[np.where(labels == IGNORE, 0, labels)].transpose(0, 3, 1, 2)
        return (self.rng.normal(size=lean.shape) + 0.8 * lean).astype(np.float32)

    def logits(self, labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Predictions that agree with the labels on most pixels."""
        ground_truth = np.eye(self.classes)[np.where(labels == IGNORE, 0, labels)].transpose(0, 3, 1, 2)
        return (self.rng.normal(size=ground_truth.shape) + 3 * ground_truth).astype(np.float32)
