"""Published folder layouts of GTA5, SYNTHIA and Cityscapes, and lists that choose images of them."""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from stuffinstance import CITYSCAPES, LabelSpace

from .dataset import (
    CITYSCAPES_IDS,
    GTA5_IDS,
    SYNTHIA_IDS,
    ImageFiles,
    MapSize,
    ReadIds,
    SegmentationDataset,
    build_label_table,
)
from .image_files import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    DatasetError,
    first_channel_size,
    id_map_size,
    read_first_channel,
    read_id_map,
)

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


def one_form(text: str) -> str:
    """A name in Unicode form NFC, in which names are compared: macOS may store an umlaut as two characters."""
    return unicodedata.normalize("NFC", text)


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


MAX_BYTES = 2**24  # ten times a list of all of GTA5 with long paths


def listed_names(file: Path, root: Path, images: Sequence[ImageFiles]) -> set[str]:
    """Names of the ``images`` that a list file chooses.

    A line is an image's path in the data folder (``images/00001.png``), the end of it from any folder on
    (``aachen/aachen_000000_000019_leftImg8bit.png``, ``00001.png``), or the image's name (``00001``). Lines are
    compared with the files that were found there, in either Unicode form, and never opened as paths, so a list leads
    nowhere that the owner of the folder, with links to where the images lie, has not led. Empty lines are
    ignored.

    Args:
        file: The list, UTF-8.
        root: The data folder.
        images: What was found in it.

    Raises:
        DatasetError: If the list is not text or too large, is empty, names an image twice or one that is not there,
            or a line leads out of the data folder.
    """
    places = _places(root, images)
    lines: dict[str, int] = {}
    absent: list[str] = []
    twice: list[str] = []
    for number, text in _lines(file):
        where = f"line {number}, {_short(text)}"
        if reason := _leads_out(text):
            raise DatasetError(
                f"{file}, {where}: expected a path relative to {root}, with / between folders, or an image's name; "
                f"it {reason}. Correct the line, or take it out."
            )
        image = places.get(PurePosixPath(one_form(text)).parts)
        if image is None:
            absent.append(where)
        elif image.name in lines:
            twice.append(f"{where}, the same image as line {lines[image.name]}")
        else:
            lines[image.name] = number
    if absent:
        raise DatasetError(
            f"{file}: expected names of the {len(images)} images found in {root}, {len(absent)} lines name none of "
            f"them, the first is {absent[0]}. Write them as {images[0].image.relative_to(root).as_posix()!r} or "
            f"{images[0].name!r}, and give the list of this data set and split."
        )
    if twice:
        raise DatasetError(
            f"{file}: expected each image once, {len(twice)} lines name one again, the first is {twice[0]}. "
            "Take these lines out."
        )
    if not lines:
        raise DatasetError(
            f"{file}: expected an image's path or name on each line, found no line. Give another list, or none for "
            "all images."
        )
    return set(lines)


def _places(root: Path, images: Sequence[ImageFiles]) -> Mapping[tuple[str, ...], ImageFiles]:
    """Every way to name an image. File names are unique in a data set, so the ends of paths are."""
    places = {}
    for image in images:
        parts = tuple(map(one_form, image.image.relative_to(root).parts))
        places.update({parts[first:]: image for first in range(len(parts))})
    for image in images:
        places.setdefault((image.name,), image)
    return places


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not empty, from a file of bounded size."""
    if not file.is_file():  # nor a device or a pipe, which may have no end
        raise DatasetError(f"{file}: expected a text file that names images, found none. Check the path.")
    with file.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DatasetError(f"{file}: expected a list of at most {MAX_BYTES} bytes, it is longer. Check the path.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{file}: expected UTF-8 text that names images, could not read it ({error.reason} at byte "
            f"{error.start}). Check the path, or save the list as UTF-8."
        ) from error
    stripped = ((number, line.strip(" \t\r")) for number, line in enumerate(text.split("\n"), 1))
    return ((number, line) for number, line in stripped if line)


def _leads_out(text: str) -> str | None:
    """Why a line is not a path within a folder on every system; None if it is."""
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        return "holds a control character"
    if "\\" in text:
        return "holds a backslash"
    if text.startswith("/"):
        return "is an absolute path"
    if re.match("[A-Za-z]:", text):
        return "starts with a drive letter"
    return "holds '..'" if ".." in PurePosixPath(text).parts else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


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
        exclude: Names of images to exclude.
        listed: Text file that names the images to keep, as :func:`listed_names` reads it; None for
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
