"""Random batches for category anchors, and anchors and their distance in loops, as the formulas are written."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import stuffinstance as si
from tests.label_maps import IGNORE, blocks

K, D = 4, 3
Array = NDArray[Any]


def batch(seed: int, images: int = 3, height: int = 8, width: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels of every class and of none, and logits that are right at about half of the pixels."""
    generator = torch.Generator().manual_seed(seed)
    labels = blocks(height, width, (0, 1, 2, 3, IGNORE), seed, images, cell=2)
    logits = torch.randn(images, K, height, width, generator=generator)
    logits += torch.nn.functional.one_hot(labels.clamp(max=K - 1), K).movedim(3, 1)
    return torch.randn(images, D, height, width, generator=generator), labels, logits


def agreed(labels: Tensor, logits: Tensor) -> Array:
    ground_truth, predicted = labels.numpy(), logits.numpy().argmax(1)
    return np.where(ground_truth == predicted, ground_truth, IGNORE)


class PlainAnchors:
    """Image by image and class by class, as the formula is written."""

    def __init__(self, classes: int, min_pixels: int, max_count: int) -> None:
        self.mean: dict[int, Array] = {}
        self.count = [0] * classes
        self.min_pixels, self.max_count = min_pixels, max_count

    def update(self, features: Array, labels: Array) -> None:
        for image, ground_truth in zip(features.astype(np.float64), labels, strict=True):
            for c in range(len(self.count)):
                pixels = [image[:, y, x] for y, x in zip(*np.nonzero(ground_truth == c), strict=True)]
                if len(pixels) < self.min_pixels:
                    continue
                row = sum(pixels) / len(pixels)
                if not np.isfinite(row).all():
                    continue
                n = self.count[c]
                self.mean[c] = (n * self.mean.get(c, 0) + row) / (n + 1)
                self.count[c] = min(n + 1, self.max_count)

    def assign(self, features: Array, margin: float) -> Array:
        result = np.full((features.shape[0], *features.shape[2:]), IGNORE)
        for b, y, x in np.ndindex(result.shape):
            pixel = features[b, :, y, x]
            ranked = sorted((float(np.sqrt(((a - pixel) ** 2).sum())), c) for c, a in self.mean.items())
            if len(ranked) > 1 and ranked[1][0] - ranked[0][0] >= margin:
                result[b, y, x] = ranked[0][1]
        return result


def check_state(anchors: si.CategoryAnchors, plain: PlainAnchors, atol: float = 1e-12) -> None:
    assert anchors.count.tolist() == plain.count
    for c in range(len(plain.count)):
        np.testing.assert_allclose(anchors.anchors_in(torch.float64)[c], plain.mean.get(c, np.zeros(D)), atol=atol)


def plain_loss(features: Array, labels: Array, plain: PlainAnchors, damp_above: float | None) -> tuple[float, Array]:
    """The code's form and its scaled gradient, region by region."""
    terms, slopes = [], []
    pixels = features.shape[2] * features.shape[3]
    for b, ground_truth in enumerate(labels):
        for c, anchor in plain.mean.items():
            inside = ground_truth == c
            if inside.sum() < plain.min_pixels:
                continue
            apart = features[b][:, inside].mean(1) - anchor
            term = np.where(abs(apart) < 1, apart**2 / 2, abs(apart) - 0.5).mean()
            slope = np.clip(apart, -1, 1) / len(apart)
            while damp_above is not None and term > damp_above:
                term, slope = term / 10, slope / 10
            terms.append(term)
            spread = np.zeros_like(features)
            spread[b][:, inside] = (slope * 2 * inside.sum() / pixels / inside.sum())[:, None]
            slopes.append(spread)
    n = max(1, len(terms))
    return 10 * sum(terms) / n, 10 * sum(slopes, np.zeros_like(features)) / n


def filled(min_pixels: int = 4, dtype: torch.dtype = torch.float64) -> tuple[si.CategoryAnchors, PlainAnchors]:
    """Anchors of three of the four classes."""
    anchors, plain = si.CategoryAnchors(K, D, min_pixels=min_pixels), PlainAnchors(K, min_pixels, 3000)
    for seed in range(3):
        features, labels, _ = batch(seed)
        labels = torch.where(labels == 2, IGNORE, labels)
        anchors.update(features.to(dtype), labels)
        plain.update(features.numpy(), labels.numpy())
    assert anchors.filled.tolist() == [True, True, False, True]
    return anchors, plain


def recorded_anchors(recorded: dict[str, Array]) -> si.CategoryAnchors:
    features = torch.from_numpy(recorded["cag_source_features"])
    anchors = si.CategoryAnchors(19, features.shape[2])
    for step in range(len(features)):
        labels, logits = (torch.from_numpy(recorded[f"cag_source_{name}"][step]) for name in ("labels", "logits"))
        anchors.update(features[step], labels, logits)
    return anchors
