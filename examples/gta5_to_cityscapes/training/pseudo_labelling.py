"""Pseudo-labels of the target training pictures: one pass for the thresholds, one for the files.

Both passes stream; what is kept of the whole data set is one histogram per class, and on disk one
byte per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stuffinstance as si

from ..batches.pseudo_labelled import write_label_map
from ..batches.streams import Samples, as_unit_floats, collate, in_order
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
    dataset: Samples,
    folder: Path,
    settings: PseudoLabels,
    space: si.LabelSpace,
    device: torch.device,
    *,
    checkpoint_sha256: str,
    batch: int = 1,
    tick: Tick = silent,
) -> Kept:
    """Write ``<name>.png`` for every picture and, last, ``manifest.json``.

    A folder whose manifest is already about this checkpoint, these settings and these pictures is
    taken as it is; without a manifest it is unfinished and everything is written again.
    """
    wanted = {
        "checkpoint_sha256": checkpoint_sha256,
        "quantile": settings.quantile,
        "cap": settings.cap,
        "pictures": len(dataset),
        "size": list(dataset[0].image.shape[-2:]),
    }
    manifest = folder / MANIFEST
    if manifest.is_file():
        found = read_json(manifest)
        if all(found.get(key) == value for key, value in wanted.items()):
            return Kept(**{field: found[field] for field in Kept.__dataclass_fields__})
        manifest.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    was_training = network.training
    network.eval()
    try:
        kept = _two_passes(network, dataset, folder, settings, space, device, batch, tick)
    finally:
        network.train(was_training)
    write_json(manifest, {**wanted, **kept.as_json()})
    return kept


def _two_passes(
    network: nn.Module,
    dataset: Samples,
    folder: Path,
    settings: PseudoLabels,
    space: si.LabelSpace,
    device: torch.device,
    batch: int,
    tick: Tick,
) -> Kept:
    rule = si.ClassBalancedThreshold(
        space.num_classes, quantile=settings.quantile, cap=settings.cap, ignore_index=space.ignore_index
    ).to(device)
    done, total = 0, 2 * len(dataset)
    for pictures in map(collate, in_order(dataset, batch)):
        rule.update(upsampled_probabilities(network, as_unit_floats(pictures.images, device)))
        done += len(pictures.names)
        tick(done, total)
    kept = torch.zeros(256, dtype=torch.int64)
    for pictures in map(collate, in_order(dataset, batch)):
        probabilities = upsampled_probabilities(network, as_unit_floats(pictures.images, device))
        labels = rule.pseudo_labels(probabilities).cpu()
        for name, label_map in zip(pictures.names, labels, strict=True):
            write_label_map(label_map, folder / f"{name}.png")
        kept += torch.bincount(labels.flatten(), minlength=256)
        done += len(pictures.names)
        tick(done, total)
    return _summary(rule, kept[: space.num_classes], space)


def _summary(rule: si.ClassBalancedThreshold, kept: Tensor, space: si.LabelSpace) -> Kept:
    predicted = rule.counts().cpu()
    shares = kept / predicted.clamp(min=1)
    names = space.names
    return Kept(
        thresholds=dict(zip(names, rule.compute().tolist(), strict=True)),
        kept=dict(zip(names, shares.tolist(), strict=True)),
        kept_total=float(kept.sum() / predicted.sum().clamp(min=1)),
        predicted_pixels=dict(zip(names, predicted.long().tolist(), strict=True)),
    )
