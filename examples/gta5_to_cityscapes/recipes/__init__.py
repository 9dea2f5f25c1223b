"""What a run is asked to do: settings in groups, sizes that fill them in, recipes that switch parts on."""

from .fitting_settings import check_scales
from .paper_experiments import PAPER_EXPERIMENTS, PaperExperiment, Variant
from .parts import PARTS, RecipeError, canonical, stands_on
from .recipe import ABLATION, Recipe, class_names, compose_recipe

__all__ = [
    "ABLATION",
    "PAPER_EXPERIMENTS",
    "PARTS",
    "PaperExperiment",
    "Recipe",
    "RecipeError",
    "Variant",
    "canonical",
    "check_scales",
    "class_names",
    "compose_recipe",
    "stands_on",
]
