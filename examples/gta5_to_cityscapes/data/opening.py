"""One door to every layout."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stuffinstance import CITYSCAPES, LabelSpace

from .cityscapes import list_cityscapes
from .gta5 import list_gta5
from .label_tables import CITYSCAPES_IDS, GTA5_IDS, SYNTHIA_IDS, build_label_table
from .picture_lists import listed_names
from .pictures import MAX_PIXELS, first_channel_size, id_map_size, read_first_channel, read_id_map
from .samples import MapSize, PictureFiles, ReadIds, SegmentationDataset
from .synthia import list_synthia

Layout = Literal["gta5", "synthia", "cityscapes"]


@dataclass(frozen=True)
class _Reader:
    list_files: Callable[..., list[PictureFiles]]
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
        exclude: Names of pictures to leave out.
        listed: Text file that names the pictures to keep, as :func:`~.picture_lists.listed_names` reads it; None for
            all. What is left out needs no label map.
        max_pixels: Larger pictures are refused before they are decoded.

    Raises:
        DatasetError: If the folder is not of that layout, a picture has no label map, or two share a name,
            or if ``listed`` does not name pictures of this folder.
            Damaged files and pairs of unequal size raise it when they are read.
    """
    if layout not in _READERS:
        raise ValueError(f"layout must be one of {sorted(_READERS)}, got {layout!r}.")
    reader = _READERS[layout]
    root = Path(root)
    if listed is not None:
        pictures = reader.list_files(root, split, labels=False, exclude=exclude)
        exclude = {*exclude, *(each.name for each in pictures)} - listed_names(Path(listed), root, pictures)
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
