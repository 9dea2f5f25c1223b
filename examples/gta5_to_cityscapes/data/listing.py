"""Finding files: what a folder must hold, in a fixed order, with an error that says what is missing."""

import unicodedata
from collections.abc import Collection, Mapping
from pathlib import Path

from .errors import DatasetError
from .pictures import PICTURE_SUFFIXES
from .samples import PictureFiles

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


def pictures_in(folder: Path) -> list[Path]:
    """Pictures directly in a folder, sorted by name; hidden files are not pictures."""
    return [path for path in visible_entries(folder) if path.suffix.lower() in PICTURE_SUFFIXES]


def pair_files(
    images: Mapping[str, Path],
    labels: Mapping[str, Path] | None,
    *,
    expected_label: str,
    exclude: Collection[str],
) -> list[PictureFiles]:
    """Join images with their labels by name, in sorted order of the names.

    Raises:
        DatasetError: If an image has no label, or an excluded name does not exist.
    """
    left_out = {one_form(name) for name in exclude}
    strangers = sorted(left_out - images.keys())
    if strangers:
        raise DatasetError(f"exclude must name pictures of the data set, got {strangers[:5]}. Check the spelling.")
    names = [name for name in sorted(images) if name not in left_out]
    if labels is None:
        return [PictureFiles(name, images[name], None) for name in names]
    missing = [name for name in names if name not in labels]
    if missing:
        raise DatasetError(
            f"{images[missing[0]]}: expected its label map at {expected_label.format(name=missing[0])}, "
            f"found none ({len(missing)} of {len(names)} pictures have none{_alike(missing[0], labels)}). Add the "
            "labels, or take the pictures out of the folder."
        )
    return [PictureFiles(name, images[name], labels[name]) for name in names]


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


def require_pictures(images: Mapping[str, Path], folder: Path, pattern: str) -> None:
    """At least one picture, or an error that shows the pattern."""
    if not images:
        raise DatasetError(
            f"{folder}: expected pictures named {pattern} (png or jpg), found none. "
            "Unpack the image archive of the data set here."
        )
