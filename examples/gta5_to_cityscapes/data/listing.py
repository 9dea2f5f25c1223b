"""Finding files: what a folder must hold, in a fixed order, with an error that says what is missing."""

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from .image_files import PICTURE_SUFFIXES, DatasetError
from .samples import ImageFiles

# What systems and programs leave in folders; names that start with a dot are hidden in any case.
_LEFT_BY_SYSTEMS = {
    "__macosx", "@eadir", "@recycle", "@tmp", "#recycle", "$recycle.bin", "system volume information", "lost+found",
    "desktop.ini", "ehthumbs.db", "thumbs.db",
}  # fmt: skip


def visible_entries(folder: Path) -> list[Path]:
    """What a person put into a folder, sorted: neither hidden files and folders nor what systems keep there."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.casefold() not in _LEFT_BY_SYSTEMS
    )


def one_form(text: str) -> str:
    """A name in the one Unicode form that names are compared in: macOS may store an umlaut as two characters."""
    return unicodedata.normalize("NFC", text)


def require_folder(folder: Path, layout: str, expected: str) -> Path:
    """The folder itself, or an error that shows the layout that was looked for."""
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
    return [path for path in visible_entries(folder) if path.suffix.lower() in PICTURE_SUFFIXES]


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
    left_out = {one_form(name) for name in exclude}
    strangers = sorted(left_out - images.keys())
    if strangers:
        raise DatasetError(f"exclude must name images of the data set, got {strangers[:5]}. Check the spelling.")
    names = [name for name in sorted(images) if name not in left_out]
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
    """A label map whose name is another only to a computer, for the message that misses it."""
    wanted = name.strip().casefold()
    found = next((path for other, path in labels.items() if other.strip().casefold() == wanted), None)
    return "" if found is None else f"; {found.name!r} differs in upper and lower case or in spaces"


def unique_by_name(named: list[tuple[str, Path]], what: str) -> dict[str, Path]:
    """A mapping from name to file; two files of one name are an error, never a silent choice.

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
    """At least one image, or an error that shows the pattern."""
    if not images:
        raise DatasetError(
            f"{folder}: expected images named {pattern} (png or jpg), found none. "
            "Unpack the image archive of the data set here."
        )


MAX_BYTES = 2**24  # ten times a list of all of GTA5 with long paths


def listed_names(file: Path, root: Path, images: Sequence[ImageFiles]) -> set[str]:
    """Names of those ``images`` that a list names.

    A line is an image's path in the data folder (``images/00001.png``), the end of it from any folder on
    (``aachen/aachen_000000_000019_leftImg8bit.png``, ``00001.png``), or the image's name (``00001``). Lines are
    compared with the files that were found there, in either Unicode form, and never opened as paths, so a list leads
    nowhere that the owner of the folder, with links to where the images lie, has not led. Empty lines are passed
    over.

    Args:
        file: The list, UTF-8.
        root: The data folder.
        images: What was found in it.

    Raises:
        DatasetError: If the list is no text or too large, is empty, names an image twice or one that is not there,
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
    """What keeps a line from being a path within a folder, on any system."""
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
