"""Writing a whole city: what was asked is kept in ``city.json``, finished scenes are never drawn twice."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import cv2

from examples.gta5_to_cityscapes.atomic_io import remove_unfinished, write_json

from .layouts import ScenePlace, cityscapes_places, gta5_places, synthia_places, write_scene
from .rendering import render_scene
from .statistics import CAMERA_CITY, GAME_CITY

VERSION = 1  # raise it when the same seed gives other images
MANIFEST = "city.json"
MINIMUM_SIZE = 32
MOST_PIXELS = 2**26  # larger images are not read
SourceLayout = Literal["gta5", "synthia"]
SOURCE_PLACES = {"gta5": gta5_places, "synthia": synthia_places}


def generate_city(
    out: Path,
    *,
    source_images: int,
    target_train: int,
    target_val: int,
    size: tuple[int, int] = (480, 240),
    seed: int = 0,
    source_layout: SourceLayout = "gta5",
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the game city as ``out/gta5`` or ``out/synthia`` and the camera city as ``out/cityscapes``.

    Every scene is a function of (seed, domain, split, number, size), so the bytes do not depend on the number of
    workers, on the counts, or on what was there before.

    Args:
        out: Folder to write into; made if missing.
        source_images: Images of the game city.
        target_train: Training images of the camera city.
        target_val: Validation images of the camera city.
        size: Width and height in pixels.
        seed: Another seed, other streets.
        source_layout: Whose folders, files and label ids the game city has; its scenes are the same.
        workers: Processes that draw; 1 draws in this one.
        progress: Called with the number of finished scenes, those found finished included.

    Raises:
        ValueError: If a number cannot be right.
        FileExistsError: If ``out`` holds a city of other settings, or files that are not a city.
    """
    _check(source_images, target_train, target_val, size, seed, workers)
    if source_layout not in SOURCE_PLACES:
        raise ValueError(f"source_layout must be one of {', '.join(SOURCE_PLACES)}, got {source_layout!r}.")
    out = Path(out)
    _claim(out, {"version": VERSION, "seed": seed, "size": list(size)})
    places = SOURCE_PLACES[source_layout](out, GAME_CITY, source_images)
    places += cityscapes_places(out, CAMERA_CITY, "train", target_train)
    places += cityscapes_places(out, CAMERA_CITY, "val", target_val)
    missing = [place for place in places if not (place.image.exists() and place.labels.exists())]
    done = len(places) - len(missing)
    if progress is not None:
        progress(done)
    for _ in _drawn(partial(_draw, seed, size), missing, workers):
        done += 1
        if progress is not None:
            progress(done)


def _check(source: int, train: int, val: int, size: tuple[int, int], seed: int, workers: int) -> None:
    for name, value in (("source_images", source), ("target_train", train), ("target_val", val), ("seed", seed)):
        if value < 0:
            raise ValueError(f"{name} must be a whole number of at least 0, got {value}.")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}. 1 draws in this process.")
    if len(size) != 2 or min(size) < MINIMUM_SIZE or size[0] * size[1] > MOST_PIXELS:
        raise ValueError(
            f"size must be (width, height) in pixels, each at least {MINIMUM_SIZE} and together at most {MOST_PIXELS}, "
            f"got {tuple(size)}."
        )


def _claim(out: Path, settings: dict[str, object]) -> None:
    """Mark the folder as this city, or say why it cannot be."""
    manifest = out / MANIFEST
    if manifest.exists():
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError as problem:
            raise FileExistsError(
                f"{manifest} is not readable JSON ({problem}). Delete the folder or choose another one."
            ) from problem
        if found != settings:
            raise FileExistsError(
                f"{out} holds a city made with {found}, asked for was {settings}. "
                "Choose another folder, or delete this one first."
            )
        remove_unfinished(out)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{out} is not empty and has no {MANIFEST}, so it is not a generated city. Choose another folder."
        )
    write_json(manifest, settings)


def _draw(seed: int, size: tuple[int, int], place: ScenePlace) -> None:
    domain, split, number = place.key
    stats = GAME_CITY if domain == GAME_CITY.seed_key else CAMERA_CITY
    image, ids = render_scene((seed, domain, split, number), stats, size)
    write_scene(place, image, ids)


def _begin_to_draw() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the process that waits for this one, and ends both


def _drawn(draw: Callable[[ScenePlace], None], places: list[ScenePlace], workers: int) -> Iterator[None]:
    """Draw one by one or in processes of one thread each; OpenCV's own threads only get in each other's way."""
    if workers == 1 or len(places) < 2:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            for place in places:
                draw(place)
                yield
        finally:
            cv2.setNumThreads(threads)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, len(places)), initializer=_begin_to_draw) as pool:
        yield from pool.imap_unordered(draw, places, chunksize=4)
