"""What a translation is trained with; kept beside it and in its checkpoint."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from examples.gta5_to_cityscapes.data.image_files import MAX_PIXELS
from stuffinstance.losses.adversarial import SOURCE, TARGET

Towards = Literal["source", "target"]
DOMAINS: dict[Towards, int] = {"source": int(SOURCE), "target": int(TARGET)}


@dataclass(frozen=True)
class Settings:
    """All that the result follows from, beside the images.

    Attributes:
        steps: Updates of the generator, each after one of the discriminator.
        size: (height, width) at which images are read, in training and in use.
        crop: (height, width) cut from each image at random, or None for the whole.
        batch: Images of each domain per step.
        seed: Of start weights, order, crops and flips.
        width: Channels at full resolution; 2 and 4 times as many at a half and a quarter of it.
        blocks: Residual blocks at a quarter of the resolution.
        lr: Of both Adams; constant for the first half of the steps, then falling to 0 on a straight line.
        real_fake: Weight of the real/fake loss, 1 in StarGAN.
        domain: Weight of the domain classification, 1 in StarGAN.
        reconstruction: Weight of the cycle's L1 for images in [0, 1]. StarGAN has 10 for images in [-1, 1], which
            would be 20 here; half of it moves more in a short training.
        identity: Weight of the L1 between an image and its translation to its own domain; 0 omits it.
        consistency: Weight of the KL divergence between a frozen segmentation before and after; used when
            ``segmentation`` is given.
        segmentation: SHA-256 of the frozen segmentation's weights, or None.
        noise: Deviation of the noise on a translation before it is taken back, as a share of the range of values:
            without it a generator hides the image in differences too small to see (Chu et al., 2017).
        average: Highest share of the old in the running mean of the generator, which is what gets applied.
    """

    steps: int = 2500
    size: tuple[int, int] = (120, 240)
    crop: tuple[int, int] | None = (64, 128)
    batch: int = 1
    seed: int = 0
    width: int = 16
    blocks: int = 3
    lr: float = 7e-4
    real_fake: float = 1.0
    domain: float = 1.0
    reconstruction: float = 10.0
    identity: float = 0.0
    consistency: float = 1.0
    segmentation: str | None = None
    noise: float = 0.02
    average: float = 0.99

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "width", "blocks"):
            if not 1 <= getattr(self, name) < 2**31:
                raise ValueError(f"{name} must be at least 1 and below 2^31, got {getattr(self, name)}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be a whole number of at least 0 and below 2^32, got {self.seed}.")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be above 0 and finite, got {self.lr}.")
        if not 0 <= self.average <= 1:
            raise ValueError(f"average must be between 0 and 1, got {self.average}.")
        for name in ("real_fake", "domain", "reconstruction", "identity", "consistency", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} is the weight of a loss, or of noise, and must be at least 0 and finite, got "
                    f"{getattr(self, name)}."
                )
        if min(self.size) < SMALLEST or (self.crop is not None and min(self.crop) < SMALLEST):
            raise ValueError(
                f"size and crop must be (height, width), at least {SMALLEST} pixels each, got {self.size} and "
                f"{self.crop}."
            )
        if self.size[0] * self.size[1] > MAX_PIXELS:
            raise ValueError(f"size must be (height, width) of at most {MAX_PIXELS} pixels, got {self.size}.")
        if self.crop is not None and (self.crop[0] > self.size[0] or self.crop[1] > self.size[1]):
            raise ValueError(f"crop {self.crop} must fit into size {self.size}, both (height, width).")

    def as_plain(self) -> dict[str, Any]:
        """Numbers, strings, lists and None, as JSON and a checkpoint keep them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Settings:
        """The settings that :meth:`as_plain` gave."""
        known = {field.name for field in fields(cls)}
        if plain.keys() != known:
            raise ValueError(f"settings must name {sorted(known)}, got {sorted(plain)}. Train again.")
        values: dict[str, Any] = {name: tuple(kept) if isinstance(kept, list) else kept for name, kept in plain.items()}
        return cls(**values)

    def learning_rate(self, step: int) -> float:
        """Of the update after ``step`` ones."""
        return self.lr * min(1.0, 2 * (1 - step / self.steps))


SMALLEST = 16  # pixels: the discriminator halves three times, and the mean of one patch says nothing of texture


def domain_of(towards: str) -> int:
    """0 for source and 1 for target, as everywhere in the library."""
    if towards not in get_args(Towards):
        raise ValueError(f"towards must be one of {', '.join(get_args(Towards))}, got {towards!r}.")
    return DOMAINS["source" if towards == "source" else "target"]
