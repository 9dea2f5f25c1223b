"""Images at their true sizes: what each stage of one takes, and how many a second come through the pipeline's loader.

The generated city is drawn at the sizes that GTA5 and Cityscapes are stored in, a few images which come again and
again, so files lie in the system's cache: reading from a slow disk is not in these times. Everything here runs on the
CPU, whatever ``--device`` says.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.measurement import Measurement, Settings, WrongResult
from benchmarks.timing import time_in_turn, timing_of
from examples.generated_city import generate_city
from examples.gta5_to_cityscapes.data import SegmentationDataset, open_dataset
from examples.gta5_to_cityscapes.data.dataset import image_tensor
from examples.gta5_to_cityscapes.data.image_files import read_id_map, read_image, resize_ids
from examples.gta5_to_cityscapes.data.loader import BatchStream

IMAGES = 3  # of each domain, drawn once
WORKERS = (0, 1, 2)
WHOLE = "one image"
_ROUNDS, _DRAWS = 5, 12


class Sizes(NamedTuple):
    """(width, height) as a data set stores its images, and as a network gets them."""

    stored: tuple[int, int]
    wanted: tuple[int, int]

    @property
    def in_words(self) -> str:
        """For the name of a case."""
        return f"{'x'.join(map(str, self.stored))} to {'x'.join(map(str, self.wanted))}"


GTA5, CITYSCAPES = Sizes((1914, 1052), (1280, 720)), Sizes((2048, 1024), (1024, 512))
_QUICK = Sizes((192, 96), (128, 64)), Sizes((192, 96), (96, 48))


def run(settings: Settings) -> list[Measurement]:
    """Draw the images, then time the stages of one and the streams.

    Raises:
        WrongResult: If a stream gives other pixels than its data set, or a decoder other pixels than the pipeline's.
    """
    source, target = _QUICK if settings.quick else (GTA5, CITYSCAPES)
    with tempfile.TemporaryDirectory(prefix="benchmarks_loader_") as folder:
        game, camera = draw_domains(Path(folder), source, target)
        cases = {f"GTA5 {source.in_words}": [game], f"Cityscapes {target.in_words}": [camera]}
        found: list[Measurement] = []
        for case, (dataset,) in cases.items():
            found += stages(case, dataset, settings)
        cases["a step, one image of each"] = [game, camera]
        for case, datasets in cases.items():
            found += streams(case, datasets, settings)
    return found


def draw_domains(folder: Path, source: Sizes, target: Sizes) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The game city with its labels and the camera city without, as a recipe that adapts opens them."""
    counts = {"source_images": 0, "target_train": 0, "target_val": 0}
    generate_city(folder / "game", **{**counts, "source_images": IMAGES}, size=source.stored)
    generate_city(folder / "camera", **{**counts, "target_train": IMAGES}, size=target.stored)
    return (
        open_dataset("gta5", folder / "game/gta5", size=source.wanted[::-1]),
        open_dataset("cityscapes", folder / "camera/cityscapes", size=target.wanted[::-1], labels=False),
    )


def stages(case: str, dataset: SegmentationDataset, settings: Settings) -> list[Measurement]:
    """The stages of one image, each on its own, and all of them; calls go through the images in turn."""
    check_decoders(dataset)
    assert dataset.size is not None
    height, width = dataset.size
    stored = [read_image(entry.image)[0] for entry in dataset.files]
    images = [Image.fromarray(pixels) for pixels in stored]
    resized = [read_image(entry.image, dataset.size)[0] for entry in dataset.files]
    ways: dict[str, Callable[[], object]] = {
        WHOLE: over(dataset.__getitem__, range(len(dataset))),
        "decode": over(read_image, [entry.image for entry in dataset.files]),
        "decode by OpenCV, not used": over(decode_by_opencv, [entry.image for entry in dataset.files]),
        "resize": over(lambda one: one.resize((width, height), Image.Resampling.BICUBIC), images),
        "to a tensor": over(image_tensor, resized),
    }
    labels = [entry.labels for entry in dataset.files if entry.labels is not None]
    if labels:
        ways["decode labels"] = over(read_id_map, labels)
        ways["resize labels"] = over(lambda ids: resize_ids(ids, (height, width)), [read_id_map(one) for one in labels])
    mib = [entry.image.stat().st_size / 2**20 for entry in dataset.files]
    timings = time_in_turn(ways, settings)
    extra: dict[str, float | int | str] = {
        "images_per_second_and_worker": 1e3 / timings[WHOLE].median_ms,
        "mean_mib_of_a_file": sum(mib) / len(mib),
    }
    return [Measurement("loader", case, way, one, None, extra if way == WHOLE else {}) for way, one in timings.items()]


def streams(case: str, datasets: Sequence[SegmentationDataset], settings: Settings) -> list[Measurement]:
    """One batch of one image from each data set in turn, as fast as the loaders give them.

    A round starts loaders anew and lets go by what they have prepared meanwhile; then their workers set the pace. In
    each round every number of workers, which each data set has for itself, has its turn.
    """
    check_streams(datasets)
    rounds, draws = (2, 2) if settings.quick else (_ROUNDS, _DRAWS)
    taken: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    for seed in range(rounds):
        for workers, milliseconds in taken.items():
            loaders = [BatchStream(one, 1, seed, workers=workers) for one in datasets]
            for _ in range(2 * workers):  # a worker may be two batches ahead
                for loader in loaders:
                    next(loader)
            started = time.perf_counter()
            for _ in range(draws):
                for loader in loaders:
                    next(loader)
            milliseconds.append((time.perf_counter() - started) * 1e3 / draws)
            del loaders, loader
    rate = "images_per_second" if len(datasets) == 1 else "steps_per_second"
    timings = {workers: timing_of(milliseconds) for workers, milliseconds in taken.items()}
    return [
        Measurement("loader", case, f"stuffinstance, workers={workers}", one, None, {rate: 1e3 / one.median_ms})
        for workers, one in timings.items()
    ]


def decode_by_opencv(path: Path) -> np.ndarray:
    """The same RGB pixels by OpenCV's decoder; unlike the pipeline's it says nothing of a damaged file."""
    decoded = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded)


def check_decoders(dataset: SegmentationDataset) -> None:
    """Look whether both decoders give the same pixels.

    Raises:
        WrongResult: If they do not.
    """
    for entry in dataset.files:
        if not np.array_equal(decode_by_opencv(entry.image), read_image(entry.image)[0]):
            raise WrongResult(f"loader: OpenCV and Pillow decode other pixels from {entry.image.name}")


def check_streams(datasets: Sequence[SegmentationDataset]) -> None:
    """Look whether a loader with workers gives what the data set holds under an image's name.

    Raises:
        WrongResult: If it does not.
    """
    for dataset in datasets:
        loader = BatchStream(dataset, 1, 0, workers=1)
        for _ in range(len(dataset)):
            (batch,) = next(loader)
            held = dataset[dataset.names.index(batch.names[0])]
            if not (torch.equal(batch.images[0], held.image) and torch.equal(batch.labels[0], held.labels)):
                raise WrongResult(f"loader: the stream's {held.name} is not the data set's")


def over(call: Callable[..., object], arguments: Sequence[object]) -> Callable[[], object]:
    """``call`` on the next of the arguments, each time it is called."""
    turn = cycle(arguments)
    return lambda: call(next(turn))
