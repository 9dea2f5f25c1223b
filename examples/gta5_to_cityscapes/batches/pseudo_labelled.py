"""Target pictures with the labels that a network gave them, which lie on disk at one byte per pixel."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..data import DatasetError, Sample, read_id_map
from ..records.written_files import written_beside
from .streams import Samples


class PseudoLabelled(Dataset[Sample]):
    """Target pictures with the labels that a network gave them."""

    def __init__(self, dataset: Samples, folder: Path) -> None:
        self.dataset = dataset
        self.names = dataset.names
        self.folder = folder
        missing = [name for name in self.names if not self._file(name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"pseudo-labels in {folder}: expected one PNG for each of {len(self.names)} target pictures, "
                f"{len(missing)} are missing, the first is {self._file(missing[0]).name!r}. "
                "Give the same command again: what is missing is written, the rest is kept."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        path = self._file(sample.name)
        labels = read_label_map(path)
        if labels.shape != sample.image.shape[-2:]:
            raise ValueError(
                f"{path}: expected a label map of the target picture's size "
                f"{tuple(sample.image.shape[-2:])} (H, W), got {tuple(labels.shape)}. "
                "Pseudo-labels belong to one pictures.target_size; write them again."
            )
        return sample._replace(labels=labels)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.png"


def write_label_map(labels: Tensor, path: Path) -> None:
    """Write class ids (H, W) as an 8-bit PNG."""
    with written_beside(path) as beside:
        Image.fromarray(labels.to(torch.uint8).cpu().numpy()).save(beside, format="PNG")


def read_label_map(path: Path) -> Tensor:
    """Class ids (H, W) uint8 of an 8-bit PNG."""
    try:
        return torch.from_numpy(read_id_map(path))
    except DatasetError as error:
        raise DatasetError(f"pseudo-label {error} Or delete this file and give the same command again.") from error
