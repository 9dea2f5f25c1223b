"""Folder layouts of GTA5, SYNTHIA, Cityscapes and one's own images."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from .classes import LabelTable, default_class_file, read_classes
from .dataset import ImageFiles, MapSize, ReadIds, SegmentationDataset
from .image_files import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    UNREAD_SUFFIXES,
    DatasetError,
    first_channel_size,
    id_map_size,
    read_first_channel,
    read_id_map,
)
from .image_lists import listed_names, one_form

Layout = Literal["gta5", "synthia", "cityscapes", "folder"]


class _Places(NamedTuple):
    """Where a layout has its images and label maps.

    Attributes:
        images: Folder of the images.
        labels: Folder of the label maps.
        image_ending: Of the names of image files; the rest is the image's name.
        label_ending: The same of label maps.
        below: What lies between these folders and the files.
        read_ids: Reader of a label map.
        map_size: Its size from the header.
    """

    images: str
    labels: str
    image_ending: str = ""
    label_ending: str = ""
    below: str = ""
    read_ids: ReadIds = read_id_map
    map_size: MapSize = id_map_size

    @property
    def expected(self) -> str:
        """The layout in words."""
        return (
            f"{self.images}/{self.below}<name>{self.image_ending}.png|jpg|tif|webp and, for labels, "
            f"{self.labels}/{self.below}<name>{self.label_ending}.png"
        )


_LAYOUTS: Mapping[str, _Places] = {
    "gta5": _Places("images", "labels"),
    "synthia": _Places("RGB", "GT/LABELS", read_ids=read_first_channel, map_size=first_channel_size),
    "cityscapes": _Places("leftImg8bit", "gtFine", "_leftImg8bit", "_gtFine_labelIds", "<split>/<city>/"),
    "folder": _Places("images", "labels", below="[<split>/]**/"),
}
# What systems and programs leave in folders; names that start with a dot are hidden in any case.
_LEFT_BY_SYSTEMS = {
    "__macosx", "@eadir", "@recycle", "@tmp", "#recycle", "$recycle.bin", "system volume information", "lost+found",
    "desktop.ini", "ehthumbs.db", "thumbs.db",
}  # fmt: skip


def open_dataset(
    layout: Layout,
    root: Path,
    *,
    split: str = "train",
    table: LabelTable | None = None,
    size: tuple[int, int] | None = None,
    labels: bool = True,
    listed: Path | None = None,
) -> SegmentationDataset:
    """Open a data set in one of the folder layouts, its images sorted by name.

    Args:
        layout: The layout of ``root``. In ``"folder"``, a split is a folder directly in ``images`` and ``labels``;
            where there are no ``train`` and ``val``, all images are the training split.
        root: The folder that holds the whole data set.
        split: A split of Cityscapes or of ``"folder"``; the game data sets have only ``"train"``.
        table: Classes of the ids in the label maps; None for those that the layout's data set is published with.
        size: (height, width) of the samples, or None to keep each as stored.
        labels: False reads no label file, needs none, and returns label maps that are all ignored.
        listed: Text file that names the images to keep, as :func:`~.image_lists.listed_names` reads it; None for
            all. Images that are not listed need no label map.

    Raises:
        DatasetError: If the folder is not of that layout, an image has no label map, or two share a name,
            or if ``listed`` does not name images of this folder.
            Damaged files and pairs of unequal size raise it when they are read.
    """
    if layout not in _LAYOUTS:
        raise ValueError(f"layout must be one of {sorted(_LAYOUTS)}, got {layout!r}.")
    root, places = Path(root), _LAYOUTS[layout]
    if table is None:
        table = read_classes(default_class_file(layout)).table("target" if layout == "cityscapes" else "source")
    below = _folder_of_split(layout, places, root / places.images, split)
    images = _found(layout, places, root / places.images / below, places.image_ending, IMAGE_SUFFIXES, "image")
    if not images:
        raise DatasetError(
            f"{root / places.images / below}: expected images named <name>{places.image_ending}.png (or jpg, tif, "
            f"webp), as the layout {layout} has them, found none. Put the data set's images here, or give the layout "
            "that it has: --source-layout or --target-layout, folder for any."
        )
    if listed is not None:
        chosen = listed_names(Path(listed), root, images)
        images = {name: path for name, path in images.items() if name in chosen}
    files = [ImageFiles(name, path, None) for name, path in sorted(images.items())]
    if labels:
        folder = root / places.labels / below
        label_maps = _found(layout, places, folder, places.label_ending, LABEL_SUFFIXES, "label map")
        files = _paired(images, label_maps, places, folder)
    return SegmentationDataset(files, table=table, read_ids=places.read_ids, map_size=places.map_size, size=size)


def _folder_of_split(layout: Layout, places: _Places, images: Path, split: str) -> str:
    """The folder of a split, relative to those of images and label maps."""
    if "<split>" not in places.below:
        if split != "train":
            raise DatasetError(f"split must be 'train' for the {layout} layout, which has no other, got {split!r}.")
        return ""
    if layout == "folder" and split == "train" and not {"train", "val"} & {*_splits(images)}:
        return ""
    return split


def _splits(folder: Path) -> list[str]:
    return [each.name for each in visible_entries(folder) if each.is_dir()] if folder.is_dir() else []


def _found(
    layout: Layout, places: _Places, folder: Path, ending: str, suffixes: Collection[str], what: str
) -> dict[str, Path]:
    """Files by the names of their images; folders below are searched where the layout has any."""
    parent = folder.parent
    if "<split>" in places.below and (splits := _splits(parent)) and folder.name not in splits:
        raise DatasetError(
            f"{folder}: split must be one that exists, got {folder.name!r}; {parent} has {', '.join(splits)}."
        )
    if not folder.is_dir():
        found = [entry.name for entry in visible_entries(parent)][:8] if parent.is_dir() else None
        seen = f"{parent} holds {found or 'nothing'}" if found is not None else f"{parent} does not exist either"
        raise DatasetError(
            f"{folder}: expected a folder of the {layout} layout ({places.expected}), found none; {seen}. "
            + (
                f"Put the images of the split {folder.name} there."
                if layout == "folder" and parent.is_dir()
                else f"Pass the folder that holds the whole {layout} data set."
            )
        )
    entries = list(_files_in(folder, deep=bool(places.below)))
    unread = [path for path in entries if path.suffix.lower() in UNREAD_SUFFIXES]
    if unread:
        raise DatasetError(
            f"{unread[0]}: expected {what}s as {', '.join(each[1:] for each in suffixes)}, found "
            f"{unread[0].suffix.lower()[1:]} ({len(unread)} files of such kinds). Convert them, or take them out."
        )
    files = [path for path in entries if path.suffix.lower() in suffixes]
    named = [(path.stem.removesuffix(ending), path) for path in files if path.stem.endswith(ending)]
    converted = [path for path in files if path.stem.endswith("_gtFine_labelTrainIds")]
    if converted and not named:
        raise DatasetError(
            f"{converted[0]}: expected label maps named <name>_gtFine_labelIds.png, found only train ids, into which "
            "these were converted. Unpack the archive gtFine_trainvaltest again, which holds them."
        )
    return unique_by_name(named, what)


def _paired(
    images: Mapping[str, Path], label_maps: Mapping[str, Path], places: _Places, folder: Path
) -> list[ImageFiles]:
    missing = [name for name in sorted(images) if name not in label_maps]
    if missing:
        others = f": also {', '.join(missing[1:5])}{', ...' if len(missing) > 5 else ''}" if missing[1:] else ""
        between = places.below.removeprefix("<split>/").removeprefix("[<split>/]").replace("**/", "")
        raise DatasetError(
            f"{images[missing[0]]}: expected its label map at {folder}/{between}{missing[0]}{places.label_ending}.png, "
            f"found none ({len(missing)} of {len(images)} images have none{others}{_alike(missing[0], label_maps)}). "
            "Add the labels, or take the images out of the folder."
        )
    return [ImageFiles(name, path, label_maps[name]) for name, path in sorted(images.items())]


def _alike(name: str, labels: Mapping[str, Path]) -> str:
    """A label map whose name differs only in case or spaces, for the error message."""
    wanted = name.strip().casefold()
    found = next((path for other, path in labels.items() if other.strip().casefold() == wanted), None)
    return "" if found is None else f"; {found.name!r} differs in upper and lower case or in spaces"


def visible_entries(folder: Path) -> list[Path]:
    """Entries of a folder, sorted, without hidden ones and those that operating systems add."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.casefold() not in _LEFT_BY_SYSTEMS
    )


def _files_in(folder: Path, *, deep: bool) -> Iterator[Path]:
    for entry in visible_entries(folder):
        if not entry.is_dir():
            yield entry
        elif deep:
            yield from _files_in(entry, deep=True)


def images_in(folder: Path) -> list[Path]:
    """Images directly in a folder, sorted by name; hidden files are not images."""
    return [path for path in _files_in(folder, deep=False) if path.suffix.lower() in IMAGE_SUFFIXES]


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
