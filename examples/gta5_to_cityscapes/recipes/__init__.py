"""Recipes: which methods a run uses, with what settings, and which runs it depends on."""

from .paper_experiments import PAPER_EXPERIMENTS, PaperExperiment, Variant
from .parts import RecipeError, canonical, depends_on, parts
from .recipe import ABLATION, Recipe, check_scales, class_names, compose_recipe, preset_named

__all__ = [
    "ABLATION",
    "PAPER_EXPERIMENTS",
    "PaperExperiment",
    "Recipe",
    "RecipeError",
    "Variant",
    "canonical",
    "check_scales",
    "class_names",
    "compose_recipe",
    "depends_on",
    "parts",
    "preset_named",
]
