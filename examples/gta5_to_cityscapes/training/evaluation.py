"""Scores over a whole data set, never an average of batch scores, and the pictures that go with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import stuffinstance as si

from ..batches.streams import Samples, as_unit_floats
from ..data import DatasetError, Sample, picture_tensor
from ..ranks.shares import own_batches
from ..recipes import Recipe
from ..records.progress import Tick, silent
from ..records.written_files import written_beside
from .finite_logits import finite_logits


@dataclass(frozen=True)
class Scores:
    """Fractions; a class that occurs neither in truth nor prediction has none and is not in the mean.

    ``entropy`` and ``density`` are those of the predictions, without a look at the labels.
    """

    miou: float
    iou: dict[str, float | None]
    entropy: float
    density: float


@torch.no_grad()
def upsampled_logits(network: nn.Module, images: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B, K, H, W) at ``size`` of float images in [0, 1]."""
    logits = finite_logits(network, images)
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=True)


def evaluate_recipe(
    recipe: Recipe,
    networks: Sequence[nn.Module],
    datasets: Sequence[Samples],
    device: torch.device,
    previews: Path | None = None,
) -> Scores:
    """:func:`evaluate` as a recipe says: its classes, sizes and views, and as many previews."""
    settings = recipe.evaluation
    return evaluate(
        networks,
        datasets,
        recipe.label_space,
        recipe.classes,
        device,
        picture_size=recipe.pictures.target_size,
        flip=settings.flip,
        scales=settings.scales,
        batch=settings.batch,
        previews=previews,
        preview_count=settings.previews,
    )


def evaluate(
    networks: Sequence[nn.Module],
    datasets: Sequence[Samples],
    space: si.LabelSpace,
    classes: Sequence[str],
    device: torch.device,
    *,
    picture_size: tuple[int, int] | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    batch: int = 1,
    previews: Path | None = None,
    preview_count: int = 0,
    tick: Tick = silent,
) -> Scores:
    """Mean IoU of one network, or of the mean of several networks' probabilities, for the named ``classes``.

    Entropy and density of the same probabilities are taken in the same pass. Ranks share the pictures out; all of them
    get the scores of all pictures.

    Args:
        networks: In whatever mode; they are left in that mode.
        datasets: For each network the labelled pictures as it sees them. Predictions are scored at the labels' size.
        space: The network's classes.
        classes: Names to score. The prediction may still be any class of the space.
        device: Where the network is.
        picture_size: (height, width) that pictures are shown to the network at, None for as they are.
        flip: Take the mean of the probabilities with those of the mirrored pictures.
        scales: The mean too, of pictures shown at that size times each of these, its sides rounded.
        batch: Pictures at once; 1 where their sizes differ.
        previews: Folder for the first ``preview_count`` of evenly spaced pictures, as ``<k>.npz``.
        preview_count: How many of those.
        tick: Called with (pictures done, pictures in all).
    """
    score = si.MeanIoU(space.num_classes, ignore_index=space.ignore_index).to(device)
    entropy = si.PredictionEntropy(space.num_classes).to(device)
    density = si.SoftNeighbourhoodDensity().to(device)
    total = len(datasets[0])
    shown = {int(i): k for k, i in enumerate(np.linspace(0, total - 1, preview_count).astype(int))}
    were_training = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        for together in own_batches(total, batch):
            seen = [[dataset[i] for i in together] for dataset in datasets]
            samples = seen[0]
            sizes = sorted({tuple(sample.labels.shape) for sample in samples})
            if len(sizes) > 1:
                raise DatasetError(
                    f"label maps of one batch ({len(samples)}) must have one size, got {sizes} (H, W), the "
                    f"first of {samples[0].name}. Set evaluation.batch=1, or evaluation.at=pictures."
                )
            labels = torch.stack([sample.labels for sample in samples]).to(device)
            outputs = (
                logits
                for network, pictures in zip(networks, seen, strict=True)
                for logits in _logits_of_views(network, pictures, labels.shape[-2:], device, picture_size, flip, scales)
            )
            logits = next(outputs)
            added, count = logits.softmax(1), 1
            for more in outputs:
                added += more.softmax(1)
                count += 1
            # Of a single output the logits decide: probabilities that round to the same are no tie.
            predictions = (logits if count == 1 else added).argmax(1)
            score.update(predictions, labels.long())
            probabilities = added / count
            entropy.update(probabilities)
            density.update(probabilities)
            for place, sample, prediction in zip(together, samples, predictions, strict=True):
                if previews is not None and place in shown:
                    _write_preview(previews / f"{shown[place]}.npz", sample, prediction)
            tick(together.stop, total)
    finally:
        for network, training in zip(networks, were_training, strict=True):
            network.train(training)
    return Scores(*_named(score, space, classes), entropy.compute(), density.compute())


def _named(score: si.MeanIoU, space: si.LabelSpace, classes: Sequence[str]) -> tuple[float, dict[str, float | None]]:
    """mIoU and IoU of some classes of a space, by name."""
    ids = space.ids(tuple(classes))
    mean, per_class = score.compute(ids)
    if math.isnan(mean):
        raise DatasetError(
            f"validation pictures: expected pixels of at least one scored class ({', '.join(classes)}), "
            "got none. Choose other --classes, or look at the labels with `check`."
        )
    values = {name: float(per_class[i]) for name, i in zip(classes, ids, strict=True)}
    return mean, {name: None if math.isnan(value) else value for name, value in values.items()}


def _logits_of_views(
    network: nn.Module,
    samples: Sequence[Sample],
    label_size: Sequence[int],
    device: torch.device,
    picture_size: tuple[int, int] | None,
    flip: bool,
    scales: Sequence[float],
) -> Iterator[Tensor]:
    """Logits (B, K, H, W) at the labels' size, for every scale, and mirrored back where ``flip`` is set."""
    for scale in scales:
        size = picture_size
        if scale != 1:
            height, width = picture_size or samples[0].image.shape[-2:]
            size = (max(1, round(scale * height)), max(1, round(scale * width)))
        images = _pictures(samples, size, device)
        yield upsampled_logits(network, images, label_size)
        if flip:
            yield upsampled_logits(network, images.flip(-1), label_size).flip(-1)


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
