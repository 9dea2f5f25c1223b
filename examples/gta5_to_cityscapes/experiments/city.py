"""Generated city of an experiment: its size, its folders, and drawing it once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..data.training_data import Folders
from ..run_dir import Event, Watch

if TYPE_CHECKING:
    from examples.generated_city.generation import SourceLayout


class Budget(NamedTuple):
    """How much of a city, and which preset of recipes with which settings."""

    preset: str
    source_images: int
    target_train: int
    target_val: int
    image: tuple[int, int]  # (width, height), as the generator takes it
    settings: tuple[str, ...] = ()


BUDGETS = {
    # As in the paper no recipe changes colors or sharpness at random: what each method adds is then seen. A larger rate
    # and smaller crops than the preset's, chosen by scores on the city of seed 0: they learn more in a few minutes.
    "small": Budget(
        "small",
        240,
        180,
        80,
        (480, 240),
        (
            *(f"augmentation.{change}=0" for change in ("color_jitter", "grayscale", "blur", "noise")),
            "augmentation.crop=[80,160]",
            "optimizer.lr=1e-3",
            "schedule.evaluate_every=200",
        ),
    ),
    "smoke": Budget("smoke", 8, 8, 4, (192, 96)),
}


@dataclass(frozen=True)
class City:
    """The city that an experiment draws in its own folder."""

    out: Path
    budget: Budget
    seed: int
    source_layout: SourceLayout = "gta5"

    @property
    def folders(self) -> Folders:
        """Where it lies."""
        return Folders(self.out / "city" / self.source_layout, self.out / "city" / "cityscapes")

    def generate(self, watch: Watch) -> None:
        """Draw the images that do not exist yet.

        Raises:
            FileExistsError: If the folder holds a city of another seed or image size, or something else.
        """
        from examples.generated_city import generate_city

        budget = self.budget
        images = budget.source_images + budget.target_train + budget.target_val
        generate_city(
            self.out / "city",
            source_images=budget.source_images,
            target_train=budget.target_train,
            target_val=budget.target_val,
            size=budget.image,
            seed=self.seed,
            source_layout=self.source_layout,
            workers=os.cpu_count() or 1,
            progress=lambda done: watch(Event("city", done, images, "drawing")),
        )
        watch(Event("city", images, images, "drawn", "finished"))


def is_city(folder: Path) -> bool:
    """Whether a data set's folder lies in a generated city."""
    return (folder.parent / "city.json").is_file()
