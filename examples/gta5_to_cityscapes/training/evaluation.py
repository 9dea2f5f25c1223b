"""Scores over a whole data set, never an average of batch scores, and the pictures that go with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import stuffinstance as si

from ..batches.streams import Samples, as_unit_floats, in_order
from ..data import DatasetError, Sample, picture_tensor
from ..records.progress import Tick, silent
from ..records.written_files import written_beside


@dataclass(frozen=True)
class Scores:
    """Fractions; a class that occurs neither in truth nor prediction has none and is not in the mean."""

    miou: float
    iou: dict[str, float | None]


@torch.no_grad()
def upsampled_logits(network: nn.Module, images: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B, K, H, W) at ``size`` of float images in [0, 1]."""
    logits: Tensor = network(images).logits.float()
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=True)


def evaluate(
    networks: Sequence[nn.Module],
    datasets: Sequence[Samples],
    space: si.LabelSpace,
    classes: Sequence[str],
    device: torch.device,
    *,
    picture_size: tuple[int, int] | None = None,
    batch: int = 1,
    previews: Path | None = None,
    preview_count: int = 0,
    tick: Tick = silent,
) -> Scores:
    """Mean IoU of one network, or of the mean of several networks' probabilities, for the named ``classes``.

    Args:
        networks: In whatever mode; they are left in that mode.
        datasets: For each network the labelled pictures as it sees them. Predictions are scored at the labels' size.
        space: The network's classes.
        classes: Names to score. The prediction may still be any class of the space.
        device: Where the network is.
        picture_size: (height, width) that pictures are shown to the network at, None for as they are.
        batch: Pictures at once; 1 where their sizes differ.
        previews: Folder for the first ``preview_count`` of evenly spaced pictures, as ``<k>.npz``.
        preview_count: How many of those.
        tick: Called with (pictures done, pictures in all).
    """
    score = si.MeanIoU(space.num_classes, ignore_index=space.ignore_index).to(device)
    total = len(datasets[0])
    shown = {int(i): k for k, i in enumerate(np.linspace(0, total - 1, preview_count).astype(int))}
    were_training = [network.training for network in networks]
    for network in networks:
        network.eval()
    done = 0
    try:
        for views in zip(*(in_order(dataset, batch) for dataset in datasets), strict=True):
            samples = views[0]
            labels = torch.stack([sample.labels for sample in samples]).to(device)
            outputs = [
                upsampled_logits(network, _pictures(view, picture_size, device), labels.shape[-2:])
                for network, view in zip(networks, views, strict=True)
            ]
            predictions = (outputs[0] if len(outputs) == 1 else sum(out.softmax(1) for out in outputs)).argmax(1)
            score.update(predictions, labels.long())
            for sample, prediction in zip(samples, predictions, strict=True):
                if previews is not None and done in shown:
                    _write_preview(previews / f"{shown[done]}.npz", sample, prediction)
                done += 1
            tick(done, total)
    finally:
        for network, training in zip(networks, were_training, strict=True):
            network.train(training)
    return named_scores(score, space, classes)


def named_scores(score: si.MeanIoU, space: si.LabelSpace, classes: Sequence[str]) -> Scores:
    """The scores of some classes of a space, by name."""
    ids = space.ids(tuple(classes))
    mean, per_class = score.compute(ids)
    if math.isnan(mean):
        raise DatasetError(
            f"validation pictures: expected pixels of at least one scored class ({', '.join(classes)}), "
            "got none. Choose other --classes, or look at the labels with `check`."
        )
    values = {name: float(per_class[i]) for name, i in zip(classes, ids, strict=True)}
    return Scores(mean, {name: None if math.isnan(value) else value for name, value in values.items()})


def _pictures(samples: Sequence[Sample], size: tuple[int, int] | None, device: torch.device) -> Tensor:
    return as_unit_floats(torch.stack([_at_size(sample, size) for sample in samples]), device)


def _at_size(sample: Sample, size: tuple[int, int] | None) -> Tensor:
    if size is None or tuple(sample.image.shape[-2:]) == tuple(size):
        return sample.image
    picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
    resized = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return picture_tensor(np.array(resized, dtype=np.uint8))


def _write_preview(path: Path, sample: Sample, prediction: Tensor) -> None:
    height, width = sample.labels.shape
    image = _at_size(sample, (height, width)).permute(1, 2, 0).numpy()
    with written_beside(path) as beside, beside.open("wb") as file:
        np.savez_compressed(
            file,
            image=image,
            labels=sample.labels.numpy(),
            prediction=prediction.to(torch.uint8).cpu().numpy(),
        )
