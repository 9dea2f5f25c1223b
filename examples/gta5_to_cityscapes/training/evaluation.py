"""Evaluation over a whole data set: mIoU, label-free scores and preview images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import stuffinstance as si

from ..atomic_io import written_beside
from ..data import DatasetError, Sample, image_tensor
from ..data.loader import Samples, as_unit_floats
from ..distributed import own_batches
from ..recipes import Recipe
from ..run_dir import Tick, silent


@dataclass(frozen=True)
class Scores:
    """Fractions; a class that occurs neither in ground truth nor prediction has none and is not in the mean.

    ``entropy`` and ``density`` are those of the predictions, without a look at the labels.
    """

    miou: float
    iou: dict[str, float | None]
    entropy: float
    density: float


@contextmanager
def eval_mode(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Networks in evaluation mode within the block; afterwards each is in the mode that it was in."""
    were_training = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network, training in zip(networks, were_training, strict=True):
            network.train(training)


def finite_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, K, h, w) in float32 of images (B, 3, H, W) in [0, 1]; reads one flag from the device.

    Finite weights do not make finite logits: those of a training that diverges overflow on the way.

    Raises:
        FloatingPointError: If a logit is NaN or infinite.
    """
    logits: Tensor = network(images).logits.float()
    if not bool(torch.isfinite(logits).all()):
        raise FloatingPointError(
            "predictions: expected finite logits, got NaN or infinities: training has diverged. Lower optimizer.lr, "
            "optimizer.weight_decay or the weights of the recipe's parts, and use another --out."
        )
    return logits


@torch.no_grad()
def upsampled_logits(network: nn.Module, images: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B, K, H, W) at ``size`` of images (B, 3, H', W') in [0, 1]."""
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
        image_size=recipe.data.target_size,
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
    image_size: tuple[int, int] | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    batch: int = 1,
    previews: Path | None = None,
    preview_count: int = 0,
    tick: Tick = silent,
) -> Scores:
    """Mean IoU of one network, or of the mean of several networks' probabilities, for the named ``classes``.

    Entropy and density of the same probabilities are taken in the same pass. Ranks share the images out; all of them
    get the scores of all images.

    Args:
        networks: In whatever mode; they are left in that mode.
        datasets: For each network the labeled images as it sees them. Predictions are scored at the labels' size.
        space: The network's classes.
        classes: Names to score. The prediction may still be any class of the space.
        device: Where the network is.
        image_size: (height, width) that images are shown to the network at, None for as they are.
        flip: Take the mean of the probabilities with those of the mirrored images.
        scales: The mean too, of images shown at that size times each of these, its sides rounded.
        batch: Images of a batch; 1 where their sizes differ.
        previews: Folder for the first ``preview_count`` of evenly spaced images, as ``<k>.npz``.
        preview_count: How many of those.
        tick: Called with (images done, images in all).
    """
    score = si.MeanIoU(space.num_classes, ignore_index=space.ignore_index).to(device)
    entropy = si.PredictionEntropy(space.num_classes).to(device)
    density = si.SoftNeighborhoodDensity().to(device)
    total = len(datasets[0])
    shown = {int(i): k for k, i in enumerate(np.linspace(0, total - 1, preview_count).astype(int))}
    with eval_mode(networks):
        for together in own_batches(total, batch):
            seen = [[dataset[i] for i in together] for dataset in datasets]
            samples = seen[0]
            sizes = sorted({tuple(sample.labels.shape) for sample in samples})
            if len(sizes) > 1:
                raise DatasetError(
                    f"label maps that are scored in batches of {len(samples)} must have one size, got {sizes} (H, W), "
                    f"the first of {samples[0].name}. Set evaluation.batch=1, or evaluation.at=images."
                )
            labels = torch.stack([sample.labels for sample in samples]).to(device)
            outputs = (
                logits
                for network, images in zip(networks, seen, strict=True)
                for logits in _logits_of_views(network, images, labels.shape[-2:], device, image_size, flip, scales)
            )
            logits = next(outputs)
            added, count = logits.softmax(1), 1
            for more in outputs:
                added += more.softmax(1)
                count += 1
            # Of a single output the logits decide: probabilities that round to the same value are not a tie.
            predictions = (logits if count == 1 else added).argmax(1)
            score.update(predictions, labels.long())
            probabilities = added / count
            entropy.update(probabilities)
            density.update(probabilities)
            for place, sample, prediction in zip(together, samples, predictions, strict=True):
                if previews is not None and place in shown:
                    _write_preview(previews / f"{shown[place]}.npz", sample, prediction)
            tick(together.stop, total)
    return Scores(*_named(score, space, classes), entropy.compute(), density.compute())


def _named(score: si.MeanIoU, space: si.LabelSpace, classes: Sequence[str]) -> tuple[float, dict[str, float | None]]:
    """mIoU and IoU of some classes of a space, by name."""
    ids = space.ids(tuple(classes))
    mean, per_class = score.compute(ids)
    if math.isnan(mean):
        raise DatasetError(
            f"validation images: expected pixels of at least one scored class ({', '.join(classes)}), "
            "got none. Choose other --classes, or look at the labels with `check`."
        )
    values = {name: float(per_class[i]) for name, i in zip(classes, ids, strict=True)}
    return mean, {name: None if math.isnan(value) else value for name, value in values.items()}


def _logits_of_views(
    network: nn.Module,
    samples: Sequence[Sample],
    label_size: Sequence[int],
    device: torch.device,
    image_size: tuple[int, int] | None,
    flip: bool,
    scales: Sequence[float],
) -> Iterator[Tensor]:
    """Logits (B, K, H, W) at the labels' size, for every scale, and mirrored back where ``flip`` is set."""
    for scale in scales:
        size = image_size
        if scale != 1:
            height, width = image_size or samples[0].image.shape[-2:]
            size = (max(1, round(scale * height)), max(1, round(scale * width)))
        images = _images(samples, size, device)
        yield upsampled_logits(network, images, label_size)
        if flip:
            yield upsampled_logits(network, images.flip(-1), label_size).flip(-1)


def _images(samples: Sequence[Sample], size: tuple[int, int] | None, device: torch.device) -> Tensor:
    return as_unit_floats(torch.stack([_at_size(sample, size) for sample in samples]), device)


def _at_size(sample: Sample, size: tuple[int, int] | None) -> Tensor:
    if size is None or tuple(sample.image.shape[-2:]) == tuple(size):
        return sample.image
    image = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
    resized = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return image_tensor(np.array(resized, dtype=np.uint8))


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
