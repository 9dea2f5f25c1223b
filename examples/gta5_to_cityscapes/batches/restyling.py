"""IT: the source pictures of a step in the appearance of its target pictures, with nothing to train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

import stuffinstance as si

from ..data import Sample, SegmentationDataset, picture_tensor
from ..recipes.settings import Restyling

METHODS = ("none", "lab", "fourier", "lab+fourier")


class BatchRestyling:
    """Restyle a source batch towards a target batch, each picture with the given probability."""

    def __init__(self, settings: Restyling) -> None:
        self.parts = settings.method.split("+") if settings.method in METHODS else []
        self.window = settings.window
        self.probability = settings.probability

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """``source`` (B, 3, H, W) in [0, 1] as ``target`` looks; sizes may differ."""
        # Drawn on the CPU, so that the choice is known there and only the chosen pictures are worked on.
        chosen = [i for i, drawn in enumerate(torch.rand(len(source)).tolist()) if drawn < self.probability]
        if not chosen or not self.parts:
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


def restyled_folder(settings: Restyling | None) -> Path | None:
    """The folder of pictures restyled elsewhere, where ``method`` is one."""
    if settings is None or settings.method in METHODS:
        return None
    folder = Path(settings.method)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"restyle.method must be one of {', '.join(METHODS)} or a folder of restyled source pictures, "
            f"got {settings.method!r}, which is no folder. Give the folder that holds <source name>.png."
        )
    return folder


class RestyledPictures(Dataset[Sample]):
    """A labelled source data set whose pictures come, restyled, from another folder.

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
        sample = self.source[index]
        path = self.files[index]
        assert path is not None  # the constructor saw to it
        height, width = sample.image.shape[-2:]
        with Image.open(path) as picture:
            resized = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        return sample._replace(image=picture_tensor(np.array(resized, dtype=np.uint8)))
