"""Sheets of images over their labels, to look at: ``python -m examples.generated_city.contact_sheet DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from PIL import Image

from examples.gta5_to_cityscapes.atomic_io import written_beside
from examples.gta5_to_cityscapes.console import escape_unprintable

from .canvas import Bytes
from .label_ids import palette
from .rendering import render_scene
from .statistics import CAMERA_CITY, GAME_CITY, DomainStatistics


def contact_sheet(stats: DomainStatistics, seed: int, rows: int, columns: int, size: tuple[int, int]) -> Bytes:
    """Scenes of one city in a grid, each image above its labels."""
    colors = np.array(palette(), np.uint8).reshape(256, 3)
    lines = []
    for row in range(rows):
        scenes = [render_scene((seed, stats.seed_key, 0, row * columns + k), stats, size) for k in range(columns)]
        lines.append(np.hstack([image for image, _ in scenes]))
        lines.append(np.hstack([colors[ids] for _, ids in scenes]))
    return np.vstack(lines)


def main(
    out: Annotated[Path, typer.Argument(help="Folder for city_game.jpg and city_camera.jpg.")],
    seed: int = 0,
    rows: int = 2,
    columns: int = 3,
    width: int = 360,
) -> None:
    """Write one sheet per city."""
    cv2.setNumThreads(1)
    for stats in (GAME_CITY, CAMERA_CITY):
        sheet = contact_sheet(stats, seed, rows, columns, (width, width // 2))
        with written_beside(out / f"city_{stats.name}.jpg") as beside:
            Image.fromarray(sheet).save(beside, "JPEG", quality=80)


if __name__ == "__main__":
    escape_unprintable()
    typer.run(main)
