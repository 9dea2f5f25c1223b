"""Recipes: which methods a run uses, and with what settings.

A recipe name is a sum of words, ``aa+it+sim+ssl``; each switches one method on and nothing else, so any subset can be
tried and no recipe copies another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator

import stuffinstance as si

from ..config import LayoutConfig, ModelConfig
from ..data import Classes, class_file_names, default_class_file, read_classes
from ..data.image_files import MAX_PIXELS
from ..methods import MethodConfig, registered_methods
from ..models import network_options
from .parts import Chosen, RecipeError, canonical, depends_on, parts_of
from .presets import PRESETS, Shared

ABLATION = ("source", "aa", "aa+it", "aa+it+sim", "aa+it+sim+ssl", "target-only")
SMALLEST_BLURRED = 3  # the blur's kernel of 5 reflects two pixels at each border
C = TypeVar("C", bound=MethodConfig)


def _typed(configs: Mapping[str, Any]) -> dict[str, MethodConfig]:
    """Each group as its method's own type of settings."""
    known = registered_methods()
    if unknown := sorted(set(configs) - set(known)):
        raise ValueError(f"methods must be among {', '.join(known)}, got {', '.join(unknown)}")
    typed = {}
    for group, value in configs.items():
        try:
            typed[group] = known[group].config.model_validate(value)
        except ValidationError as error:
            raise ValueError(_reasons(error, f"{group}.")) from error
    return typed


class Preset(Shared):
    """All settings that a recipe may draw on, those of the methods by their group."""

    methods: dict[str, SerializeAsAny[MethodConfig]] = Field(default_factory=dict)

    @field_validator("methods", mode="before")
    @classmethod
    def _of_the_registered_types(cls, configs: Mapping[str, Any]) -> dict[str, MethodConfig]:
        return _typed(configs)


class Recipe(Preset):
    """Everything that decides the outcome of one run, except the images themselves."""

    name: str
    preset: str
    seed: int = Field(default=0, ge=0, lt=2**32)  # numpy's generators take no larger one
    layouts: LayoutConfig = LayoutConfig()
    space: Classes = Field(default_factory=partial(read_classes, "cityscapes"))
    classes: tuple[str, ...] = si.CITYSCAPES.names
    labeled: Literal["source", "target"] = "source"
    start: str | None = None  # the recipe whose weights it begins with; None: random, or those of network.weights
    labeled_by: tuple[str, ...] = ()  # the recipes whose networks label its target
    fused_of: tuple[str, ...] = ()  # the recipes whose predictions it averages; it then trains nothing

    @model_validator(mode="after")
    def _settings_fit_each_other(self) -> Recipe:
        if self.schedule.max_steps > self.schedule.decay_steps:
            raise ValueError(
                f"schedule.max_steps ({self.schedule.max_steps}) must not be larger than schedule.decay_steps "
                f"({self.schedule.decay_steps}), where the learning rate is 0; set both"
            )
        crop, augmented = self.augmentation.crop, self.augmentation.target if self.needs_target else "none"
        for field in (self._labeled_size, *(["target_size"] if augmented != "none" else [])):
            size = getattr(self.data, field)
            if crop is not None and (crop[0] > size[0] or crop[1] > size[1]):
                raise ValueError(
                    f"augmentation.crop {list(crop)} must not be larger than data.{field} {list(size)}, both "
                    "(height, width); set augmentation.crop smaller, or null for no crop"
                )
        for field in (self._labeled_size, *(["target_size"] if augmented == "all" else [])):
            size = self.trained_sizes[field]
            if self.augmentation.blur and min(size) < SMALLEST_BLURRED:
                raise ValueError(
                    f"augmentation.blur needs images of at least {SMALLEST_BLURRED} pixels a side, got {list(size)} "
                    f"(height, width) from data.{field} and augmentation.crop; set them larger, or augmentation.blur=0"
                )
        check_scales(self.evaluation.scales, self.data.target_size, "evaluation.scales")
        for config in self.methods.values():
            config.check(self)
        return self

    @property
    def _labeled_size(self) -> str:
        return "source_size" if self.labeled == "source" else "target_size"

    @property
    def trained_sizes(self) -> dict[str, tuple[int, int]]:
        """(height, width) of the images of a step as the network sees them, by the setting that they follow from."""
        sizes = {self._labeled_size: self.augmentation.crop or getattr(self.data, self._labeled_size)}
        if self.needs_target:
            crop = None if self.augmentation.target == "none" else self.augmentation.crop
            sizes["target_size"] = crop or self.data.target_size
        return sizes

    @property
    def title(self) -> str:
        """How progress and messages name a run of this recipe."""
        return f"{self.name} seed {self.seed}"

    @property
    def label_space(self) -> si.LabelSpace:
        """The classes that the network predicts."""
        return self.space.space

    @property
    def needs_target(self) -> bool:
        """Whether a step uses target images."""
        return any(config.uses_target() for config in self.methods.values())

    def config(self, kind: type[C]) -> C | None:
        """The settings of the method whose settings are of this very type; None where the recipe does not use it."""
        return next((each for each in self.methods.values() if type(each) is kind), None)  # type: ignore[return-value]


