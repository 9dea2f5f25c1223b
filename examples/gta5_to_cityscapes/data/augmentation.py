"""Augmentation of training images: geometry, together with their labels, and appearance."""

from __future__ import annotations

from typing import Any, Literal

import kornia.augmentation as K
from torch import Tensor, nn

from ..config import AppearanceConfig, AugmentationConfig


class TrainingAugmentation:
    """Random augmentation of images and labels of one domain.

    Args:
        settings: What is changed, and how far.
        crops: Random crops of an image that was drawn for a class until one shows it; the last is taken.
        least: The share of a crop that must be exceeded by the class.
    """

    def __init__(self, settings: AugmentationConfig, crops: int = 1, least: float = 0.0) -> None:
        self.settings, self.crops, self.least = settings, crops, least
        self._geometry: dict[tuple[int, int], K.AugmentationSequential | None] = {}
        self._appearance = appearance(settings)

    def __call__(
        self, images: Tensor, labels: Tensor, domain: Literal["labeled", "target"], classes: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cut and change images (B, 3, H, W) in [0, 1] and labels (B, H, W) int64 together.

        ``classes`` (B,) are those that the images were drawn for, if they were.

        Returns:
            The images, their labels, and the images before their colors and sharpness were changed.
        """
        extent = self.settings.target if domain == "target" else "all"
        if extent == "none":
            return images, labels, images
        height, width = images.shape[-2:]
        if (height, width) not in self._geometry:
            self._geometry[height, width] = geometry(self.settings, (height, width))
        change = self._geometry[height, width]
        if change is not None:
            images, labels = self._cut(change, images, labels, classes)
        plain = images
        if self._appearance is not None and extent == "all":
            images = self._appearance(images).clamp(0, 1)
        return images, labels, plain

    def _cut(
        self, change: K.AugmentationSequential, images: Tensor, labels: Tensor, classes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Cut images and labels, and again where the class is missed; each attempt is a read of the device."""
        cut, moved = _changed(change, images, labels)
        if classes is None or not any(isinstance(step, K.RandomCrop | K.RandomResizedCrop) for step in change):
            return cut, moved
        for _ in range(self.crops - 1):
            missed = (moved == classes[:, None, None]).float().mean((1, 2)) <= self.least
            if not missed.any():
                break
            cut[missed], moved[missed] = _changed(change, images[missed], labels[missed])
        return cut, moved


def _changed(change: K.AugmentationSequential, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    images, moved = change(images, labels[:, None].to(images.dtype))
    return images, moved[:, 0].round().long()


def geometry(settings: AugmentationConfig, size: tuple[int, int]) -> K.AugmentationSequential | None:
    """Geometric augmentations of images and labels; labels are sampled nearest and nothing is padded."""
    steps: list[Any] = []
    crop = settings.crop or size
    if settings.scale == (1.0, 1.0) and settings.ratio_jitter == 1.0:
        if crop != size:
            steps.append(K.RandomCrop(crop, cropping_mode="slice"))  # of the image as it is
    elif crop != size or settings.scale != (1.0, 1.0):
        ratio = crop[1] / crop[0]
        steps.append(
            K.RandomResizedCrop(
                crop,
                scale=settings.scale,
                ratio=(ratio / settings.ratio_jitter, ratio * settings.ratio_jitter),
                cropping_mode="slice",
            )
        )
    if settings.flip:
        steps.append(K.RandomHorizontalFlip(p=settings.flip))
    return K.AugmentationSequential(*steps, data_keys=["input", "mask"]) if steps else None


def appearance(settings: AppearanceConfig) -> nn.Sequential | None:
    """Photometric augmentations of the images."""
    steps: list[nn.Module] = []
    if settings.color_jitter:
        steps.append(
            K.ColorJiggle(
                settings.brightness,
                settings.contrast,
                settings.saturation,
                settings.hue,
                p=settings.color_jitter,
            )
        )
    if settings.grayscale:
        steps.append(K.RandomGrayscale(p=settings.grayscale))
    if settings.blur:
        steps.append(K.RandomGaussianBlur((5, 5), settings.blur_sigma, p=settings.blur))
    if settings.noise:
        steps.append(K.RandomGaussianNoise(std=settings.noise_deviation, p=settings.noise))
    return nn.Sequential(*steps) if steps else None
