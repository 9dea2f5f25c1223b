"""Recipes: which terms a run is made of, and with what settings.

A recipe name is a sum of parts, ``aa+it+sim+ssl``; each part switches one group of settings on and
nothing else, so any subset can be tried and no recipe copies another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

import stuffinstance as si

from .settings import (
    Adversarial,
    Layouts,
    Matching,
    PseudoLabels,
    Restyling,
    SpaceName,
)
from .sizes import SIZES, Shared, Size

ABLATION = ("source", "aa", "aa+it", "aa+it+sim", "aa+it+sim+ssl", "target-only")
PARTS = ("aa", "it", "sim", "ssl")
SPACES: dict[SpaceName, si.LabelSpace] = {
    "cityscapes": si.CITYSCAPES,
    "synthia16": si.SYNTHIA_16,
    "synthia13": si.SYNTHIA_13,
}


class RecipeError(ValueError):
    """A recipe that cannot be: an unknown part, setting or class."""


class Recipe(Shared):
    """Everything that decides the outcome of one run, except the pictures themselves."""

    name: str
    size: str
    seed: int = Field(default=0, ge=0)
    layouts: Layouts = Layouts()
    space: SpaceName = "cityscapes"
    classes: tuple[str, ...] = si.CITYSCAPES.names
    labelled: Literal["source", "target"] = "source"
    restyle: Restyling | None = None
    adversarial: Adversarial | None = None
    matching: Matching | None = None
    pseudo_labels: PseudoLabels | None = None

    @model_validator(mode="after")
    def _schedule_ends_before_its_horizon(self) -> Recipe:
        if self.schedule.steps > self.schedule.horizon:
            raise ValueError(
                f"schedule.steps ({self.schedule.steps}) must not pass schedule.horizon "
                f"({self.schedule.horizon}), where the learning rate is 0; set both"
            )
        return self

    @model_validator(mode="after")
    def _crop_fits_the_pictures(self) -> Recipe:
        crop, sizes = self.augmentation.crop, {"source_size"} if self.labelled == "source" else {"target_size"}
        if self.needs_target and self.augmentation.target != "none":
            sizes.add("target_size")
        for field in sorted(sizes):
            size = getattr(self.pictures, field)
            if crop is not None and (crop[0] > size[0] or crop[1] > size[1]):
                raise ValueError(
                    f"augmentation.crop {list(crop)} must not be larger than pictures.{field} {list(size)}, both "
                    "(height, width); set augmentation.crop smaller, or null for no crop"
                )
        return self

    @property
    def title(self) -> str:
        """How progress and messages name a run of this recipe."""
        return f"{self.name} seed {self.seed}"

    @property
    def label_space(self) -> si.LabelSpace:
        """The classes the network tells apart."""
        return SPACES[self.space]

    @property
    def needs_target(self) -> bool:
        """Whether a step looks at target pictures at all."""
        restyled_towards_it = self.restyle is not None and self.restyle.towards_target
        return restyled_towards_it or any((self.adversarial, self.matching, self.pseudo_labels))


def parts_of(name: str) -> tuple[str, ...]:
    """The parts that a recipe name switches on; none for ``source`` and ``target-only``."""
    if name in ("source", "target-only"):
        return ()
    parts = tuple(name.split("+"))
    if not set(parts) <= set(PARTS) or len(set(parts)) < len(parts):
        raise RecipeError(
            f"recipe must be 'source', 'target-only' or a sum of {', '.join(PARTS)} such as 'aa+it+sim', "
            f"got {name!r}. `ablation` runs {', '.join(ABLATION)}."
        )
    return tuple(part for part in PARTS if part in parts)


def first_step_name(name: str) -> str:
    """The recipe whose network labels the target for this one: the same without ``ssl``."""
    return "+".join(part for part in parts_of(name) if part != "ssl") or "source"


def compose_recipe(
    name: str,
    size: str = "small",
    *,
    seed: int = 0,
    layouts: Layouts | None = None,
    classes: str = "all",
    overrides: Sequence[str] = (),
) -> Recipe:
    """Put a recipe together from its name, a size and ``key=value`` overrides of that size.

    Overrides speak about the size, which all recipes share; a setting of a part that this recipe
    does not use is therefore allowed and without effect, so one list serves a whole ablation.
    """
    if size not in SIZES:
        raise RecipeError(f"size must be one of {', '.join(SIZES)}, got {size!r}.")
    parts = parts_of(name)
    chosen = override(SIZES[size], overrides)
    layouts = layouts or Layouts()
    space: SpaceName = "synthia16" if layouts.source == "synthia" else "cityscapes"
    matching = chosen.matching
    if "ssl" in parts:
        matching = matching.model_copy(update={"weight": chosen.matching_weight_in_second_step})
    try:
        return Recipe(
            name="+".join(parts) or name,
            size=size,
            seed=seed,
            layouts=layouts,
            space=space,
            classes=class_names(classes, SPACES[space]),
            labelled="target" if name == "target-only" else "source",
            restyle=chosen.restyle if "it" in parts else None,
            adversarial=chosen.adversarial if "aa" in parts else None,
            matching=matching if "sim" in parts else None,
            pseudo_labels=chosen.pseudo_labels if "ssl" in parts else None,
            **{field: getattr(chosen, field) for field in Shared.model_fields},
        )
    except ValidationError as error:
        raise RecipeError(f"recipe {name!r} in size {size!r} cannot be: {_reasons(error)}.") from error


def override(size: Size, overrides: Sequence[str]) -> Size:
    """``size`` with each ``group.setting=value`` put in; values are JSON, or plain text where that fails.

    The options of a size are those of its own network: with another one they are left out.
    """
    settings: dict[str, Any] = size.model_dump()
    if _another_network(size, overrides):
        settings["network"]["options"] = {}
    for item in overrides:
        key, equals, text = item.partition("=")
        *groups, last = key.strip().split(".")
        if not equals:
            raise RecipeError(f"--set expects group.setting=value such as schedule.steps=500, got {item!r}.")
        place = settings
        for group in groups:
            place = place.get(group, {})
            if not isinstance(place, dict):
                raise RecipeError(f"--set {item!r}: {group!r} has no settings of its own.")
        if groups != ["network", "options"] and last not in place:
            raise RecipeError(
                f"--set {item!r}: there is no setting {key!r}; "
                f"{'.'.join(groups) or 'a size'} has {', '.join(place) or 'none'}."
            )
        place[last] = _value(text.strip())
    try:
        return Size.model_validate(settings)
    except ValidationError as error:
        raise RecipeError(f"--set {' '.join(overrides)} gives a recipe that cannot be: {_reasons(error)}.") from error


def _another_network(size: Size, overrides: Sequence[str]) -> bool:
    names = [text for key, _, text in (item.partition("=") for item in overrides) if key.strip() == "network.name"]
    return bool(names) and _value(names[-1].strip()) != size.network.name


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _reasons(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())


def class_names(wanted: str, space: si.LabelSpace) -> tuple[str, ...]:
    """The names to score: ``all``, ``16`` or ``13`` (the SYNTHIA subsets), or names set apart by commas."""
    if wanted in ("all", str(space.num_classes)):
        return tuple(space.names)
    subsets = {"16": si.SYNTHIA_16.names, "13": si.SYNTHIA_13.names}
    names = subsets.get(wanted) or tuple(part.strip() for part in wanted.split(","))
    unknown = [name for name in names if name not in space.names]
    if unknown:
        raise RecipeError(
            f"classes must be 'all', '16', '13' or names out of {', '.join(space.names)}; got {', '.join(unknown)}."
        )
    return tuple(names)