def preset_named(name: str, overrides: Sequence[str] = ()) -> Preset:
    """The settings of a preset, some of them set otherwise."""
    if name not in PRESETS:
        raise RecipeError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}.")
    methods = {group: kind.default_config(name) for group, kind in registered_methods().items()}
    return override(Preset(**dict(PRESETS[name]), methods=methods), overrides)


def compose_recipe(
    name: str,
    preset: str = "small",
    *,
    seed: int = 0,
    layouts: LayoutConfig | None = None,
    classes: str = "all",
    class_file: str | None = None,
    overrides: Sequence[str] = (),
) -> Recipe:
    """Build a recipe from its name, a preset and ``group.setting=value`` overrides of that preset.

    Overrides change the preset, which all recipes share; a setting of a method that this recipe does not use is
    therefore allowed and without effect, so one list serves a whole ablation. ``class_file`` is the path or the name of
    the file that defines the classes, None for that of the source's layout; ``classes`` are those of them to score.
    """
    chosen = parts_of(name)
    settings = preset_named(preset, overrides)
    layouts = layouts or LayoutConfig()
    if class_file is None and "folder" in (layouts.source, layouts.target):
        raise RecipeError(
            "images of your own (the layout folder) need a class file: give --class-file a YAML file, or one of "
            f"{', '.join(class_file_names())}."
        )
    space = read_classes(class_file or default_class_file(layouts.source))
    shared = {field: getattr(settings, field) for field in Shared.model_fields}
    try:
        return Recipe(
            **{**shared, "network": _network_for(chosen, settings)},
            name=canonical(name),
            preset=preset,
            seed=seed,
            layouts=layouts,
            space=space,
            classes=class_names(classes, space.space),
            labeled="target" if name == "target-only" else "source",
            **depends_on(name)._asdict(),
            methods=_methods(chosen, settings),
        )
    except ValidationError as error:
        raise RecipeError(f"recipe {name!r} in preset {preset!r} is not possible: {_reasons(error)}.") from error


def _network_for(chosen: Sequence[Chosen], preset: Preset) -> ModelConfig:
    options: dict[str, Any] = {}
    for each in chosen:
        if absent := sorted(set(each.part.model_options) - set(network_options(preset.network.name))):
            raise RecipeError(
                f"part {each.word!r} needs a network with the option {', '.join(absent)}, which {preset.network.name} "
                "does not have; take another network.name, or leave the part out."
            )
        options |= each.part.model_options
    return ModelConfig(**preset.network.model_dump(exclude={"options"}), options={**preset.network.options, **options})


