"""Pseudo-labels of the target by one of the library's threshold rules, written as PNG files."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stuffinstance as si

from ..atomic_io import read_json, write_json
from ..data.loader import Samples, as_unit_floats, collate
from ..data.training_data import read_label_map, write_label_map
from ..distributed import all_reduce_sum, on_rank_zero, own_batches
from ..input_files import sampled_digest
from ..methods.pseudo_labels import PseudoLabelConfig
from ..run_dir import Tick, silent
from .evaluation import finite_logits

RULES: dict[str, Callable[[PseudoLabelConfig, si.LabelSpace], si.PseudoLabelThreshold | si.SymmetricConsistency]] = {
    "median": lambda settings, space: si.ClassBalancedThreshold(
        space.num_classes, settings.quantile, settings.cap, space.ignore_index
    ),
    # Every confidence reaches a threshold of 0.
    "argmax": lambda settings, space: si.ClassBalancedThreshold(
        space.num_classes, quantile=0.0, cap=0.0, ignore_index=space.ignore_index
    ),
    "portion": lambda settings, space: si.CBSTThreshold(
        space.num_classes, settings.portion, ignore_index=space.ignore_index
    ),
    "adaptive": lambda settings, space: si.IASTThreshold(
        space.num_classes,
        alpha=settings.alpha,
        beta=settings.beta,
        gamma=settings.gamma,
        ignore_index=space.ignore_index,
    ),
    "symmetric": lambda settings, space: si.SymmetricConsistency(
        si.ClassBalancedThreshold(space.num_classes, settings.quantile, settings.cap, space.ignore_index),
        settings.consistency,
    ),
}
ONLINE = {"adaptive"}  # each batch is labeled with the thresholds that it has just moved: one pass, in order


def relevant_settings(settings: PseudoLabelConfig) -> dict[str, object]:
    """The settings that decide the labels, for a manifest; not those that decide what is done with them."""
    return settings.model_dump(exclude={"weight", "divergence"})


logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
DIGESTS = "files"  # in the manifest, once all are written: a digest of each


@dataclass(frozen=True)
class View:
    """A network, and images as it sees them in training."""

    network: nn.Module
    images: Samples


@dataclass(frozen=True)
class Kept:
    """Thresholds and kept fractions by class name."""

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
    """Softmax first, then bilinear to image size, in the order the authors have it: (B, K, H, W)."""
    probabilities = finite_logits(network, images).softmax(1)
    return F.interpolate(probabilities, images.shape[-2:], mode="bilinear", align_corners=True)


def write_pseudo_labels(
    views: Sequence[View],
    folder: Path,
    settings: PseudoLabelConfig,
    space: si.LabelSpace,
    device: torch.device,
    *,
    belongs_to: dict[str, Any],
    batch: int = 1,
    tick: Tick = silent,
) -> Kept:
    """Write ``<name>.png`` for every image, and ``manifest.json``, which says what they belong to.

    The manifest is written once the thresholds are known and completed at the end. Where it is already about the same
    weights, settings, classes and images, only the files that are missing, or are not those that were written, are
    written, with its thresholds; otherwise everything is written again.

    Args:
        views: The networks that label, each with the same images as it sees them; as many as the rule takes.
        folder: Where to.
        settings: Which labels are kept.
        space: The networks' classes.
        device: Where the networks are.
        belongs_to: What else decides the labels: the weights and the images.
        batch: Images of a batch.
        tick: Called with (images done, images in all).
    """
    names = views[0].images.names
    wanted = {
        **belongs_to,
        **json.loads(json.dumps(relevant_settings(settings))),
        "classes": list(space.names),
        "size": list(views[0].images[0].image.shape[-2:]),
    }
    manifest = folder / MANIFEST
    found = on_rank_zero(lambda: read_json(manifest) if manifest.is_file() else {})
    begun = all(found.get(key) == value for key, value in wanted.items())
    if begun:
        on_rank_zero(lambda: _remove_changed(folder, found.get(DIGESTS, {})))
    missing = on_rank_zero(lambda: bool(_missing(folder, names)))
    if begun and "kept" in found and not missing:
        return _kept(found)
    labeling = _Labeling(views, folder, settings, space, device, batch, tick)
    if begun and labeling.online and missing:
        begun = False  # the thresholds that the missing ones were labeled with are gone
    on_rank_zero(lambda: folder.mkdir(parents=True, exist_ok=True))
    were_training = [view.network.training for view in views]
    for view in views:
        view.network.eval()
    try:
        if not begun:
            on_rank_zero(lambda: manifest.unlink(missing_ok=True))
            found = {**wanted, **labeling.find_thresholds()}
            on_rank_zero(lambda: write_json(manifest, found))
        found |= labeling.write_missing(found)
    finally:
        for view, training in zip(views, were_training, strict=True):
            view.network.train(training)
    on_rank_zero(lambda: write_json(manifest, {**found, DIGESTS: _digests(folder, names)}))
    return _kept(found)


class _Labeling:
    """One or two runs through the images: thresholds, then labels."""

    def __init__(
        self,
        views: Sequence[View],
        folder: Path,
        settings: PseudoLabelConfig,
        space: si.LabelSpace,
        device: torch.device,
        batch: int,
        tick: Tick,
    ) -> None:
        self.views, self.folder, self.space = views, folder, space
        self.names = views[0].images.names
        self.device, self.batch, self.tick = device, batch, tick
        self.rule = RULES[settings.rule](settings, space).to(device)
        self.online = settings.rule in ONLINE

    def find_thresholds(self) -> dict[str, Any]:
        """The first pass: thresholds and predicted pixels by class name; no file of other thresholds survives it."""
        if self.online:
            on_rank_zero(self._remove_files)
        for together in own_batches(len(self.names), self.batch, even=self.online):
            probabilities = self._probabilities(together)
            self.rule.update(*probabilities)
            if self.online:
                self._write(together, self.rule.pseudo_labels(*probabilities))
            self.tick(together.stop, 2 * len(self.names))
        found = {
            "thresholds": self._by_name(self.rule.compute()),
            "predicted_pixels": self._by_name(self.rule.counts()),
        }
        if not self.online:
            on_rank_zero(self._remove_files)  # only now, and before a new manifest vouches for what lies here
        return found

    def write_missing(self, found: dict[str, Any]) -> dict[str, Any]:
        """The second pass: the files that are not there yet; the shares kept, of all files."""
        thresholds = torch.tensor([found["thresholds"][name] for name in self.space.names], dtype=torch.float64)
        kept = torch.zeros(256, dtype=torch.int64)
        for together in own_batches(len(self.names), self.batch):
            # A batch is worked on whole or not at all: its size may move the last bit of a probability.
            if _missing(self.folder, [self.names[i] for i in together]):
                labels = self.rule.pseudo_labels(*self._probabilities(together), thresholds=thresholds)
                self._write(together, labels)
            for i in together:
                label_map = read_label_map(_file(self.folder, self.names[i]))
                kept += torch.bincount(label_map.flatten().long(), minlength=256)
            self.tick(len(self.names) + together.stop, 2 * len(self.names))
        predicted = torch.tensor([found["predicted_pixels"][name] for name in self.space.names])
        kept = all_reduce_sum(kept)[: self.space.num_classes]
        return {
            "kept": self._by_name(kept / predicted.clamp(min=1)),
            "kept_total": float(kept.sum() / predicted.sum().clamp(min=1)),
        }

    def _probabilities(self, together: range) -> list[Tensor]:
        """One map for each network."""
        maps = []
        for view in self.views:
            images = collate([view.images[i] for i in together or (0,)]).images[: len(together)]
            if not together:  # this rank has no image left, and the others wait for its part
                maps.append(torch.zeros(0, self.space.num_classes, *images.shape[-2:], device=self.device))
                continue
            maps.append(upsampled_probabilities(view.network, as_unit_floats(images, self.device)))
        return maps

    def _write(self, together: range, labels: Tensor) -> None:
        for i, label_map in zip(together, labels.cpu(), strict=True):
            if not _file(self.folder, self.names[i]).is_file():
                write_label_map(label_map, _file(self.folder, self.names[i]))

    def _remove_files(self) -> None:
        for name in self.names:
            _file(self.folder, name).unlink(missing_ok=True)

    def _by_name(self, values: Tensor) -> dict[str, Any]:
        return dict(zip(self.space.names, values.tolist(), strict=True))


def _kept(manifest: dict[str, Any]) -> Kept:
    return Kept(**{field: manifest[field] for field in Kept.__dataclass_fields__})


def _digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    return {name: sampled_digest(_file(folder, name)) for name in names}


def _remove_changed(folder: Path, digests: Mapping[str, str]) -> None:
    """Remove the files that are not what was written, so that they are written again."""
    changed = [
        name
        for name, digest in digests.items()
        if (file := _file(folder, name)).is_file() and sampled_digest(file) != digest
    ]
    if changed:
        logger.warning(
            "pseudo-labels %s: %d files have changed since they were written, such as %s.png; they are written again.",
            folder,
            len(changed),
            min(changed),
        )
    for name in changed:
        _file(folder, name).unlink()


def _missing(folder: Path, names: Sequence[str]) -> set[str]:
    return {name for name in names if not _file(folder, name).is_file()}


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.png"
