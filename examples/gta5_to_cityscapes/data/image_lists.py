"""Text files that choose images of a data set."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from .image_files import DatasetError


def one_form(text: str) -> str:
    """A name in Unicode form NFC, in which names are compared: macOS may store an umlaut as two characters."""
    return unicodedata.normalize("NFC", text)


MAX_BYTES = 2**24  # ten times a list of all of GTA5 with long paths


def listed_names(file: Path, root: Path, images: Mapping[str, Path]) -> set[str]:
    """Names of the ``images`` that a list file chooses.

    A line is an image's path in the data folder (``images/00001.png``), the end of it from any folder on
    (``aachen/aachen_000000_000019_leftImg8bit.png``, ``00001.png``), or the image's name (``00001``). Lines are
    compared with the files that were found there, in either Unicode form, and never opened as paths, so a list leads
    nowhere that the owner of the folder, with links to where the images lie, has not led. Empty lines are
    ignored.

    Args:
        file: The list, UTF-8.
        root: The data folder.
        images: What was found in it, by name.

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
        name = places.get(PurePosixPath(one_form(text)).parts)
        if name is None:
            absent.append(where)
        elif name in lines:
            twice.append(f"{where}, the same image as line {lines[name]}")
        else:
            lines[name] = number
    if absent:
        name = min(images)
        raise DatasetError(
            f"{file}: expected names of the {len(images)} images found in {root}, {len(absent)} lines name none of "
            f"them, the first is {absent[0]}. Write them as {images[name].relative_to(root).as_posix()!r} or "
            f"{name!r}, and give the list of this data set and split."
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


def _places(root: Path, images: Mapping[str, Path]) -> Mapping[tuple[str, ...], str]:
    """Every way to name an image. File names are unique in a data set, so the ends of paths are."""
    places = {}
    for name, path in images.items():
        parts = tuple(map(one_form, path.relative_to(root).parts))
        places.update({parts[first:]: name for first in range(len(parts))})
    for name in images:
        places.setdefault((name,), name)
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
