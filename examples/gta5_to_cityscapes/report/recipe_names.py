"""The ladder of recipes: their order, their printed names and what the paper reports for each.

Order matters more than names here: every gain in the report is a gain over the rung above.
"""

from __future__ import annotations

from collections.abc import Iterable

LADDER = ("source", "aa", "aa+it", "aa+it+sim", "aa+it+sim+ssl", "target-only")
SOURCE, TARGET_ONLY = LADDER[0], LADDER[-1]

_TITLES = {
    "source": "source only",
    "aa": "+ AA",
    "aa+it": "+ IT",
    "aa+it+sim": "+ SIM",
    "aa+it+sim+ssl": "+ SSL",
    "target-only": "target only",
    "it": "IT alone",
}

MEANINGS = {
    "source": "trained on labelled source images, nothing else",
    "aa": "+ adversarial alignment of the output space",
    "aa+it": "+ source images restyled as the target",
    "aa+it+sim": "+ stuff and instance matching",
    "aa+it+sim+ssl": "+ a second step on pseudo-labels of the target",
    "target-only": "trained on target labels: the ceiling, not an adaptation",
    "it": "restyled source images without adversarial alignment",
}

PAPER_GTA5 = dict(zip(LADDER, (36.6, 41.4, 44.9, 46.2, 49.2, 65.1), strict=True))
PAPER_SYNTHIA_13 = dict(zip(LADDER, (38.6, 45.9, 46.0, 47.1, 52.1, 71.7), strict=True))


def title(recipe: str) -> str:
    """How a recipe is printed; a name the ladder does not know prints as itself."""
    return _TITLES.get(recipe, recipe)


def is_extra(recipe: str) -> bool:
    """True for recipes that stand beside the ladder and are compared with source only."""
    return recipe not in LADDER


def in_order(recipes: Iterable[str]) -> tuple[str, ...]:
    """Ladder first, then ``it``, then whatever else was run, alphabetically."""
    found = set(recipes)
    known = [name for name in (*LADDER, "it") if name in found]
    return (*known, *sorted(found.difference(known)))
