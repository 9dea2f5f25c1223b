"""Printed names and order of recipes.

The six recipes of the paper's ablation form a ladder: each is compared with the one before it. Recipes beside the
ladder, such as those of other systems, are compared with source only. Titles of parts and losses are those of the
methods.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..recipes import ABLATION, parts

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
    known, words = parts(), sorted(map(_word, recipe.split("+")), key=_rank)
    if any(name not in known for name, _ in words):
        return recipe
    return " + ".join(known[name][1].title + (f" round {number}" if number > 1 else "") for name, number in words)


def in_order(recipes: Iterable[str]) -> tuple[str, ...]:
    """Each once: the ladder first, then ``it``, then all others by their parts and rounds."""
    found = set(recipes)
    known = [name for name in (*LADDER, "it") if name in found]
    beside = sorted(found.difference(known), key=lambda name: (sorted(map(_rank, map(_word, name.split("+")))), name))
    return (*known, *beside)


def _word(word: str) -> tuple[str, int]:
    """A part and which round of it: ``cbst2`` is the second of ``cbst``."""
    match = re.fullmatch(r"([a-z_]+)([2-9])", word)
    return (match[1], int(match[2])) if match else (word, 1)


def _rank(word: tuple[str, int]) -> tuple[int, int]:
    """The part's place among all parts, then the round; unknown parts come last."""
    order = list(parts())
    return (order.index(word[0]) if word[0] in order else len(order), word[1])
