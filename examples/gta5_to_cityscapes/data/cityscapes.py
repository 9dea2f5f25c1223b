"""Cityscapes: ``leftImg8bit/<split>/<city>/*_leftImg8bit.png`` and, for labels,
``gtFine/<split>/<city>/*_gtFine_labelIds.png``.
"""

from collections.abc import Collection
from pathlib import Path

from .errors import DatasetError
from .listing import pair_files, pictures_in, require_folder, require_pictures, unique_by_name, visible_entries
from .samples import PictureFiles

EXPECTED = (
    "leftImg8bit/<split>/<city>/*_leftImg8bit.png|jpg and, for labels, gtFine/<split>/<city>/*_gtFine_labelIds.png"
)


def list_cityscapes(root: Path, split: str, *, labels: bool, exclude: Collection[str]) -> list[PictureFiles]:
    """Pairs sorted by name, which starts with the city. gtFine is not touched unless labels are asked for."""
    images = _files_of_cities(root / "leftImg8bit" / split, "_leftImg8bit", "picture")
    require_pictures(images, root / "leftImg8bit" / split, "<city>/<name>_leftImg8bit.png")
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
    require_folder(folder, "cityscapes", EXPECTED)
    cities = [city for city in visible_entries(folder) if city.is_dir()]
    named = [
        (path.stem.removesuffix(ending), path)
        for city in cities
        for path in pictures_in(city)
        if path.stem.endswith(ending)
    ]
    return unique_by_name(named, what)
