"""Recipes compose: a name switches parts on, sizes give settings, mistakes are named."""

from __future__ import annotations

import pytest

import stuffinstance as si
from examples.gta5_to_cityscapes.config import LayoutConfig, ScheduleConfig
from examples.gta5_to_cityscapes.recipes import (
    ABLATION,
    Recipe,
    RecipeError,
    canonical,
    class_names,
    compose_recipe,
    depends_on,
)
from examples.gta5_to_cityscapes.run_dir import differences
from examples.gta5_to_cityscapes.training.step import learning_rate_factor

from .made_steps import made_step


@pytest.mark.parametrize("size", ["full", "full-vgg16", "full-vit", "small", "tiny", "smoke"])
@pytest.mark.parametrize("name", [*ABLATION, "it", "sim", "ssl", "aa+sim"])
def test_a_name_switches_on_its_parts_and_nothing_else(name: str, size: str) -> None:
    recipe = compose_recipe(name, size)
    on = {
        "it": "style_transfer" in recipe.methods,
        "aa": "adversarial" in recipe.methods,
        "sim": "matching" in recipe.methods,
        "ssl": "pseudo_labels" in recipe.methods,
    }
    assert on == {part: part in name.split("+") for part in on}
    assert recipe.labeled == ("target" if name == "target-only" else "source")
    assert recipe.needs_target == (name not in ("source", "target-only"))


def test_recipes_of_a_size_share_everything_but_their_parts() -> None:
    recipes = [compose_recipe(name, "small").model_dump() for name in ABLATION]
    for field in ("network", "data", "augmentation", "optimizer", "schedule", "seed", "classes"):
        assert all(recipe[field] == recipes[0][field] for recipe in recipes)


AUTHORS = {
    "network.name": "deeplabv2_resnet101",
    **{"data.source_size": (720, 1280), "data.target_size": (512, 1024), "data.batch": 1},
    **{"optimizer.kind": "sgd", "optimizer.lr": 2.5e-4, "optimizer.momentum": 0.9, "optimizer.nesterov": False},
    **{"optimizer.weight_decay": 5e-4, "optimizer.head_lr_mult": 10},
    **{"schedule.max_steps": 200_000, "schedule.decay_steps": 250_000, "schedule.power": 0.9},
    **{"augmentation.flip": 0, "augmentation.color_jitter": 0},
    **{"adversarial.weight": 1e-3, "adversarial.lr": 1e-4, "adversarial.betas": (0.9, 0.99)},
    **{"matching.weight": 0.01, "matching.capacity": 50, "matching.max_instances": 10},
}
SECOND_STAGE = {
    **{"matching.weight": 1e-3, "pseudo_labels.quantile": 0.5, "pseudo_labels.cap": 0.9, "pseudo_labels.weight": 1}
}


@pytest.mark.parametrize(
    ("name", "preset", "published"),
    [
        ("aa+it+sim", "full", AUTHORS),
        ("aa+it+sim+ssl", "full", AUTHORS | SECOND_STAGE),
        ("aa", "full-vgg16", {"network.name": "deeplabv2_vgg16"}),
    ],
)
def test_full_size_is_what_the_authors_ran(name: str, preset: str, published: dict[str, object]) -> None:
    recipe = compose_recipe(name, preset)
    found = {}
    for setting in published:
        group, last = setting.split(".")
        found[setting] = getattr(recipe.methods.get(group) or getattr(recipe, group), last)
    assert found == published


@pytest.mark.parametrize("name", ["", "aa+", "sim+fade", "aa2", "source+aa", "target"])
def test_unknown_parts_are_named(name: str) -> None:
    with pytest.raises(RecipeError, match="sum of aa, "):
        compose_recipe(name)


def test_order_of_parts_does_not_matter() -> None:
    assert compose_recipe("sim+aa") == compose_recipe("aa+sim")
    assert depends_on("aa+it+sim+ssl").labeled_by == ("aa+it+sim",)
    assert depends_on("ssl").labeled_by == ("source",)


