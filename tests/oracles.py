"""Slow, plain versions of everything the library computes, written from the equations.

Nothing here imports the library, so that an error in it cannot repeat itself here. Loops over pixels,
lists and float64 everywhere: what can be read is worth more than what is fast.
Labels are integer arrays (H, W), features (D, h, w), logits (K, h, w): always a single image.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

IGNORE = 255
EDGES = ((-1, 0), (0, -1), (0, 1), (1, 0))
CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


# ------------------------------------------------------------------ labels


def resize_nearest(labels: Labels, height: int, width: int) -> Labels:
    """Pixel (i, j) of the result is pixel (floor(i H / h), floor(j W / w)), in whole numbers."""
    rows, columns = labels.shape
    result = np.empty((height, width), dtype=np.int64)
    for i in range(height):
        for j in range(width):
            result[i, j] = labels[i * rows // height, j * columns // width]
    return result


def majority_labels(labels: Labels, height: int, width: int, fraction: float, ignore: int = IGNORE) -> Labels:
    """Every cell's most frequent class, the smallest of equals, where it fills enough of the cell."""
    labels = resize_nearest(labels, max(len(labels), height), max(labels.shape[1], width))
    found: dict[tuple[int, int], list[int]] = {}
    for (r, s), label in np.ndenumerate(labels):
        found.setdefault((r * height // labels.shape[0], s * width // labels.shape[1]), []).append(int(label))
    result = np.full((height, width), ignore)
    for cell, ids in found.items():
        classes = sorted(set(ids) - {ignore})
        best = max(classes, key=ids.count, default=ignore)
        if best != ignore and ids.count(best) / len(ids) >= fraction:
            result[cell] = best
    return result


def correct_labels(labels: Labels, logits: Array, ignore: int = IGNORE) -> Labels:
    """Eq. 4: the ground truth where the prediction is right, ignored elsewhere."""
    small = resize_nearest(labels, *logits.shape[1:])
    return np.where(small == logits.argmax(0), small, ignore)


def merge_pseudo_labels(predicted: Labels, pseudo: Labels, ignore: int = IGNORE) -> Labels:
    """Eq. 11: a pseudo-label, where there is one, replaces the prediction."""
    small = resize_nearest(pseudo, *predicted.shape)
    return np.where(small == ignore, predicted, small)


# ------------------------------------------------------------------ regions


def components(
    labels: Labels, connectivity: int = 8, classes: tuple[int, ...] | None = None, ignore: int | None = IGNORE
) -> NDArray[np.int32]:
    """Flood fill from each pixel in raster order that has no number yet."""
    neighbors = EDGES if connectivity == 4 else EDGES + CORNERS
    height, width = labels.shape
    numbers = np.zeros((height, width), dtype=np.int32)
    count = 0
    for start in np.ndindex(height, width):
        label = labels[start]
        if numbers[start] or label == ignore or (classes is not None and label not in classes):
            continue
        count += 1
        numbers[start] = count
        queue = deque([start])
        while queue:
            i, j = queue.popleft()
            for di, dj in neighbors:
                p = (i + di, j + dj)
                if 0 <= p[0] < height and 0 <= p[1] < width and not numbers[p] and labels[p] == label:
                    numbers[p] = count
                    queue.append(p)
    return numbers


@dataclass
class Region:
    """One connected region: its number in the component map, area and mask."""

    number: int
    area: int
    mask: NDArray[np.bool_]


def largest_regions(
    labels: Labels,
    classes: tuple[int, ...],
    most: int,
    connectivity: int = 8,
    ignore: int = IGNORE,
) -> list[list[Region]]:
    """Per class the ``most`` largest regions, large before small, equal areas in raster order."""
    numbers = components(labels, connectivity, classes, ignore)
    result: list[list[Region]] = []
    for k in classes:
        found = []
        if k != ignore:
            for number in sorted(set(numbers[labels == k].tolist()) - {0}):
                mask = numbers == number
                found.append(Region(number, int(mask.sum()), mask))
        found.sort(key=lambda region: (-region.area, region.number))
        result.append(found[:most])
    return result


def mean_of(features: Array, mask: NDArray[np.bool_]) -> Array:
    """Mean feature of the pixels in the mask (which is not empty)."""
    total = np.zeros(features.shape[0])
    count = 0
    for i, j in zip(*np.nonzero(mask), strict=True):
        total += features[:, i, j]
        count += 1
    return total / count


def region_means(features: Array, regions: NDArray[np.int32], count: int) -> Array:
    """Rows 0..count-1 are the means over the pixels numbered 1..count; zeros where a region has no pixel."""
    rows = np.zeros((count, features.shape[0]))
    for number in range(1, count + 1):
        if (regions == number).any():
            rows[number - 1] = mean_of(features, regions == number)
    return rows


# ------------------------------------------------------------------ banks and losses


class ListBank:
    """A ring of rows per class, as plain lists: row n goes to slot n mod capacity."""

    def __init__(self, classes: tuple[int, ...], capacity: int) -> None:
        self.classes = classes
        self.capacity = capacity
        self.slots: dict[int, list[Array | None]] = {k: [None] * capacity for k in classes}
        self.written = dict.fromkeys(classes, 0)

    def append(self, k: int, row: Array) -> None:
        self.slots[k][self.written[k] % self.capacity] = row
        self.written[k] += 1

    def rows(self, k: int) -> list[Array]:
        return [row for row in self.slots[k] if row is not None]


def distance(kind: str, a: Array, b: Array) -> tuple[float, Array]:
    """The distance of two rows and its derivative with respect to the first."""
    difference = a - b
    if kind == "l1_mean":
        return float(np.abs(difference).mean()), np.sign(difference) / len(a)
    if kind == "l1_squared":
        norm = float(np.abs(difference).sum())
        return norm**2, 2 * norm * np.sign(difference)
    if kind == "l2":
        norm = float(np.sqrt((difference**2).sum()))
        return norm, difference / norm if norm else np.zeros_like(a)
    if kind == "cosine":
        la, lb = float(np.linalg.norm(a)), float(np.linalg.norm(b))
        cosine = float(a @ b) / (la * lb)
        return 1 - cosine, -(b / (la * lb) - cosine * a / la**2)
    raise ValueError(kind)


@dataclass
class Sim:
    """Stuff and instance matching for one image at a time, in either preset."""

    stuff: tuple[int, ...]
    things: tuple[int, ...]
    capacity: int
    max_instances: int
    preset: str = "code"
    head: Array | None = None  # (K, D): a linear classifier without bias
    connectivity: int = 8
    ignore: int = IGNORE
    kind: str = ""
    require_full_bank: bool = field(init=False)
    stuff_bank: ListBank = field(init=False)
    instance_bank: ListBank = field(init=False)

    def __post_init__(self) -> None:
        self.require_full_bank = self.preset == "code"
        self.kind = self.kind or {"code": "l1_mean", "paper": "l1_squared"}[self.preset]
        self.stuff_bank = ListBank(self.stuff, self.capacity)
        self.instance_bank = ListBank(self.things, self.capacity * self.max_instances)

    def accepts(self, row: Array, k: int) -> bool:
        return self.head is None or int((self.head @ row).argmax()) == k

    def regions(self, labels: Labels) -> list[list[Region]]:
        return largest_regions(labels, self.things, self.max_instances, self.connectivity, self.ignore)

    def update(self, features: Array, labels: Labels, logits: Array) -> None:
        """Eq. 4, Eq. 5 and Algorithm 1."""
        correct = correct_labels(labels, logits, self.ignore)
        for k in self.stuff:
            if (correct == k).any():
                self._write(self.stuff_bank, k, mean_of(features, correct == k))
        for k, regions in zip(self.things, self.regions(correct), strict=True):
            for region in regions:
                self._write(self.instance_bank, k, mean_of(features, region.mask))

    def _write(self, bank: ListBank, k: int, row: Array) -> None:
        if np.isfinite(row).all() and self.accepts(row, k):
            bank.append(k, row)

    def losses(self, features: Array, logits: Array, pseudo: Labels | None = None) -> tuple[float, Array, float, Array]:
        """Eq. 6 and Eq. 8, each with its gradient with respect to the features."""
        predicted = logits.argmax(0)
        if pseudo is not None:
            predicted = merge_pseudo_labels(predicted, pseudo, self.ignore)
        return (*self.stuff_loss(features, predicted), *self.instance_loss(features, predicted))

    def stuff_loss(self, features: Array, labels: Labels) -> tuple[float, Array]:
        total, gradient = 0.0, np.zeros_like(features)
        for k in self.stuff:
            mask = labels == k
            if k == self.ignore or not mask.any():
                continue
            row = mean_of(features, mask)
            if self.accepts(row, k):
                value, slope = self._nearest(self.stuff_bank, k, row)
                total += value
                gradient[:, mask] += slope[:, None] / mask.sum()
        return total, gradient

    def instance_loss(self, features: Array, labels: Labels) -> tuple[float, Array]:
        total, gradient = 0.0, np.zeros_like(features)
        for k, regions in zip(self.things, self.regions(labels), strict=True):
            for region in regions:
                value, slope = self._nearest(self.instance_bank, k, mean_of(features, region.mask))
                total += value / len(regions)
                gradient[:, region.mask] += slope[:, None] / (region.area * len(regions))
        return total, gradient

    def _nearest(self, bank: ListBank, k: int, row: Array) -> tuple[float, Array]:
        rows = bank.rows(k)
        if not rows or (self.require_full_bank and bank.written[k] / bank.capacity <= 1):
            return 0.0, np.zeros_like(row)
        return min((distance(self.kind, row, other) for other in rows), key=lambda pair: pair[0])


# ------------------------------------------------------------------ pseudo-labels, scores, adversary


def softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(0, keepdims=True))
    return shifted / shifted.sum(0, keepdims=True)


def class_thresholds(probabilities: list[Array], quantile: float = 0.5, cap: float = 0.9) -> Array:
    """Per class number round(n q) of its sorted confidences, capped; 0 where a class was not predicted."""
    result = np.zeros(probabilities[0].shape[0])
    for k in range(len(result)):
        found: list[float] = []
        for image in probabilities:
            found += image.max(0)[image.argmax(0) == k].tolist()
        found.sort()
        if found:
            index = min(round(len(found) * quantile), len(found) - 1)  # round() is half to even
            result[k] = min(found[index], cap)
    return result


def confusion(predictions: Labels, labels: Labels, classes: int, ignore: int = IGNORE) -> Labels:
    """Rows are the ground truth, columns the prediction."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for ground_truth, guess in zip(labels.ravel().tolist(), predictions.ravel().tolist(), strict=True):
        if ground_truth != ignore:
            matrix[ground_truth, guess] += 1
    return matrix


def iou(matrix: Labels) -> Array:
    """Per class; NaN where the class is neither in the ground truth nor predicted."""
    result = np.full(len(matrix), np.nan)
    for k in range(len(matrix)):
        union = matrix[k].sum() + matrix[:, k].sum() - matrix[k, k]
        if union:
            result[k] = matrix[k, k] / union
    return result


def binary_cross_entropy(outputs: Array, label: int) -> float:
    """Mean of -log P(label) where P(1) is the sigmoid of the output."""
    signed = outputs if label == 1 else -outputs
    return float(np.log1p(np.exp(-signed)).mean())
