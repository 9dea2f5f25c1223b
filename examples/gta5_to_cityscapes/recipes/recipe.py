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

from ..networks import network_options
from .fitting_settings import check_heads, check_image_sizes, check_label_rule, check_scales
from .parts import PARTS, Chosen, RecipeError, canonical, parts_of, stands_on
from .settings import (
    Adversarial,
    Anchors,
    ClassMixing,
    Entropy,
    FineGrained,
    Layouts,
    MaskedConsistency,
    Matching,
    MaxSquare,
    Network,
    PseudoLabels,
    Restyling,
    Settings,
    SpaceName,
    Teacher,
)
from .sizes import SIZES, Shared, Size

ABLATION = ("source", "aa", "aa+it", "aa+it+sim", "aa+it+sim+ssl", "target-only")
SPACES: dict[SpaceName, si.LabelSpace] = {
    "cityscapes": si.CITYSCAPES,
    "synthia16": si.SYNTHIA_16,
    "synthia13": si.SYNTHIA_13,
}


class Recipe(Shared):
    """Everything that decides the outcome of one run, except the pictures themselves."""

    name: str
    size: str
    seed: int = Field(default=0, ge=0, lt=2**32)  # numpy's generators take no larger one
    layouts: Layouts = Layouts()
    space: SpaceName = "cityscapes"
    classes: tuple[str, ...] = si.CITYSCAPES.names
    labelled: Literal["source", "target"] = "source"
    start: str | None = None  # the recipe whose weights it begins with; random or given ones where there is none
    labelled_by: tuple[str, ...] = ()  # the recipes whose networks label its target
    fused_of: tuple[str, ...] = ()  # the recipes whose predictions it averages; it then trains nothing
    restyle: Restyling | None = None
    restyle_target: Restyling | None = None
    adversarial: Adversarial | None = None
    entropy: Entropy | None = None
    max_square: MaxSquare | None = None
    matching: Matching | None = None
    fine_grained: FineGrained | None = None
    anchors: Anchors | None = None
    teacher: Teacher | None = None
    class_mixing: ClassMixing | None = None
    masked_consistency: MaskedConsistency | None = None
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

    @model_validator(mode="after")
    def _mixed_pictures_have_one_size(self) -> Recipe:
        pictures, crop = self.pictures, self.augmentation.crop
        if self.class_mixing and (
            (crop is None or self.augmentation.target == "none") and pictures.source_size != pictures.target_size
        ):
            raise ValueError(
                f"mix pastes source pictures {list(pictures.source_size)} into target pictures "
                f"{list(pictures.target_size)}, which must be of one size; set augmentation.crop"
            )
        return self

    @model_validator(mode="after")
    def _settings_fit_each_other(self) -> Recipe:
        check_image_sizes(self)
        check_scales(self.evaluation.scales, self.pictures.target_size, "evaluation.scales")
        check_heads(self)
        check_label_rule(self)
        return self

    @property
    def trained_sizes(self) -> dict[str, tuple[int, int]]:
        """(height, width) of the pictures of a step as the network sees them, by the setting that they follow from."""
        labelled = "source_size" if self.labelled == "source" else "target_size"
        sizes = {labelled: self.augmentation.crop or getattr(self.pictures, labelled)}
        if self.needs_target:
            crop = None if self.augmentation.target == "none" else self.augmentation.crop
            sizes["target_size"] = crop or self.pictures.target_size
        return sizes

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
        restyled_towards_it = self.restyle is not None and self.restyle.in_step
        adapting = {part.group for part in PARTS.values() if part.group} - {"restyle"}
        return restyled_towards_it or any(getattr(self, group) is not None for group in adapting)


def size_named(name: str, overrides: Sequence[str] = ()) -> Size:
    """The settings of a size, some of them set otherwise."""
    if name not in SIZES:
        raise RecipeError(f"size must be one of {', '.join(SIZES)}, got {name!r}.")
    return override(SIZES[name], overrides)


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
    parts = parts_of(name)
    needed = stands_on(name)
    chosen = size_named(size, overrides)
    layouts = layouts or Layouts()
    space: SpaceName = "synthia16" if layouts.source == "synthia" else "cityscapes"
    try:
        return Recipe(
            name=canonical(name),
            size=size,
            seed=seed,
            layouts=layouts,
            space=space,
            classes=class_names(classes, SPACES[space]),
            labelled="target" if name == "target-only" else "source",
            start=needed.start,
            labelled_by=needed.labelled_by,
            fused_of=needed.fused_of,
            **{field: getattr(chosen, field) for field in Shared.model_fields if field != "network"},
            network=_network_for(parts, chosen),
            **_groups(parts, chosen),
        )
    except ValidationError as error:
        raise RecipeError(f"recipe {name!r} in size {size!r} cannot be: {_reasons(error)}.") from error


def _network_for(parts: Sequence[Chosen], size: Size) -> Network:
    options: dict[str, Any] = {}
    for each in parts:
        if absent := sorted(set(each.part.network) - set(network_options(size.network.name))):
            raise RecipeError(
                f"part {each.word!r} needs a network with the option {', '.join(absent)}, which {size.network.name} "
                "does not have; take another network.name, or leave the part out."
            )
        options |= each.part.network
    return Network(**size.network.model_dump(exclude={"options"}), options={**size.network.options, **options})


def _groups(parts: Sequence[Chosen], size: Size) -> dict[str, Settings]:
    """The groups of settings that the parts switch on, as they change them."""
    relabelled = any(each.part.kind == "labelling" for each in parts)
    groups: dict[str, Settings] = {}
    for each in parts:
        # A step on new labels starts afresh: the stage that led to them is over.
        if each.part.group is None or (relabelled and each.part.kind == "stage"):
            continue
        settings: Settings = getattr(size, each.part.group)
        changes = dict(each.part.changes)
        if isinstance(settings, PseudoLabels):
            grown = settings.portion + settings.portion_step * (each.round - 1)
            changes["portion"] = min(grown, settings.largest_portion)
        if isinstance(settings, Matching) and relabelled:
            changes["weight"] = size.matching_weight_in_second_step
        groups[each.part.group] = type(settings)(**{**settings.model_dump(), **changes})
    if groups.keys() & {"class_mixing", "masked_consistency"}:
        groups["teacher"] = size.teacher
    return groups


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
    except (ValueError, RecursionError):  # a number of too many digits, or nested too deeply
        return text


def _reasons(error: ValidationError) -> str:
    """Which setting is wrong, and why; what concerns several settings names them itself."""
    reasons = []
    for each in error.errors():
        where = ".".join(map(str, each["loc"]))
        reason = each["msg"].removeprefix("Value error, ")
        reasons.append(f"{where}: {reason}" if where else reason)
    return "; ".join(reasons)


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
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(f"classes must name each class once, got {', '.join(repeated)} again.")
    return tuple(names)
