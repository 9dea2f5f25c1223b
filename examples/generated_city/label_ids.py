"""The Cityscapes label ids that the city draws; GTA5 numbers its classes the same way, SYNTHIA in its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNLABELED, EGO_VEHICLE, STATIC, DYNAMIC, GROUND = 0, 1, 4, 5, 6
ROAD, SIDEWALK, PARKING, BUILDING, WALL, FENCE = 7, 8, 9, 11, 12, 13
POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN = 17, 19, 20
VEGETATION, TERRAIN, SKY = 21, 22, 23
PERSON, RIDER = 24, 25
CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = 26, 27, 28, 31, 32, 33

COLORS: dict[int, tuple[int, int, int]] = {
    UNLABELED: (0, 0, 0),
    EGO_VEHICLE: (0, 0, 0),
    STATIC: (0, 0, 0),
    DYNAMIC: (111, 74, 0),
    GROUND: (81, 0, 81),
    ROAD: (128, 64, 128),
    SIDEWALK: (244, 35, 232),
    PARKING: (250, 170, 160),
    BUILDING: (70, 70, 70),
    WALL: (102, 102, 156),
    FENCE: (190, 153, 153),
    POLE: (153, 153, 153),
    TRAFFIC_LIGHT: (250, 170, 30),
    TRAFFIC_SIGN: (220, 220, 0),
    VEGETATION: (107, 142, 35),
    TERRAIN: (152, 251, 152),
    SKY: (70, 130, 180),
    PERSON: (220, 20, 60),
    RIDER: (255, 0, 0),
    CAR: (0, 0, 142),
    TRUCK: (0, 0, 70),
    BUS: (0, 60, 100),
    TRAIN: (0, 80, 100),
    MOTORCYCLE: (0, 0, 230),
    BICYCLE: (119, 11, 32),
}
VOID_IDS = frozenset({UNLABELED, EGO_VEHICLE, STATIC, DYNAMIC, GROUND, PARKING})
TRAINING_IDS = tuple(i for i in COLORS if i not in VOID_IDS)  # the 19 classes

SYNTHIA_IDS = {  # anything else is SYNTHIA's void, 0
    **{SKY: 1, BUILDING: 2, ROAD: 3, SIDEWALK: 4, FENCE: 5, VEGETATION: 6, POLE: 7, CAR: 8, TRAFFIC_SIGN: 9},
    **{PERSON: 10, BICYCLE: 11, MOTORCYCLE: 12, PARKING: 13, TRAFFIC_LIGHT: 15, TERRAIN: 16, RIDER: 17},
    **{TRUCK: 18, BUS: 19, TRAIN: 20, WALL: 21},
}


def synthia_ids(ids: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The same label map (H, W) in SYNTHIA's numbers."""
    table = np.zeros(256, np.uint16)
    table[list(SYNTHIA_IDS)] = list(SYNTHIA_IDS.values())
    return table[ids]


def palette() -> list[int]:
    """Flat RGB palette for the indexed label images."""
    flat = [0] * 768
    for label, color in COLORS.items():
        flat[3 * label : 3 * label + 3] = color
    return flat
