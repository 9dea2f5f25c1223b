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
from ..data.training_data import write_label_map
from ..distributed import all_reduce_sum, on_rank_zero, own_batches
from ..input_files import sampled_digest
from ..methods.pseudo_labels import PseudoLabelConfig
from ..run_dir import Tick, silent
from .evaluation import eval_mode, finite_logits

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


logger = logging.getLogger(__name__)


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
        return dict(vars(self))


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

    The manifest is written last. Where it is about the same weights, settings, classes and images, and the files are
    those that were written, nothing is written again.

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
    files = {name: folder / f"{name}.png" for name in views[0].images.names}
    manifest = folder / "manifest.json"
    belongs_to = {
        **belongs_to,
        **json.loads(settings.model_dump_json(exclude={"weight", "divergence"})),  # not what is done with the labels
        "classes": list(space.names),
        "size": list(views[0].images[0].image.shape[-2:]),
    }
    found = on_rank_zero(lambda: _finished(manifest, belongs_to, files))
    if found is not None:
        return found
    on_rank_zero(lambda: manifest.unlink(missing_ok=True))
    with eval_mode([view.network for view in views]):
        kept = _Labeling(views, list(files.values()), settings, space, device, batch, tick).write()
    on_rank_zero(lambda: write_json(manifest, {**belongs_to, **kept.as_json(), "files": _digests(files)}))
    return kept


def _finished(manifest: Path, belongs_to: Mapping[str, Any], files: Mapping[str, Path]) -> Kept | None:
    """What a manifest holds; None where it is about other labels, or a file is not what was written."""
    found = read_json(manifest) if manifest.is_file() else {}
    if not found or any(found.get(key) != value for key, value in belongs_to.items()):
        return None
    digests = _digests(files)
    changed = [name for name in files if digests[name] != found.get("files", {}).get(name)]
    if changed:
        logger.warning(
            "pseudo-labels %s: %d files are gone or have changed since they were written, such as %s; all are written "
            "again.",
            manifest.parent,
            len(changed),
            files[min(changed)].name,
        )
        return None
    return Kept(**{field: found[field] for field in Kept.__dataclass_fields__})


def _digests(files: Mapping[str, Path]) -> dict[str, str | None]:
    return {name: sampled_digest(file) if file.is_file() else None for name, file in files.items()}


class _Labeling:
    """The images twice: thresholds, then labels; an online rule labels in the first pass."""

    def __init__(
        self,
        views: Sequence[View],
        files: Sequence[Path],
        settings: PseudoLabelConfig,
        space: si.LabelSpace,
        device: torch.device,
        batch: int,
        tick: Tick,
    ) -> None:
        self.views, self.files, self.space = views, files, space
        self.device, self.batch, self.tick = device, batch, tick
        self.rule = RULES[settings.rule](settings, space).to(device)
        self.online = settings.rule in ONLINE
        self.kept = torch.zeros(256, dtype=torch.int64)  # pixels of each class with a label

    def write(self) -> Kept:
        """Write all files."""
        passes = 1 if self.online else 2
        for together in own_batches(len(self.files), self.batch, even=self.online):
            probabilities = self._probabilities(together)
            self.rule.update(*probabilities)
            if self.online:
                self._write(together, self.rule.pseudo_labels(*probabilities))
            self.tick(together.stop, passes * len(self.files))
        thresholds, predicted = self.rule.compute(), self.rule.counts()
        for together in () if self.online else own_batches(len(self.files), self.batch):
            self._write(together, self.rule.pseudo_labels(*self._probabilities(together), thresholds=thresholds))
            self.tick(len(self.files) + together.stop, 2 * len(self.files))
        kept = all_reduce_sum(self.kept)[: self.space.num_classes]
        predicted = predicted.cpu()
        return Kept(
            self._by_name(thresholds),
            self._by_name(kept / predicted.clamp(min=1)),
            float(kept.sum() / predicted.sum().clamp(min=1)),
            self._by_name(predicted),
        )

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
            self.kept += torch.bincount(label_map.flatten(), minlength=256)
            write_label_map(label_map, self.files[i])

    def _by_name(self, values: Tensor) -> dict[str, Any]:
        return dict(zip(self.space.names, values.tolist(), strict=True))
