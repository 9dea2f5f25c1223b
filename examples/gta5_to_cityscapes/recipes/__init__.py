"""What a run is asked to do: settings in groups, sizes that fill them in, recipes that switch parts on."""

from .fitting_settings import refuse_scales
from .paper_experiments import PAPER_EXPERIMENTS, PaperExperiment, Variant
from .parts import PARTS, RecipeError, canonical, depends_on
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
    "class_names",
    "compose_recipe",
    "depends_on",
    "refuse_scales",
]
