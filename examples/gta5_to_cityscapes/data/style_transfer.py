"""Style transfer of training images towards the other domain.

All randomness is torch's global generator in the training process, which a checkpoint keeps, so a resumed run sees the
same images.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

import stuffinstance as si

from ..methods.style_transfer import IN_STEP, StyleTransferConfig
from . import Sample, SegmentationDataset, image_tensor, read_image
from .layouts import images_in, unique_by_name
from .loader import Samples, as_unit_floats


class BatchStyleTransfer:
    """Style transfer of a batch towards one of the other domain, each image with the given probability."""

    def __init__(self, settings: StyleTransferConfig) -> None:
        self.parts = settings.method.split("+")
        self.window = settings.window
        self.probability = settings.probability

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """``source`` (B, 3, H, W) in [0, 1] as ``target`` looks; sizes may differ."""
        chosen = chosen_images(len(source), self.probability)
        if not chosen:
            return source
        partners = target[[i % len(target) for i in chosen]]
        transferred = source[chosen]
        if "lab" in self.parts:
            transferred = si.lab_color_transfer(transferred, partners)
        if "fourier" in self.parts:
            transferred = si.fourier_amplitude_transfer(transferred, partners, window=self.window)
        result = source.clone()
        result[chosen] = transferred
        return result


def chosen_images(count: int, probability: float) -> list[int]:
    """Which images of a batch are transferred; drawn on the CPU, so that the choice is known there."""
    return [i for i, drawn in enumerate(torch.rand(count).tolist()) if drawn < probability]


def transferred_folder(settings: StyleTransferConfig | None) -> Path | None:
    """The folder of images transferred elsewhere, where ``method`` is one."""
    if settings is None or settings.in_step:
        return None
    folder = Path(settings.method)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"style_transfer.method and target_style_transfer.method must be one of {', '.join(IN_STEP)} or a folder "
            f"of style-transferred images, got {settings.method!r}, which is not a folder. Give the folder that holds "
            "<image's name>.png."
        )
    return folder


class TransferredTowards(Dataset[Sample]):
    """Data set in the style of another, each image always towards the same one."""

    def __init__(self, dataset: SegmentationDataset, towards: Samples, settings: StyleTransferConfig) -> None:
        self.dataset, self.towards = dataset, towards
        self.names = list(dataset.names)
        self.transfer = BatchStyleTransfer(settings.model_copy(update={"probability": 1.0}))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        partner = self.towards[index % len(self.towards)]
        cpu = torch.device("cpu")
        one, other = as_unit_floats(sample.image[None], cpu), as_unit_floats(partner.image[None], cpu)
        transferred = self.transfer(one, other)[0]
        return sample._replace(image=(255 * transferred).round().clamp(0, 255).to(torch.uint8))


class TransferredImages(Dataset[Sample]):
    """Data set whose images, after style transfer, come from another folder.

    The images must be the same ones: a transferred file goes by its image's name. Labels come from the data set only
    with ``labels``.
    """

    def __init__(self, source: SegmentationDataset, folder: Path, *, labels: bool = False) -> None:
        self.source = source
        self.labels = labels
        self.names = list(source.names)
        found = unique_by_name([(path.stem, path) for path in images_in(folder)], "style-transferred image")
        self.files = [found.get(name) for name in self.names]
        missing = [name for name, path in zip(self.names, self.files, strict=True) if path is None]
        if missing:
            raise FileNotFoundError(
                f"style-transferred folder {folder}: expected one image for each of {len(self.names)} images, "
                f"{len(missing)} are missing, the first is {missing[0]!r}. Add the missing ones, or take them out "
                "of the data set's folder."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        path = self.files[index]
        assert path is not None  # the constructor saw to it
        pixels, _ = read_image(path, self.source.size)
        if self.labels:
            return self.source[index]._replace(image=image_tensor(pixels))
        labels = torch.full(pixels.shape[:2], self.source.space.ignore_index, dtype=torch.uint8)
        return Sample(image_tensor(pixels), labels, self.names[index])
