"""Printed names and order of recipes.

The six recipes of the paper's ablation form a ladder: each is compared with the one before it. Recipes beside the
ladder, such as those of other systems, are compared with source only. Titles of parts and losses are those of the
methods.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..recipes import ABLATION, RecipeError, parts
from ..recipes.parts import parts_of

LADDER = ABLATION
SOURCE, TARGET_ONLY = LADDER[0], LADDER[-1]

# Title and meaning of the recipes whose row is named for what it adds to the row above.
_ROWS = {
    "source": ("source only", "trained on labeled source images alone"),
    "aa": ("+ AA", "+ adversarial alignment of the output space"),
    "aa+it": ("+ IT", "+ style transfer from source to target"),
    "aa+it+sim": ("+ SIM", "+ stuff and instance matching"),
    "aa+it+sim+ssl": ("+ SSL", "+ a self-training round on pseudo-labels"),
    "target-only": ("target only", "trained on target labels: the upper bound"),
    "it": ("IT alone", "style transfer without adversarial alignment"),
}
MEANINGS = {recipe: meaning for recipe, (_, meaning) in _ROWS.items()}


def title(recipe: str) -> str:
    """How a recipe is printed: a rung of the ladder by what it adds, another one as the sum of its parts."""
    return _ROWS[recipe][0] if recipe in _ROWS else sum_of_parts(recipe)


def sum_of_parts(recipe: str) -> str:
    """The titles of a recipe's parts, in the order of the methods; an unknown name as itself."""
    try:
        chosen = parts_of(recipe)
    except RecipeError:
        return recipe
    return " + ".join(each.part.title + (f" round {each.round}" if each.round > 1 else "") for each in chosen)


def in_order(recipes: Iterable[str]) -> tuple[str, ...]:
    """Each once: the ladder first, then ``it``, then all others by their parts and rounds, unknown ones last."""
    found, order = set(recipes), list(parts())

    def place(recipe: str) -> tuple[list[tuple[int, int]], str]:
        try:
            return [(order.index(each.part.name), each.round) for each in parts_of(recipe)], recipe
        except RecipeError:
            return [(len(order), 0)], recipe

    known = [name for name in (*LADDER, "it") if name in found]
    return (*known, *sorted(found.difference(known), key=place))
