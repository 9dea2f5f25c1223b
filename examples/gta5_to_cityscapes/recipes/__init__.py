"""What a run is asked to do: settings in groups, sizes that fill them in, recipes that switch parts on."""

from .parts import PARTS, RecipeError, canonical, stands_on
from .recipe import ABLATION, Recipe, class_names, compose_recipe

__all__ = ["ABLATION", "PARTS", "Recipe", "RecipeError", "canonical", "class_names", "compose_recipe", "stands_on"]
