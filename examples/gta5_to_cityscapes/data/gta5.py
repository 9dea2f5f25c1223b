"""GTA5: ``images/00001.png`` and ``labels/00001.png``, palette PNG whose indices are Cityscapes label ids."""

from collections.abc import Collection
from pathlib import Path

from .errors import DatasetError
from .listing import pair_files, pictures_in, require_folder, require_pictures, unique_by_name
from .samples import PictureFiles

EXPECTED = "images/*.png|jpg and labels/*.png"


def list_gta5(root: Path, split: str, *, labels: bool, exclude: Collection[str]) -> list[PictureFiles]:
    """Pairs sorted by name. The whole data set is one training split."""
    return list_flat_pairs(root, split, "gta5", EXPECTED, ("images", "labels"), labels=labels, exclude=exclude)


def list_flat_pairs(
    root: Path,
    split: str,
    layout: str,
    expected: str,
    folders: tuple[str, str],
    *,
    labels: bool,
    exclude: Collection[str],
) -> list[PictureFiles]:
    """Pairs of equal stems in two flat folders, the shape both game data sets share."""
    if split != "train":
        raise DatasetError(f"split must be 'train' for the {layout} layout, which has no other, got {split!r}.")
    image_folder = require_folder(root / folders[0], layout, expected)
    images = unique_by_name([(path.stem, path) for path in pictures_in(image_folder)], "picture")
    require_pictures(images, image_folder, "<name>.png")
    label_files = None
    if labels:
        label_folder = require_folder(root / folders[1], layout, expected)
        label_maps = [path for path in pictures_in(label_folder) if path.suffix.lower() == ".png"]
        label_files = unique_by_name([(path.stem, path) for path in label_maps], "label map")
    return pair_files(images, label_files, expected_label=f"{root / folders[1]}/{{name}}.png", exclude=exclude)
