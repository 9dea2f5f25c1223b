"""GTA5: ``images/00001.png`` and ``labels/00001.png``, palette PNG whose indices are Cityscapes label ids."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stuffinstance import CITYSCAPES, LabelSpace

from .image_files import MAX_PIXELS, DatasetError, first_channel_size, id_map_size, read_first_channel, read_id_map
from .label_ids import CITYSCAPES_IDS, GTA5_IDS, SYNTHIA_IDS, build_label_table
from .listing import (
    images_in,
    listed_names,
    pair_files,
    require_folder,
    require_images,
    unique_by_name,
    visible_entries,
)
from .samples import ImageFiles, MapSize, ReadIds, SegmentationDataset

GTA5_FILES = "images/*.png|jpg and labels/*.png"


def list_gta5(root: Path, split: str, *, labels: bool, exclude: Collection[str]) -> list[ImageFiles]:
    """Pairs sorted by name. The whole data set is one training split."""
    return list_flat_pairs(root, split, "gta5", GTA5_FILES, ("images", "labels"), labels=labels, exclude=exclude)


def list_flat_pairs(
    root: Path,
    split: str,
    layout: str,
    expected: str,
    folders: tuple[str, str],
    *,
    labels: bool,
    exclude: Collection[str],
) -> list[ImageFiles]:
    """Pairs of equal stems in two flat folders, the shape both game data sets share."""
    if split != "train":
        raise DatasetError(f"split must be 'train' for the {layout} layout, which has no other, got {split!r}.")
    image_folder = require_folder(root / folders[0], layout, expected)
    images = unique_by_name([(path.stem, path) for path in images_in(image_folder)], "image")
    require_images(images, image_folder, "<name>.png")
    label_files = None
    if labels:
        label_folder = require_folder(root / folders[1], layout, expected)
        label_maps = [path for path in images_in(label_folder) if path.suffix.lower() == ".png"]
        label_files = unique_by_name([(path.stem, path) for path in label_maps], "label map")
    return pair_files(images, label_files, expected_label=f"{root / folders[1]}/{{name}}.png", exclude=exclude)


SYNTHIA_FILES = "RGB/*.png|jpg and GT/LABELS/*.png"


def list_synthia(root: Path, split: str, *, labels: bool, exclude: Collection[str]) -> list[ImageFiles]:
    """Pairs sorted by name. The whole data set is one training split."""
    return list_flat_pairs(root, split, "synthia", SYNTHIA_FILES, ("RGB", "GT/LABELS"), labels=labels, exclude=exclude)


CITYSCAPES_FILES = (
    "leftImg8bit/<split>/<city>/*_leftImg8bit.png|jpg and, for labels, gtFine/<split>/<city>/*_gtFine_labelIds.png"
)


def list_cityscapes(root: Path, split: str, *, labels: bool, exclude: Collection[str]) -> list[ImageFiles]:
    """Pairs sorted by name, which starts with the city. gtFine is not touched unless labels are asked for."""
    images = _files_of_cities(root / "leftImg8bit" / split, "_leftImg8bit", "image")
    require_images(images, root / "leftImg8bit" / split, "<city>/<name>_leftImg8bit.png")
    label_files = _label_maps(root / "gtFine" / split) if labels else None
    where = f"{root / 'gtFine' / split}/<city>/{{name}}_gtFine_labelIds.png"
    return pair_files(images, label_files, expected_label=where, exclude=exclude)


def _label_maps(folder: Path) -> dict[str, Path]:
    found = _files_of_cities(folder, "_gtFine_labelIds", "label map")
    if not found and (converted := _files_of_cities(folder, "_gtFine_labelTrainIds", "label map")):
        raise DatasetError(
            f"{next(iter(converted.values()))}: expected label maps named <name>_gtFine_labelIds.png, found only train "
            "ids, into which these were converted. Unpack the archive gtFine_trainvaltest again, which holds them."
        )
    return found


def _files_of_cities(folder: Path, ending: str, what: str) -> dict[str, Path]:
    beside = visible_entries(folder.parent) if folder.parent.is_dir() else []
    splits = [entry.name for entry in beside if entry.is_dir()]
    if splits and folder.name not in splits:
        raise DatasetError(
            f"{folder}: split must be one that exists, got {folder.name!r}; {folder.parent} has {', '.join(splits)}."
        )
    require_folder(folder, "cityscapes", CITYSCAPES_FILES)
    cities = [city for city in visible_entries(folder) if city.is_dir()]
    named = [
        (path.stem.removesuffix(ending), path)
        for city in cities
        for path in images_in(city)
        if path.stem.endswith(ending)
    ]
    return unique_by_name(named, what)


Layout = Literal["gta5", "synthia", "cityscapes"]


@dataclass(frozen=True)
class _Reader:
    list_files: Callable[..., list[ImageFiles]]
    read_ids: ReadIds
    map_size: MapSize
    raw_ids: Mapping[int, str]


_READERS: Mapping[str, _Reader] = {
    "gta5": _Reader(list_gta5, read_id_map, id_map_size, GTA5_IDS),
    "synthia": _Reader(list_synthia, read_first_channel, first_channel_size, SYNTHIA_IDS),
    "cityscapes": _Reader(list_cityscapes, read_id_map, id_map_size, CITYSCAPES_IDS),
}


def open_dataset(
    layout: Layout,
    root: Path,
    *,
    split: str = "train",
    space: LabelSpace = CITYSCAPES,
    size: tuple[int, int] | None = None,
    labels: bool = True,
    exclude: Collection[str] = (),
    listed: Path | None = None,
    max_pixels: int = MAX_PIXELS,
) -> SegmentationDataset:
    """Open a data set in its published folder layout.

    Args:
        layout: Whose layout ``root`` has.
        root: The folder that holds the whole data set.
        split: A split of Cityscapes; the game data sets have only ``"train"``.
        space: Classes to read. Names decide: a class that the space does not have is ignored.
        size: (height, width) of the samples, or None to keep each as stored.
        labels: False reads no label file, needs none, and returns label maps that are all ignored.
        exclude: Names of images to leave out.
        listed: Text file that names the images to keep, as :func:`~.image_lists.listed_names` reads it; None for
            all. What is left out needs no label map.
        max_pixels: Larger images are refused before they are decoded.

    Raises:
        DatasetError: If the folder is not of that layout, an image has no label map, or two share a name,
            or if ``listed`` does not name images of this folder.
            Damaged files and pairs of unequal size raise it when they are read.
    """
    if layout not in _READERS:
        raise ValueError(f"layout must be one of {sorted(_READERS)}, got {layout!r}.")
    reader = _READERS[layout]
    root = Path(root)
    if listed is not None:
        images = reader.list_files(root, split, labels=False, exclude=exclude)
        exclude = {*exclude, *(each.name for each in images)} - listed_names(Path(listed), root, images)
    files = reader.list_files(root, split, labels=labels, exclude=exclude)
    table = build_label_table(reader.raw_ids, space)
    return SegmentationDataset(
        files,
        table=table,
        space=space,
        read_ids=reader.read_ids,
        map_size=reader.map_size,
        size=size,
        max_pixels=max_pixels,
    )
