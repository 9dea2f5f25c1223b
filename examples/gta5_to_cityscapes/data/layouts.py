"""Folder layouts of GTA5, SYNTHIA, Cityscapes and one's own images."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .classes import LabelTable, default_class_file, read_classes
from .dataset import ImageFiles, MapSize, ReadIds, SegmentationDataset
from .image_files import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    MAX_PIXELS,
    DatasetError,
    first_channel_size,
    id_map_size,
    read_first_channel,
    read_id_map,
)
from .image_lists import listed_names, one_form

# What systems and programs leave in folders; names that start with a dot are hidden in any case.
_LEFT_BY_SYSTEMS = {
    "__macosx", "@eadir", "@recycle", "@tmp", "#recycle", "$recycle.bin", "system volume information", "lost+found",
    "desktop.ini", "ehthumbs.db", "thumbs.db",
}  # fmt: skip


def visible_entries(folder: Path) -> list[Path]:
    """Entries of a folder, sorted, without hidden ones and those that operating systems add."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.casefold() not in _LEFT_BY_SYSTEMS
    )


def require_folder(folder: Path, layout: str, expected: str) -> Path:
    """The folder, or an error that shows the expected layout."""
    if not folder.is_dir():
        parent = folder.parent
        found = [entry.name for entry in visible_entries(parent)][:8] if parent.is_dir() else None
        seen = f"{parent} holds {found or 'nothing'}" if found is not None else f"{parent} does not exist either"
        raise DatasetError(
            f"{folder}: expected a folder of the {layout} layout ({expected}), found none; {seen}. "
            f"Pass the folder that holds the whole {layout} data set."
        )
    return folder


def images_in(folder: Path) -> list[Path]:
    """Images directly in a folder, sorted by name; hidden files are not images."""
    return [path for path in visible_entries(folder) if path.suffix.lower() in IMAGE_SUFFIXES]


def pair_files(
    images: Mapping[str, Path],
    labels: Mapping[str, Path] | None,
    *,
    expected_label: str,
    exclude: Collection[str],
) -> list[ImageFiles]:
    """Join images with their labels by name, in sorted order of the names.

    Raises:
        DatasetError: If an image has no label, or an excluded name does not exist.
    """
    excluded = {one_form(name) for name in exclude}
    strangers = sorted(excluded - images.keys())
    if strangers:
        raise DatasetError(f"exclude must name images of the data set, got {strangers[:5]}. Check the spelling.")
    names = [name for name in sorted(images) if name not in excluded]
    if labels is None:
        return [ImageFiles(name, images[name], None) for name in names]
    missing = [name for name in names if name not in labels]
    if missing:
        raise DatasetError(
            f"{images[missing[0]]}: expected its label map at {expected_label.format(name=missing[0])}, "
            f"found none ({len(missing)} of {len(names)} images have none{_alike(missing[0], labels)}). Add the "
            "labels, or take the images out of the folder."
        )
    return [ImageFiles(name, images[name], labels[name]) for name in names]


def _alike(name: str, labels: Mapping[str, Path]) -> str:
    """A label map whose name differs only in case or spaces, for the error message."""
    wanted = name.strip().casefold()
    found = next((path for other, path in labels.items() if other.strip().casefold() == wanted), None)
    return "" if found is None else f"; {found.name!r} differs in upper and lower case or in spaces"


def unique_by_name(named: list[tuple[str, Path]], what: str) -> dict[str, Path]:
    """Files by name; two files of one name are an error.

    Names that differ only in their Unicode form are one name: they look the same, and other systems may store either.
    """
    files: dict[str, Path] = {}
    for given, path in named:
        name = one_form(given)
        if name in files:
            forms = "" if path.stem == files[name].stem else " in another Unicode form"
            raise DatasetError(
                f"{path}: expected one {what} named {name!r}, {files[name]} has the same name{forms}. "
                "Remove one of them."
            )
        files[name] = path
    return files


def require_images(images: Mapping[str, Path], folder: Path, pattern: str) -> None:
    """Raise, showing the pattern, if no image was found."""
    if not images:
        raise DatasetError(
            f"{folder}: expected images named {pattern} (png or jpg), found none. "
            "Unpack the image archive of the data set here."
        )


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
    """Pairs of equal stems in two flat folders, as in GTA5 and SYNTHIA."""
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
    """Pairs sorted by name, which starts with the city; gtFine is only read for labels."""
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


