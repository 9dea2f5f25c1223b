"""Pseudo-labels of the target training pictures: one pass for the thresholds, one for the files.

Both passes stream; what is kept of the whole data set is one histogram per class, and on disk one
byte per pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stuffinstance as si

from ..batches.pseudo_labelled import read_label_map, write_label_map
from ..batches.streams import as_unit_floats, collate, in_order
from ..batches.training_data import fingerprint
from ..data import Sample, SegmentationDataset
from ..recipes.settings import PseudoLabels
from ..records.progress import Tick, silent
from ..records.written_files import read_json, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Kept:
    """What the thresholds left, by class name."""

    thresholds: dict[str, float]
    kept: dict[str, float]
    kept_total: float
    predicted_pixels: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """The content of ``thresholds.json``."""
        return {
            "thresholds": self.thresholds,
            "kept": self.kept,
            "kept_total": self.kept_total,
            "predicted_pixels": self.predicted_pixels,
        }


@torch.no_grad()
def upsampled_probabilities(network: nn.Module, images: Tensor) -> Tensor:
    """Softmax first, then bilinear to picture size, in the order the authors have it: (B, K, H, W)."""
    probabilities = network(images).logits.float().softmax(1)
    return F.interpolate(probabilities, images.shape[-2:], mode="bilinear", align_corners=True)


def write_pseudo_labels(
    network: nn.Module,
    dataset: SegmentationDataset,
    folder: Path,
    settings: PseudoLabels,
    space: si.LabelSpace,
    device: torch.device,
    *,
    weights_sha256: str,
    batch: int = 1,
    tick: Tick = silent,
) -> Kept:
    """Write ``<name>.png`` for every picture, and ``manifest.json``, which says what they belong to.

    The manifest is written once the thresholds are known and completed at the end. Where it is already
    about these weights, settings, classes and pictures, only the files that are missing are written, with
    its thresholds; where it is about others or there is none, everything is written again.
    """
    wanted = {
        "weights_sha256": weights_sha256,
        "quantile": settings.quantile,
        "cap": settings.cap,
        "classes": list(space.names),
        "target": fingerprint(dataset),
        "size": list(dataset[0].image.shape[-2:]),
    }
    manifest = folder / MANIFEST
    found = read_json(manifest) if manifest.is_file() else {}
    begun = all(found.get(key) == value for key, value in wanted.items())
    if begun and "kept" in found and not _missing(folder, dataset.names):
        return _kept(found)
    labelling = _Labelling(network, dataset, folder, settings, space, device, batch, tick)
    folder.mkdir(parents=True, exist_ok=True)
    was_training = network.training
    network.eval()
    try:
        if not begun:
            manifest.unlink(missing_ok=True)
            found = {**wanted, **labelling.find_thresholds()}
            # Only now, and before the new manifest vouches for what lies here.
            for name in dataset.names:
                _file(folder, name).unlink(missing_ok=True)
            write_json(manifest, found)
        found |= labelling.write_missing(found)
    finally:
        network.train(was_training)
    write_json(manifest, found)
    return _kept(found)


class _Labelling:
    """The two passes over the pictures."""

    def __init__(
        self,
        network: nn.Module,
        dataset: SegmentationDataset,
        folder: Path,
        settings: PseudoLabels,
        space: si.LabelSpace,
        device: torch.device,
        batch: int,
        tick: Tick,
    ) -> None:
        self.network, self.dataset, self.folder, self.space = network, dataset, folder, space
        self.device, self.batch, self.tick = device, batch, tick
        self.rule = si.ClassBalancedThreshold(
            space.num_classes, quantile=settings.quantile, cap=settings.cap, ignore_index=space.ignore_index
        ).to(device)

    def find_thresholds(self) -> dict[str, Any]:
        """The first pass: thresholds and predicted pixels by class name."""
        done, total = 0, 2 * len(self.dataset)
        for samples in in_order(self.dataset, self.batch):
            self.rule.update(self._probabilities(samples))
            done += len(samples)
            self.tick(done, total)
        return {
            "thresholds": self._by_name(self.rule.compute()),
            "predicted_pixels": self._by_name(self.rule.counts()),
        }

    def write_missing(self, found: dict[str, Any]) -> dict[str, Any]:
        """The second pass: the files that are not there yet; the shares kept, of all files."""
        names = self.space.names
        thresholds = torch.tensor([found["thresholds"][name] for name in names], dtype=torch.float64)
        kept = torch.zeros(256, dtype=torch.int64)
        done = len(self.dataset)
        for first in range(0, len(self.dataset), self.batch):
            # A batch is worked on whole or not at all: its size may move the last bit of a probability.
            together = range(first, min(first + self.batch, len(self.dataset)))
            missing = _missing(self.folder, [self.dataset.names[i] for i in together])
            if missing:
                samples = [self.dataset[i] for i in together]
                labels = self.rule.pseudo_labels(self._probabilities(samples), thresholds).cpu()
                for sample, label_map in zip(samples, labels, strict=True):
                    if sample.name in missing:
                        write_label_map(label_map, _file(self.folder, sample.name))
            for i in together:
                label_map = read_label_map(_file(self.folder, self.dataset.names[i]))
                kept += torch.bincount(label_map.flatten().long(), minlength=256)
            done += len(together)
            self.tick(done, 2 * len(self.dataset))
        predicted = torch.tensor([found["predicted_pixels"][name] for name in names])
        kept = kept[: self.space.num_classes]
        return {
            "kept": self._by_name(kept / predicted.clamp(min=1)),
            "kept_total": float(kept.sum() / predicted.sum().clamp(min=1)),
        }

    def _probabilities(self, samples: list[Sample]) -> Tensor:
        return upsampled_probabilities(self.network, as_unit_floats(collate(samples).images, self.device))

    def _by_name(self, values: Tensor) -> dict[str, Any]:
        return dict(zip(self.space.names, values.tolist(), strict=True))


def _kept(manifest: dict[str, Any]) -> Kept:
    return Kept(**{field: manifest[field] for field in Kept.__dataclass_fields__})


def _missing(folder: Path, names: Sequence[str]) -> set[str]:
    return {name for name in names if not _file(folder, name).is_file()}


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.png"
