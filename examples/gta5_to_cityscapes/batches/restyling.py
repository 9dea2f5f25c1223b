"""IT: the source pictures of a step in the appearance of its target pictures, with nothing to train."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

import stuffinstance as si

from ..data import Sample, SegmentationDataset, picture_tensor, read_image
from ..recipes.settings import RESTYLING_METHODS, Restyling


class BatchRestyling:
    """Restyle a source batch towards a target batch, each picture with the given probability."""

    def __init__(self, settings: Restyling) -> None:
        self.parts = settings.method.split("+")
        self.window = settings.window
        self.probability = settings.probability

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """``source`` (B, 3, H, W) in [0, 1] as ``target`` looks; sizes may differ."""
        chosen = chosen_pictures(len(source), self.probability)
        if not chosen:
            return source
        partners = target[[i % len(target) for i in chosen]]
        restyled = source[chosen]
        if "lab" in self.parts:
            restyled = si.restyle_lab(restyled, partners)
        if "fourier" in self.parts:
            restyled = si.restyle_fourier(restyled, partners, window=self.window)
        result = source.clone()
        result[chosen] = restyled
        return result


def chosen_pictures(count: int, probability: float) -> list[int]:
    """Which pictures of a batch to restyle; drawn on the CPU, so that the choice is known there."""
    return [i for i, drawn in enumerate(torch.rand(count).tolist()) if drawn < probability]


def restyled_folder(settings: Restyling | None) -> Path | None:
    """The folder of pictures restyled elsewhere, where ``method`` is one."""
    if settings is None or settings.towards_target:
        return None
    folder = Path(settings.method)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"restyle.method must be one of {', '.join(RESTYLING_METHODS)} or a folder of restyled source pictures, "
            f"got {settings.method!r}, which is no folder. Give the folder that holds <source name>.png."
        )
    return folder


class RestyledPictures(Dataset[Sample]):
    """The pictures of a labelled source data set as they look, restyled, in another folder; without their labels.

    The pictures must be the same ones: a restyled file goes by its source picture's name.
    """

    def __init__(self, source: SegmentationDataset, folder: Path) -> None:
        self.source = source
        self.names = list(source.names)
        found = {path.stem: path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg")}
        self.files = [found.get(Path(name).stem) for name in self.names]
        missing = [name for name, path in zip(self.names, self.files, strict=True) if path is None]
        if missing:
            raise FileNotFoundError(
                f"restyled folder {folder}: expected one picture for each of {len(self.names)} source pictures, "
                f"{len(missing)} are missing, the first is {missing[0]!r}. Restyle them all, or take them out "
                "of the source folder."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        path = self.files[index]
        assert path is not None  # the constructor saw to it
        pixels, _ = read_image(path, self.source.size, self.source.max_pixels)
        labels = torch.full(pixels.shape[:2], self.source.space.ignore_index, dtype=torch.uint8)
        return Sample(picture_tensor(pixels), labels, self.names[index])
