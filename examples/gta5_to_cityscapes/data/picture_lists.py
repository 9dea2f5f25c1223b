"""Lists: text files, often from others, that name the pictures of a data set to keep, one a line."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from .errors import DatasetError
from .listing import one_form
from .samples import PictureFiles

MAX_BYTES = 2**24  # ten times a list of all of GTA5 with long paths


def listed_names(file: Path, root: Path, pictures: Sequence[PictureFiles]) -> set[str]:
    """Names of those ``pictures`` that a list names.

    A line is a picture's path in the data folder (``images/00001.png``), the end of it from any folder on
    (``aachen/aachen_000000_000019_leftImg8bit.png``, ``00001.png``), or the picture's name (``00001``). Lines are
    compared with the files that were found there, in either Unicode form, and never opened as paths, so a list leads
    nowhere that the owner of the folder, with links to where the pictures lie, has not led. Empty lines are passed
    over.

    Args:
        file: The list, UTF-8.
        root: The data folder.
        pictures: What was found in it.

    Raises:
        DatasetError: If the list is no text or too large, is empty, names a picture twice or one that is not there,
            or a line leads out of the data folder.
    """
    places = _places(root, pictures)
    lines: dict[str, int] = {}
    absent: list[str] = []
    twice: list[str] = []
    for number, text in _lines(file):
        where = f"line {number}, {_short(text)}"
        if reason := _leads_out(text):
            raise DatasetError(
                f"{file}, {where}: expected a path relative to {root}, with / between folders, or a picture's name; "
                f"it {reason}. Correct the line, or take it out."
            )
        picture = places.get(PurePosixPath(one_form(text)).parts)
        if picture is None:
            absent.append(where)
        elif picture.name in lines:
            twice.append(f"{where}, the same picture as line {lines[picture.name]}")
        else:
            lines[picture.name] = number
    if absent:
        raise DatasetError(
            f"{file}: expected names of the {len(pictures)} pictures found in {root}, {len(absent)} lines name none of "
            f"them, the first is {absent[0]}. Write them as {pictures[0].image.relative_to(root).as_posix()!r} or "
            f"{pictures[0].name!r}, and give the list of this data set and split."
        )
    if twice:
        raise DatasetError(
            f"{file}: expected each picture once, {len(twice)} lines name one again, the first is {twice[0]}. "
            "Take these lines out."
        )
    if not lines:
        raise DatasetError(
            f"{file}: expected a picture's path or name on each line, found no line. Give another list, or none for "
            "all pictures."
        )
    return set(lines)


def _places(root: Path, pictures: Sequence[PictureFiles]) -> Mapping[tuple[str, ...], PictureFiles]:
    """Every way to name a picture. File names are unique in a data set, so the ends of paths are."""
    places = {}
    for picture in pictures:
        parts = tuple(map(one_form, picture.image.relative_to(root).parts))
        places.update({parts[first:]: picture for first in range(len(parts))})
    for picture in pictures:
        places.setdefault((picture.name,), picture)
    return places


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not empty, from a file of bounded size."""
    if not file.is_file():  # nor a device or a pipe, which may have no end
        raise DatasetError(f"{file}: expected a text file that names pictures, found none. Check the path.")
    with file.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DatasetError(f"{file}: expected a list of at most {MAX_BYTES} bytes, it is longer. Check the path.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{file}: expected UTF-8 text that names pictures, could not read it ({error.reason} at byte "
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
