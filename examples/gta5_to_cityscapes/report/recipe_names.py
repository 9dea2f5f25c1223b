"""The ladder of recipes, and what stands beside it: their order, their printed names, what the paper reports.

Order matters more than names here: every gain on the ladder is a gain over the rung above. Recipes beside it, such as
those of other systems, are compared with source only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..recipes import ABLATION

LADDER = ABLATION
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

# A recipe beside the ladder is printed as the sum of these; their order is that of its row. Systems stand together:
# first what aligns the output, then features, then pictures and matching, then the rules of a second step.
PART_TITLES = {
    "aa": "AA",
    "asn": "AdaptSegNet",
    "advent": "ADVENT",
    "minent": "MinEnt",
    "maxsq": "MaxSquare",
    "fada": "FADA",
    "cag": "CAG",
    "it": "IT",
    "tt": "TT",
    "sim": "SIM",
    "mix": "ClassMix",
    "mask": "masking",
    "ssl": "SSL",
    "distill": "distillation",
    "cbst": "CBST",
    "crst": "CRST",
    "iast": "IAST",
    "sym": "symmetric",
    "fused": "fused",
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


def title(recipe: str) -> str:
    """How a recipe is printed: a rung by what it adds, another as the sum of its parts, an unknown name as itself."""
    return _TITLES[recipe] if recipe in _TITLES else sum_of_parts(recipe)


def sum_of_parts(recipe: str) -> str:
    """A recipe's parts as they are printed, whether it is a rung or not; an unknown name as itself."""
    words = [_word(word) for word in recipe.split("+")]
    if any(name not in PART_TITLES for name, _ in words):
        return recipe
    ordered = sorted(words, key=_rank)
    return " + ".join(PART_TITLES[name] + (f" round {number}" if number > 1 else "") for name, number in ordered)


def _word(word: str) -> tuple[str, int]:
    """A part and which round of it: ``cbst2`` is the second of ``cbst``."""
    match = re.fullmatch(r"([a-z]+)([2-9])", word)
    return (match[1], int(match[2])) if match else (word, 1)


def _rank(word: tuple[str, int]) -> tuple[int, int]:
    name, number = word
    return (list(PART_TITLES).index(name) if name in PART_TITLES else len(PART_TITLES), number)


def is_extra(recipe: str) -> bool:
    """True for recipes that stand beside the ladder and are compared with source only."""
    return recipe not in LADDER


def in_order(recipes: Iterable[str]) -> tuple[str, ...]:
    """Ladder first, then ``it``, then whatever else was run, by its parts: a round follows the round before it."""
    found = set(recipes)
    known = [name for name in (*LADDER, "it") if name in found]
    beside = sorted(found.difference(known), key=lambda name: (sorted(map(_rank, map(_word, name.split("+")))), name))
    return (*known, *beside)