FOLDER_FILES = "images/**/<name>.png|jpg|tif|webp and, for labels, labels/**/<name>.png|tif"


def list_folder(root: Path, split: str, *, labels: bool, exclude: Collection[str]) -> list[ImageFiles]:
    """Pairs of equal stems, however deep in ``images`` and ``labels``, sorted by name.

    A split is a folder directly in both. Where there are no ``train`` and ``val``, all images are the training split.
    """
    places = [root / "images", root / "labels"]
    require_folder(places[0], "folder", FOLDER_FILES)
    splits = [each.name for each in visible_entries(places[0]) if each.is_dir()]
    if split != "train" or {"train", "val"} & set(splits):
        if split not in splits:
            raise DatasetError(
                f"{places[0] / split}: split must be a folder of {places[0]}, got {split!r}; it has "
                f"{', '.join(splits) or 'none'}. Put the images of each split, and their label maps in "
                f"{places[1] / split}, into folders train and val."
            )
        places = [place / split for place in places]
    images = unique_by_name([(path.stem, path) for path in files_below(places[0], IMAGE_SUFFIXES)], "image")
    require_images(images, places[0], "<name>.png|jpg|tif|webp")
    label_files = None
    if labels:
        found = files_below(require_folder(places[1], "folder", FOLDER_FILES), LABEL_SUFFIXES)
        label_files = unique_by_name([(path.stem, path) for path in found], "label map")
    return pair_files(images, label_files, expected_label=f"{places[1]}/**/{{name}}.png", exclude=exclude)


def files_below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Visible files with one of the suffixes in a folder and the folders below it, sorted by path."""
    found = []
    for entry in visible_entries(folder):
        if entry.is_dir():
            found += files_below(entry, suffixes)
        elif entry.suffix.lower() in suffixes:
            found.append(entry)
    return found


Layout = Literal["gta5", "synthia", "cityscapes", "folder"]


@dataclass(frozen=True)
class _Reader:
    list_files: Callable[..., list[ImageFiles]]
    read_ids: ReadIds
    map_size: MapSize


_READERS: Mapping[str, _Reader] = {
    "gta5": _Reader(list_gta5, read_id_map, id_map_size),
    "synthia": _Reader(list_synthia, read_first_channel, first_channel_size),
    "cityscapes": _Reader(list_cityscapes, read_id_map, id_map_size),
    "folder": _Reader(list_folder, read_id_map, id_map_size),
}


def open_dataset(
    layout: Layout,
    root: Path,
    *,
    split: str = "train",
    table: LabelTable | None = None,
    size: tuple[int, int] | None = None,
    labels: bool = True,
    exclude: Collection[str] = (),
    listed: Path | None = None,
    max_pixels: int = MAX_PIXELS,
) -> SegmentationDataset:
    """Open a data set in one of the folder layouts.

    Args:
        layout: The layout of ``root``.
        root: The folder that holds the whole data set.
        split: A split of Cityscapes or of ``"folder"``; the game data sets have only ``"train"``.
        table: Classes of the ids in the label maps; None for those that the layout's data set is published with.
        size: (height, width) of the samples, or None to keep each as stored.
        labels: False reads no label file, needs none, and returns label maps that are all ignored.
        exclude: Names of images to exclude.
        listed: Text file that names the images to keep, as :func:`~.image_lists.listed_names` reads it; None for
            all. Images that are not listed need no label map.
        max_pixels: Larger images are rejected before they are decoded.

    Raises:
        DatasetError: If the folder is not of that layout, an image has no label map, or two share a name,
            or if ``listed`` does not name images of this folder.
            Damaged files and pairs of unequal size raise it when they are read.
    """
    if layout not in _READERS:
        raise ValueError(f"layout must be one of {sorted(_READERS)}, got {layout!r}.")
    reader = _READERS[layout]
    root = Path(root)
    if table is None:
        table = read_classes(default_class_file(layout)).table("target" if layout == "cityscapes" else "source")
    if listed is not None:
        images = reader.list_files(root, split, labels=False, exclude=exclude)
        exclude = {*exclude, *(each.name for each in images)} - listed_names(Path(listed), root, images)
    files = reader.list_files(root, split, labels=labels, exclude=exclude)
    return SegmentationDataset(
        files, table=table, read_ids=reader.read_ids, map_size=reader.map_size, size=size, max_pixels=max_pixels
    )