def _methods(chosen: Sequence[Chosen], preset: Preset) -> dict[str, MethodConfig]:
    """The settings of the methods that the parts switch on, and of those that these require."""
    known = registered_methods()
    relabeled = any(each.part.kind == "labeling" for each in chosen)
    configs: dict[str, MethodConfig] = {}
    for each in chosen:
        # A step on new labels starts afresh: the stage that led to them is over.
        if relabeled and each.part.kind == "stage":
            continue
        config = preset.methods[each.group].in_recipe(round=each.round, relabeled=relabeled)
        configs[each.group] = type(config)(**{**config.model_dump(), **each.part.changes})
        for required in known[each.group].required(configs[each.group]):
            configs[required] = preset.methods[required]
    return configs


def override(preset: Preset, overrides: Sequence[str]) -> Preset:
    """``preset`` with each ``group.setting=value`` put in; values are JSON, or plain text where that fails.

    The network options and start weights of a preset are those of its own network: with another one they are dropped.
    """
    settings: dict[str, Any] = preset.model_dump()
    methods = settings.pop("methods")
    settings |= methods  # one level of groups: matching.weight, as schedule.max_steps
    if _another_network(preset, overrides):
        settings["network"] |= {"options": {}, "weights": None}
    for item in overrides:
        key, equals, text = item.partition("=")
        *groups, last = key.strip().split(".")
        if not equals:
            raise RecipeError(f"--set expects group.setting=value such as schedule.max_steps=500, got {item!r}.")
        place = settings
        for group in groups:
            if group not in place and place is settings:
                raise RecipeError(f"--set {item!r}: unknown group {group!r}; there are {', '.join(sorted(settings))}.")
            place = place.get(group, {})
            if not isinstance(place, dict):
                raise RecipeError(f"--set {item!r}: {group!r} has no settings of its own.")
        if groups != ["network", "options"] and last not in place:
            raise RecipeError(
                f"--set {item!r}: unknown setting {key!r}; "
                f"{'.'.join(groups) or 'a preset'} has {', '.join(place) or 'none'}."
            )
        place[last] = _value(text.strip())
    methods = {name: settings.pop(name) for name in methods}
    try:
        return Preset.model_validate({**settings, "methods": methods})
    except ValidationError as error:
        raise RecipeError(
            f"--set {' '.join(overrides)} gives a recipe that is not possible: {_reasons(error)}."
        ) from error


def _another_network(preset: Preset, overrides: Sequence[str]) -> bool:
    names = [text for key, _, text in (item.partition("=") for item in overrides) if key.strip() == "network.name"]
    return bool(names) and _value(names[-1].strip()) != preset.network.name


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # a number of too many digits, or nested too deeply
        return text


def _reasons(error: ValidationError, prefix: str = "") -> str:
    """Which setting is wrong, and why; what concerns several settings names them itself."""
    reasons = []
    for each in error.errors():
        where = prefix + ".".join(map(str, each["loc"])) if each["loc"] not in ((), ("methods",)) else ""
        reason = each["msg"].removeprefix("Value error, ").removesuffix(".")
        reasons.append(f"{where}: {reason}" if where else reason)
    return "; ".join(reasons)


def class_names(wanted: str, space: si.LabelSpace) -> tuple[str, ...]:
    """The names to score: ``all``, ``16`` or ``13`` (the SYNTHIA subsets), or names separated by commas."""
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


def check_scales(scales: Sequence[float], size: Sequence[int], named: str) -> None:
    """Require scales at which an image of ``size`` (height, width) has no more pixels than are read of any file.

    Raises:
        ValueError: If one is larger.
    """
    if wrong := [scale for scale in scales if (scale * size[0]) * (scale * size[1]) > MAX_PIXELS]:
        raise ValueError(
            f"{named} must leave images of {list(size)} (height, width) at most {MAX_PIXELS} pixels, got "
            f"{', '.join(f'{scale:g}' for scale in wrong)}; set smaller scales"
        )
