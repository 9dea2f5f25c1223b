"""The three published label spaces, custom ones, and those that cannot be."""

from __future__ import annotations

import dataclasses

import pytest

import stuffinstance as si

CITYSCAPES_NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
    "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
STUFF = ("road", "sidewalk", "building", "wall", "fence", "vegetation", "terrain", "sky")
MISSING_16 = ("terrain", "truck", "train")
MISSING_13 = (*MISSING_16, "wall", "fence", "pole")


def test_cityscapes_is_the_published_one() -> None:
    space = si.CITYSCAPES
    assert space.names == CITYSCAPES_NAMES
    assert space.num_classes == 19
    assert space.stuff == (0, 1, 2, 3, 4, 8, 9, 10)
    assert space.things == (5, 6, 7, 11, 12, 13, 14, 15, 16, 17, 18)
    assert space.ignore_index == 255
    assert space.palette is not None
    assert space.palette[0] == (128, 64, 128)
    assert space.palette[13] == (0, 0, 142)
    assert space.palette[18] == (119, 11, 32)


@pytest.mark.parametrize(
    ("space", "missing"), [(si.SYNTHIA_16, MISSING_16), (si.SYNTHIA_13, MISSING_13)], ids=["16", "13"]
)
def test_synthia_is_cityscapes_without_some_classes(space: si.LabelSpace, missing: tuple[str, ...]) -> None:
    assert space.names == tuple(name for name in CITYSCAPES_NAMES if name not in missing)
    assert space.num_classes == 19 - len(missing)
    assert {space.names[k] for k in space.stuff} == set(STUFF) - set(missing)
    assert {space.names[k] for k in space.things} == set(CITYSCAPES_NAMES) - set(STUFF) - set(missing)
    assert space.palette is not None
    assert si.CITYSCAPES.palette is not None
    for name, color in zip(space.names, space.palette, strict=True):
        assert color == si.CITYSCAPES.palette[CITYSCAPES_NAMES.index(name)]


def test_a_custom_space_of_any_size() -> None:
    space = si.LabelSpace(names=("floor", "cup", "other"), stuff=(0,), things=(1,), ignore_index=-1)
    assert (space.num_classes, space.stuff, space.things, space.palette) == (3, (0,), (1,), None)
    assert space.ids(("cup", "floor")) == (1, 0)


def test_spaces_are_frozen_and_compare_by_value() -> None:
    space = si.LabelSpace(names=("a", "b"), stuff=(0,), things=(1,))
    assert space == si.LabelSpace(names=("a", "b"), stuff=(0,), things=(1,))
    assert hash(space) == hash(si.LabelSpace(names=("a", "b"), stuff=(0,), things=(1,)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        space.stuff = (1,)
