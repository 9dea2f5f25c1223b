"""Augmentation moves an image and its labels as one, invents no class, and repeats itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from examples.gta5_to_cityscapes.config import AugmentationConfig
from examples.gta5_to_cityscapes.data.augmentation import TrainingAugmentation
from examples.gta5_to_cityscapes.recipes import compose_recipe

CLASSES = (0, 3, 7, 11, 18, 255)
GEOMETRY: dict[str, dict[str, Any]] = {
    "flip": {"flip": 1.0},
    "crop": {"crop": (32, 64)},
    "scale": {"scale": (0.3, 0.9)},
    "ratio_jitter": {"scale": (0.5, 0.9), "ratio_jitter": 1.5},
    "all": {"crop": (40, 72), "scale": (0.4, 1.0), "ratio_jitter": 1.2, "flip": 0.5},
}


def blocks(count: int = 8, height: int = 64, width: int = 128) -> tuple[Tensor, Tensor]:
    """Images whose color encodes the class of every pixel, in blocks of 16, and their labels."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(0, len(CLASSES), (count, height // 16, width // 16), generator=generator)
    places = places.repeat_interleave(16, 1).repeat_interleave(16, 2)
    images = (places / (len(CLASSES) - 1))[:, None].repeat(1, 3, 1, 1)
    return images, torch.tensor(CLASSES)[places]


def shown(images: Tensor) -> Tensor:
    """The class that each pixel's color encodes."""
    return torch.tensor(CLASSES)[(images[:, 0] * (len(CLASSES) - 1)).round().long()]


@pytest.mark.parametrize("name", GEOMETRY)
def test_labels_stay_under_their_pixels(name: str) -> None:
    images, labels = blocks()
    torch.manual_seed(1)
    moved, moved_labels, _ = TrainingAugmentation(AugmentationConfig(**GEOMETRY[name]))(images, labels, "labeled")
    height, width = GEOMETRY[name].get("crop") or images.shape[-2:]
    assert moved.shape == (8, 3, height, width)
    assert moved_labels.shape == (8, height, width)
    assert moved_labels.dtype == torch.int64
    assert set(moved_labels.unique().tolist()) <= set(CLASSES)
    # Colors are interpolated and labels are not, so only pixels on the edge of a block may disagree.
    assert (shown(moved) == moved_labels).float().mean() > (1.0 if name == "flip" else 0.85) - 1e-6
    around = [max_pool2d(sign * moved[:, :1], 5, 1, 2)[:, 0] for sign in (1, -1)]
    inside = around[0] + around[1] < 1e-3  # one color throughout the neighborhood
    assert inside.float().mean() > 0.4
    assert torch.equal(shown(moved)[inside], moved_labels[inside])
    assert not torch.equal(moved_labels, labels)


def test_a_crop_without_scales_is_a_part_of_the_image_as_it_is() -> None:
    images, labels = blocks()
    torch.manual_seed(1)
    cut, cut_labels, _ = TrainingAugmentation(AugmentationConfig(crop=(20, 30)))(images, labels, "labeled")
    places = set()
    for i in range(len(images)):
        windows = images[i, 0].unfold(0, 20, 1).unfold(1, 30, 1)
        same = (windows == cut[i, 0]).all(-1).all(-1)
        same_labels = (labels[i].unfold(0, 20, 1).unfold(1, 30, 1) == cut_labels[i]).all(-1).all(-1)
        assert (same & same_labels).any()
        places |= {tuple(place) for place in same.nonzero().tolist()}
    assert len({top for top, _ in places}) > 1


def test_a_flip_is_exact() -> None:
    images, labels = blocks()
    moved, moved_labels, _ = TrainingAugmentation(AugmentationConfig(flip=1.0))(images, labels, "target")
    assert torch.equal(moved, images.flip(-1))
    assert torch.equal(moved_labels, labels.flip(-1))


@pytest.mark.parametrize("size", ["small", "smoke"])
def test_the_same_seed_gives_the_same_images(size: str) -> None:
    images, labels = blocks(4, 128, 240) if size == "small" else blocks(4, 48, 96)
    settings = compose_recipe("source", size).augmentation

    def draw(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(seed)
        return TrainingAugmentation(settings)(images, labels, "labeled")

    first, again, other = draw(5), draw(5), draw(6)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert first[0].min() >= 0
    assert first[0].max() <= 1


@pytest.mark.parametrize("target", ["none", "geometry", "all"])
def test_how_far_the_target_is_changed_is_a_setting(target: str) -> None:
    images, labels = blocks()
    settings = AugmentationConfig(flip=1.0, noise=1.0, target=target)  # type: ignore[arg-type]
    moved, moved_labels, plain = TrainingAugmentation(settings)(images, labels, "target")
    assert torch.equal(moved_labels, labels if target == "none" else labels.flip(-1))
    assert torch.equal(moved, images) == (target == "none")
    assert torch.equal(moved, images.flip(-1)) == (target == "geometry")
    assert torch.equal(plain, images if target == "none" else images.flip(-1))


def test_the_authors_change_nothing() -> None:
    images, labels = blocks()
    settings = compose_recipe("aa", "full").augmentation
    moved, moved_labels, _ = TrainingAugmentation(settings)(images, labels, "labeled")
    assert torch.equal(moved, images)
    assert torch.equal(moved_labels, labels)
