"""Translated data sets: images by name in one folder, with their labels where it has any."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from examples.gta5_to_cityscapes.atomic_io import read_json, write_json, written_beside
from examples.gta5_to_cityscapes.checkpoint import digest_of_weights
from examples.gta5_to_cityscapes.data import DatasetError, SegmentationDataset, image_tensor, read_id_map, read_image
from examples.gta5_to_cityscapes.data.image_files import resize_ids
from examples.gta5_to_cityscapes.data.layouts import visible_entries
from examples.gta5_to_cityscapes.input_files import InputFiles, read_digests, write_digests
from examples.gta5_to_cityscapes.run_dir import RunFolderError, differences

from .networks import Generator
from .settings import Settings, Towards, domain_of
from .training import Progress, no_progress

NOTE = "translation.json"
ORIGINALS = "data_files.jsonl"  # beside the note, the digests of the files that what lies there was made of


def translate(generator: Generator, pixels: npt.NDArray[np.uint8], towards: Towards) -> npt.NDArray[np.uint8]:
    """An image (H, W, 3) in the appearance of a domain, rounded to bytes."""
    device = next(generator.parameters()).device
    images = image_tensor(pixels)[None].to(device).float().div_(255)
    with torch.no_grad():
        made = generator(images, torch.tensor([domain_of(towards)], device=device))
    translated: npt.NDArray[np.uint8] = made.clamp(0, 1).mul_(255).round_().byte()[0].permute(1, 2, 0).cpu().numpy()
    return translated


def write_translated(
    settings: Settings,
    generator: Generator,
    datasets: list[SegmentationDataset],
    towards: Towards,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> Path:
    """Write ``out/images/<name>.png`` and, for data sets with labels, ``out/labels/<name>.png``.

    Images have the size that the generator was trained at; label maps of another size are taken to it, nearest,
    the others are copied. With labels the folder is a data set in GTA5's layout. What is there already from the same
    generator and from files of the same content is kept.

    Args:
        settings: Of the generator.
        generator: From :func:`~.training.trained_generator`.
        datasets: Whose images to translate, all splits that shall lie in the one folder.
        towards: Whose appearance to give them.
        out: Where to; new, or of an earlier call.
        progress: Called with the images done, the images in all and a name.

    Returns:
        The folder of the images.

    Raises:
        RunFolderError: If ``out`` holds other files, or images of another translation.
        DatasetError: If two images share a name, or a file is not what its layout promises.
    """
    entries = [entry for dataset in datasets for entry in dataset.files]
    twice = len(entries) - len({entry.name for entry in entries})
    if twice:
        raise DatasetError(
            f"datasets must name each image once to lie in one folder, {twice} names come again. "
            "Translate one split at a time, each into its own folder."
        )
    _claim(out, settings, generator, towards)
    _remove_outdated(out, datasets)
    for done, entry in enumerate(entries):
        progress(done, len(entries), entry.name)
        image = out / "images" / f"{entry.name}.png"
        if image.exists():
            continue
        if entry.labels is not None:  # first: an image that exists then has its labels
            _write_labels(entry.labels, out / "labels" / f"{entry.name}.png", settings.size)
        pixels, _ = read_image(entry.image, settings.size)
        with written_beside(image) as beside:
            Image.fromarray(translate(generator, pixels, towards)).save(beside, "PNG")
    progress(len(entries), len(entries), "")
    return out / "images"


def _remove_outdated(out: Path, datasets: list[SegmentationDataset]) -> None:
    """Remove what was made of files whose content was another; what they are now is kept."""
    files = [entry for dataset in datasets for entry in dataset.files]
    images = {entry.name: entry.image for entry in files}
    labels = {entry.name: entry.labels for entry in files if entry.labels is not None}
    kept = read_digests(out / ORIGINALS)
    now = InputFiles({"originals": {"images": images, "labels": labels}}).digests
    for key, digest in now.items():
        if kept.get(key) != digest:
            for folder in ("images", "labels"):
                (out / folder / f"{key[2]}.png").unlink(missing_ok=True)
    write_digests(out / ORIGINALS, {**kept, **now})


def _write_labels(stored: Path, path: Path, size: tuple[int, int]) -> None:
    ids = read_id_map(stored)
    with written_beside(path) as beside:
        if ids.shape == size:
            shutil.copyfile(stored, beside)
        else:
            Image.fromarray(resize_ids(ids, size)).save(beside, "PNG")


def _claim(out: Path, settings: Settings, generator: Generator, towards: Towards) -> None:
    asked = {
        "towards": towards,
        "size": list(settings.size),
        "generator_sha256": digest_of_weights(generator.state_dict()),
    }
    note = out / NOTE
    if not note.is_file() and out.is_dir() and visible_entries(out):
        raise RunFolderError(
            f"folder {out}: expected a new one or translated images, it holds other files. Choose another --out."
        )
    found = differences(read_json(note), asked) if note.is_file() else []
    if found:
        raise RunFolderError(
            f"folder {out}: expected images of the same translation, it differs (folder -> asked): "
            f"{'; '.join(found)}. Choose another --out, or delete that folder."
        )
    write_json(note, asked)
