"""What a run is asked to do: settings in groups, sizes that fill them in, recipes that switch parts on."""

from .recipe import ABLATION, Recipe, RecipeError, class_names, compose_recipe, first_step_name

__all__ = ["ABLATION", "Recipe", "RecipeError", "class_names", "compose_recipe", "first_step_name"]
