"""The generated city of an experiment: how large, where it lies, and drawing it once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.training_data import Folders
from ..run_dir import Event, Watch

if TYPE_CHECKING:
    from examples.generated_city.generation import SourceLayout


@dataclass(frozen=True)
class Budget:
    """How much of a city, and which preset of recipes."""

    preset: str
    source_images: int
    target_train: int
    target_val: int
    image: tuple[int, int]  # (width, height), as the generator takes it

    @property
    def images(self) -> int:
        """All images to draw."""
        return self.source_images + self.target_train + self.target_val


BUDGETS = {
    "small": Budget("small", 400, 300, 100, (480, 240)),
    "smoke": Budget("smoke", 8, 8, 4, (192, 96)),
}


def city_folders(out: Path, source_layout: SourceLayout = "gta5") -> Folders:
    """Where the generated city lies within an experiment."""
    return Folders(out / "city" / source_layout, out / "city" / "cityscapes")


def is_city(folder: Path) -> bool:
    """Whether a data set's folder lies in a generated city."""
    return (folder.parent / "city.json").is_file()


def generate(folders: Folders, budget: Budget, seed: int, watch: Watch, source_layout: SourceLayout = "gta5") -> None:
    """Draw the images that do not exist yet; a folder with another city is an error.

    Raises:
        FileExistsError: If the folder holds a city of another seed or image size, or something else.
    """
    from examples.generated_city import generate_city

    generate_city(
        folders.source.parent,
        source_images=budget.source_images,
        target_train=budget.target_train,
        target_val=budget.target_val,
        size=budget.image,
        seed=seed,
        source_layout=source_layout,
        workers=os.cpu_count() or 1,
        progress=lambda done: watch(Event("city", done, budget.images, "drawing")),
    )
    watch(Event("city", budget.images, budget.images, "drawn", "finished"))