def test_overrides_reach_their_setting_and_serve_recipes_without_it() -> None:
    overrides = ["schedule.max_steps=7", "matching.weight=0.5", "style_transfer.method=fourier", "data.batch=3"]
    recipe = compose_recipe("aa+it+sim", overrides=overrides)
    assert recipe.schedule.max_steps == 7
    assert recipe.methods["matching"].weight == 0.5  # type: ignore[attr-defined]
    assert recipe.methods["style_transfer"].method == "fourier"  # type: ignore[attr-defined]
    assert compose_recipe("source", overrides=overrides).data.batch == 3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("schedule.step=7", r"schedule\.step'.* max_steps"),
        ("steps", "group.setting=value"),
        ("schedule.max_steps=many", "schedule.max_steps"),
        ("data.batch=0", "data.batch"),
        ("schedule.max_steps=99999999", "schedule.decay_steps"),
        ("nothing.at=1", r"nothing\.at"),
        ("network.options.depth=3", "options of efficientnet_lite must be among variant, fused_dim, .*, got depth"),
        ("precision.x=1", "has no settings of its own"),
    ],
)
def test_a_wrong_override_says_what_is_wrong(override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        compose_recipe("aa", overrides=[override])


@pytest.mark.parametrize("name", ["deeplabv2_resnet101", "deeplabv2_vgg16"])
def test_another_network_leaves_the_options_of_the_sizes_own_behind(name: str) -> None:
    other = f"network.name={name}"
    assert compose_recipe("aa", "tiny", overrides=[other]).network.options == {}
    assert compose_recipe("aa", "tiny", overrides=["network.name=small"]).network.options == {"norm": "batch"}
    for overrides in ([other, "network.options.style=caffe"], ["network.options.style=caffe", other]):
        assert compose_recipe("aa", "tiny", overrides=overrides).network.options == {"style": "caffe"}
    with pytest.raises(RecipeError, match=rf"options of {name} must be among style.*, got norm"):
        compose_recipe("aa", "tiny", overrides=[other, "network.options.norm=batch"])
    assert compose_recipe("aa", "small", overrides=[other]).network.weights is None
    with pytest.raises(RecipeError, match=r"network\.name"):
        compose_recipe("aa", "tiny", overrides=["network.name=resnet"])


def test_unknown_size() -> None:
    with pytest.raises(RecipeError, match="full, full-vgg16, full-vit, small, tiny, smoke"):
        compose_recipe("aa", "huge")


def test_class_subsets() -> None:
    assert class_names("all", si.CITYSCAPES) == si.CITYSCAPES.names
    assert class_names("19", si.CITYSCAPES) == si.CITYSCAPES.names
    assert set(class_names("16", si.CITYSCAPES)) == set(si.CITYSCAPES.names) - {"terrain", "truck", "train"}
    assert len(class_names("13", si.CITYSCAPES)) == 13
    assert class_names("road, sky", si.CITYSCAPES) == ("road", "sky")
    with pytest.raises(RecipeError, match=r"got lane\.$"):
        class_names("road,lane", si.CITYSCAPES)


def test_synthia_trains_its_sixteen_classes() -> None:
    recipe = compose_recipe("aa", layouts=LayoutConfig(source="synthia"), classes="13")
    assert recipe.label_space.num_classes == 16
    assert recipe.classes == si.SYNTHIA_13.names


def test_a_recipe_survives_its_file_and_differences_are_named() -> None:
    recipe = compose_recipe("aa+it+sim+ssl", seed=3)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    other = compose_recipe("aa+it+sim+ssl", seed=4, overrides=["matching.capacity=9", "runtime.num_workers=1"])
    found = differences(recipe.model_dump(mode="json"), other.model_dump(mode="json"))
    assert found == ["matching.capacity: 20 -> 9", "seed: 3 -> 4"]


def test_learning_rate_is_polynomial_after_a_linear_start() -> None:
    schedule = ScheduleConfig(max_steps=100, decay_steps=200, power=0.9, warmup=10)
    assert learning_rate_factor(schedule, 0) == pytest.approx(0.1)
    assert learning_rate_factor(schedule, 50) == pytest.approx(0.75**0.9)
    assert learning_rate_factor(schedule, 200) == 0


def test_the_recipe_of_today_is_a_sum_of_parts(quiet: list[str]) -> None:
    assert canonical("vfm") == canonical("sim+mix+mask+rcs")
    assert depends_on("vfm+ssl").labeled_by == (canonical("vfm"),)
    step, context = made_step(compose_recipe("vfm+ffd", "smoke", overrides=quiet), same_size=True)
    logged = step([context])
    assert {"segmentation", "stuff", "instance", "mixed", "masked", "foundation_distance_target"} <= logged.keys()
    assert all(value.isfinite() for value in logged.values())
