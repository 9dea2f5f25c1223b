"""Raw label ids of each data set, by name, and the lookup tables that turn them into ids of a label space.

Everything goes through names: the same Cityscapes image can be read in the 19, 16 or 13 class space, and no
second list of numbers can drift away from the first. A name that the space does not have becomes ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stuffinstance import CITYSCAPES, LabelSpace

CITYSCAPES_IDS: Mapping[int, str] = {
    0: "unlabeled",
    1: "ego vehicle",
    2: "rectification border",
    3: "out of roi",
    4: "static",
    5: "dynamic",
    6: "ground",
    7: "road",
    8: "sidewalk",
    9: "parking",
    10: "rail track",
    11: "building",
    12: "wall",
    13: "fence",
    14: "guard rail",
    15: "bridge",
    16: "tunnel",
    17: "pole",
    18: "polegroup",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    29: "caravan",
    30: "trailer",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
    255: "license plate",  # published as -1, which one byte stores as 255
}

# GTA5 uses the ids of Cityscapes, but its palette has an entry for the plates that Cityscapes calls -1.
GTA5_IDS: Mapping[int, str] = {**{i: name for i, name in CITYSCAPES_IDS.items() if i != 255}, 34: "license plate"}

# Names are those of Cityscapes where the class is the same thing ("pedestrian" is "person").
SYNTHIA_IDS: Mapping[int, str] = {
    0: "void",
    1: "sky",
    2: "building",
    3: "road",
    4: "sidewalk",
    5: "fence",
    6: "vegetation",
    7: "pole",
    8: "car",
    9: "traffic sign",
    10: "person",
    11: "bicycle",
    12: "motorcycle",
    13: "parking slot",
    14: "road work",
    15: "traffic light",
    16: "terrain",
    17: "rider",
    18: "truck",
    19: "bus",
    20: "train",
    21: "wall",
    22: "lane marking",
}


@dataclass(frozen=True)
class LabelTable:
    """Lookup from a raw id to an id of the label space.

    Attributes:
        ids: ``(256,)`` uint8, the id of the space or its ``ignore_index``.
        known: ``(256,)`` bool, False for raw ids that the data set does not define.
        names: Names of the raw ids that the data set defines.
    """

    ids: npt.NDArray[np.uint8]
    known: npt.NDArray[np.bool_]
    names: Mapping[int, str]


def build_label_table(raw_ids: Mapping[int, str], space: LabelSpace) -> LabelTable:
    """Match the names of a data set against those of a label space.

    Raises:
        ValueError: If no name of the space occurs in the data set, or if the space does not fit in one byte.
    """
    if not 0 <= space.ignore_index <= 255 or space.num_classes > 255:
        raise ValueError(
            "space must fit in one byte per pixel: at most 255 classes and an ignore_index in 0..255, got "
            f"{space.num_classes} classes and ignore_index {space.ignore_index}. Use a smaller space."
        )
    target = {name: index for index, name in enumerate(space.names)}
    if not target.keys() & set(raw_ids.values()):
        raise ValueError(
            f"space has none of the classes of this data set: it names {sorted(target)}, the data set "
            f"{sorted(set(raw_ids.values()))}. Name the classes of the space as Cityscapes does."
        )
    ids = np.full(256, space.ignore_index, dtype=np.uint8)
    known = np.zeros(256, dtype=np.bool_)
    for raw, name in raw_ids.items():
        known[raw] = True
        ids[raw] = target.get(name, space.ignore_index)
    return LabelTable(ids, known, raw_ids)


def look_like_train_ids(pixels: npt.NDArray[np.int64], raw_ids: Mapping[int, str]) -> bool:
    """Whether label maps hold train ids, 0..18 and 255 for what has no class, in place of the data set's label ids.

    They do where they hold three ids or more, all of them below 19 or 255, and as label ids would leave too much
    without a class: half of the pixels, or a tenth of them where 255, of which the published files have none, marks
    what has no class already.

    Args:
        pixels: ``(256,)`` pixels per raw id, over label maps that together show many classes.
        raw_ids: Names of the raw ids that the data set defines.
    """
    ids = np.flatnonzero(pixels[:255])
    if len(ids) < 3 or ids[-1] >= CITYSCAPES.num_classes:
        return False
    without_class = sum(int(pixels[i]) for i in ids if raw_ids.get(int(i)) not in CITYSCAPES.names)
    return without_class > (0.1 if pixels[255] else 0.5) * int(pixels[:255].sum())
