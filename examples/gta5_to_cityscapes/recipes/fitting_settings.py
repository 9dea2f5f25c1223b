"""Checks of settings that must fit each other, made when a Recipe is, before anything is read or written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..data.pictures import MAX_PIXELS

if TYPE_CHECKING:
    from .recipe import Recipe

SMALLEST_BLURRED = 3  # the blur's kernel of 5 reflects two pixels at each border
SMALLEST_JUDGED = 32  # a discriminator of five convolutions of stride 2


def check_image_sizes(recipe: Recipe) -> None:
    """Check that the blur and the discriminator of outputs can take the images of a step.

    Raises:
        ValueError: If the images are too small.
    """
    blurred = {"source_size" if recipe.labelled == "source" else "target_size"}
    if recipe.augmentation.target == "all":
        blurred.add("target_size")
    for field, size in recipe.trained_sizes.items():
        named = f"pictures.{field} and augmentation.crop"
        if recipe.augmentation.blur and field in blurred and min(size) < SMALLEST_BLURRED:
            raise ValueError(
                f"augmentation.blur needs images of at least {SMALLEST_BLURRED} pixels a side, got {list(size)} "
                f"(height, width) from {named}; set them larger, or augmentation.blur=0"
            )
        if recipe.adversarial is None:
            continue
        judged = [max(1, round(recipe.adversarial.scale * side)) for side in size]
        if min(judged) < SMALLEST_JUDGED:
            raise ValueError(
                f"adversarial: the discriminator halves its input five times and needs at least {SMALLEST_JUDGED} "
                f"pixels a side, got {judged} (height, width) from {named}, times adversarial.scale "
                f"({recipe.adversarial.scale:g}); set them larger"
            )


def check_scales(scales: Sequence[float], size: Sequence[int], named: str) -> None:
    """Check that an image of ``size`` (height, width) has at no scale more pixels than are read of any file.

    Args:
        scales: Factors of both sides.
        size: (height, width) of the image.
        named: The setting or option that has the scales, for the message.

    Raises:
        ValueError: If it has.
    """
    if wrong := [scale for scale in scales if (scale * size[0]) * (scale * size[1]) > MAX_PIXELS]:
        raise ValueError(
            f"{named} must leave images of {list(size)} (height, width) at most {MAX_PIXELS} pixels, got "
            f"{', '.join(f'{scale:g}' for scale in wrong)}; set smaller scales"
        )


def check_heads(recipe: Recipe) -> None:
    """Check that two levels of adversarial alignment have two heads.

    Raises:
        ValueError: If the network has one.
    """
    two_levels = recipe.adversarial is not None and recipe.adversarial.levels == 2
    if two_levels and not recipe.network.options.get("auxiliary"):
        raise ValueError(
            "adversarial.levels=2 aligns an auxiliary head too, which the network does not have; take the part asn in "
            "place of aa, or set network.options.auxiliary=true"
        )


def check_label_rule(recipe: Recipe) -> None:
    """Check that the target is labelled by as many networks as the rule of its pseudo-labels takes.

    Raises:
        ValueError: If it is not.
    """
    if recipe.pseudo_labels is None or not recipe.labelled_by:
        return
    takes = 2 if recipe.pseudo_labels.rule == "symmetric" else 1
    if takes != len(recipe.labelled_by):
        raise ValueError(
            f"pseudo_labels.rule={recipe.pseudo_labels.rule} takes the labels of {takes} network{'s'[: takes - 1]}, "
            f"{recipe.name} has those of {' and '.join(recipe.labelled_by)}; leave the setting out, and take the part "
            "sym for labels that two agree on"
        )
