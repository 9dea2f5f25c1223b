"""Label spaces, and resizing, majorities, Eq. 4 and Eq. 11 against the oracles, in every integer type."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import stuffinstance as si
from stuffinstance._checks import check_class_ids
from tests import oracles

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


INTEGERS = [torch.uint8, torch.int16, torch.int32, torch.int64]


def labels_of(shape: tuple[int, ...], classes: int = 6) -> torch.Tensor:
    labels = torch.randint(classes, shape)
    return torch.where(torch.rand(shape) < 0.1, 255, labels)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(("size", "into"), [
    ((8, 12), (4, 6)),
    ((7, 13), (3, 5)),
    ((5, 5), (5, 5)),
    ((3, 4), (7, 9)),
    ((1, 1), (4, 3)),
    ((720, 3), (90, 1)),
    ((3, 1052), (2, 131)),
])  # fmt: skip
def test_resizing_takes_whole_number_steps(size: tuple[int, int], into: tuple[int, int], dtype: torch.dtype) -> None:
    labels = (torch.arange(size[0] * size[1]) % 120).view(1, *size)
    resized = si.resize_labels(labels.to(dtype), into)
    assert resized.dtype == dtype
    np.testing.assert_array_equal(resized[0].numpy(), oracles.resize_nearest(labels[0].numpy(), *into))


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.55, 0.75, 1.0])
@pytest.mark.parametrize(("size", "into"), [
    ((16, 24), (4, 6)), ((17, 23), (4, 5)), ((5, 4), (5, 4)), ((3, 20), (7, 3)), ((6, 6), (1, 1)), ((2, 3), (5, 7)),
])  # fmt: skip
def test_majorities_equal_the_oracle(
    size: tuple[int, int], into: tuple[int, int], fraction: float, dtype: torch.dtype
) -> None:
    labels = labels_of((3, *size), 3)
    labels[1, :, : size[1] // 2] = 255
    found = si.majority_labels(labels.to(dtype), into, 3, min_fraction=fraction)
    assert found.dtype == torch.int64
    for image, ids in zip(found, labels, strict=True):
        np.testing.assert_array_equal(image.numpy(), oracles.majority_labels(ids.numpy(), *into, fraction))


def test_a_majority_is_of_all_pixels_of_a_cell() -> None:
    """Of 20 pixels exactly 11 are 0.55, and ignored ones count among them; no image gives no cell."""
    labels = torch.tensor([[[2] * 11 + [255] * 9]])
    assert si.majority_labels(labels, (1, 1), 3, min_fraction=0.55).item() == 2
    assert si.majority_labels(labels, (1, 1), 3, min_fraction=0.56).item() == 255
    assert si.majority_labels(labels % 255 - 1, (1, 1), 3, min_fraction=0.56, ignore_index=-1).item() == -1
    assert si.majority_labels(labels[:0], (1, 1), 3).shape == (0, 1, 1)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(("size", "into"), [((16, 24), (4, 6)), ((11, 9), (4, 4)), ((4, 6), (4, 6))])
def test_correct_labels_equal_the_oracle(size: tuple[int, int], into: tuple[int, int], dtype: torch.dtype) -> None:
    labels, logits = labels_of((3, *size)), torch.randn(3, 6, *into)
    corrected = si.correct_labels(labels.to(dtype), logits)
    assert corrected.dtype == torch.int64
    for image, ground_truth, scores in zip(corrected, labels, logits, strict=True):
        np.testing.assert_array_equal(image.numpy(), oracles.correct_labels(ground_truth.numpy(), scores.numpy()))


def test_correct_labels_never_need_a_gradient() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    assert not si.correct_labels(torch.zeros(1, 4, 4, dtype=torch.int64), logits).requires_grad


def test_correct_labels_write_another_ignored_id() -> None:
    logits = torch.tensor([[[[0.0, 1.0]], [[1.0, 0.0]]]])
    assert si.correct_labels(torch.tensor([[[0, 0]]]), logits, ignore_index=-1).tolist() == [[[-1, 0]]]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_pseudo_labels_replace_predictions_where_they_exist(dtype: torch.dtype) -> None:
    predicted, pseudo = torch.randint(6, (2, 5, 7)), labels_of((2, 11, 15))
    merged = si.merge_pseudo_labels(predicted, pseudo.to(dtype))
    assert merged.dtype == torch.int64
    for image, guess, label in zip(merged, predicted, pseudo, strict=True):
        np.testing.assert_array_equal(image.numpy(), oracles.merge_pseudo_labels(guess.numpy(), label.numpy()))


@pytest.mark.parametrize("num_classes", [1, 2, 19, 255, 256, 300])
@pytest.mark.parametrize("ignore", [None, 255, 254, 20, 0, -1, 300])
@pytest.mark.parametrize("others", [(), (19,), (20,), (254,), (255,), (256,), (-1,), (300, 0)])
def test_class_ids_are_those_below_k_and_the_ignored_one(
    num_classes: int, ignore: int | None, others: tuple[int, ...]
) -> None:
    ids = [0, num_classes - 1, *others, *([] if ignore is None else [ignore])]
    labels = torch.tensor(ids)[None, None]
    if all(0 <= k < num_classes or k == ignore for k in ids):
        check_class_ids("labels", labels, num_classes, ignore)
    else:
        with pytest.raises(ValueError, match=r"labels must hold class ids 0\.\."):
            check_class_ids("labels", labels, num_classes, ignore)
