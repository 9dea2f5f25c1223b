"""Printed names and order of recipes and losses.

The six recipes of the paper's ablation form a ladder: each is compared with the one before it. Recipes beside the
ladder, such as those of other systems, are compared with source only.
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
MEANINGS = {
    "source": "trained on labeled source images alone",
    "aa": "+ adversarial alignment of the output space",
    "aa+it": "+ style transfer from source to target",
    "aa+it+sim": "+ stuff and instance matching",
    "aa+it+sim+ssl": "+ a self-training round on pseudo-labels",
    "target-only": "trained on target labels: the upper bound",
    "it": "style transfer without adversarial alignment",
}
# A recipe beside the ladder is printed as the sum of these, and ordered by them: first what aligns the output, then
# features, then style transfer and matching, then the rules of self-training.
PART_TITLES = {
    "aa": "AA", "asn": "AdaptSegNet", "advent": "ADVENT", "minent": "MinEnt", "maxsq": "MaxSquare",
    "fada": "FADA", "cag": "CAG", "it": "IT", "tt": "TT", "sim": "SIM", "mix": "ClassMix", "mask": "masking",
    "ssl": "SSL", "distill": "distillation", "cbst": "CBST", "crst": "CRST", "iast": "IAST", "sym": "symmetric",
    "fused": "fused",
}  # fmt: skip
LOSSES = {
    "segmentation": "Segmentation: cross-entropy",
    "adversarial": "Adversarial: generator",
    "discriminator": "Discriminator (chance: 0.69)",
    "stuff": "Stuff matching",
    "instance": "Instance matching",
    "pseudo": "Pseudo-labels: cross-entropy",
    "divergence": "Confidence regularizer (CRST)",
    "auxiliary_segmentation": "Auxiliary head: cross-entropy",
    "auxiliary_adversarial": "Auxiliary head: generator",
    "auxiliary_discriminator": "Auxiliary discriminator",
    "entropy": "Entropy of the target (MinEnt)",
    "max_square": "Maximum squares of the target",
    "fine_grained": "Fine-grained: generator (FADA)",
    "fine_grained_discriminator": "Fine-grained discriminator",
    "anchor_labels": "Anchors: cross-entropy, nearest",
    "confident_labels": "Anchors: cross-entropy, confident",
    "anchor_distance_source": "Anchors: distance, source",
    "anchor_distance_target": "Anchors: distance, target",
    "mixed": "ClassMix: cross-entropy",
    "masked": "Masking: cross-entropy",
}


def title(recipe: str) -> str:
    """How a recipe is printed: a rung of the ladder by what it adds, another one as the sum of its parts."""
    return _TITLES.get(recipe) or sum_of_parts(recipe)


def sum_of_parts(recipe: str) -> str:
    """A recipe's parts as they are printed; an unknown name as itself."""
    words = sorted(map(_word, recipe.split("+")), key=_rank)
    if any(name not in PART_TITLES for name, _ in words):
        return recipe
    return " + ".join(PART_TITLES[name] + (f" round {number}" if number > 1 else "") for name, number in words)


def in_order(recipes: Iterable[str]) -> tuple[str, ...]:
    """Each once: the ladder first, then ``it``, then all others by their parts and rounds."""
    found = set(recipes)
    known = [name for name in (*LADDER, "it") if name in found]
    beside = sorted(found.difference(known), key=lambda name: (sorted(map(_rank, map(_word, name.split("+")))), name))
    return (*known, *beside)


def _word(word: str) -> tuple[str, int]:
    """A part and which round of it: ``cbst2`` is the second of ``cbst``."""
    match = re.fullmatch(r"([a-z]+)([2-9])", word)
    return (match[1], int(match[2])) if match else (word, 1)


def _rank(word: tuple[str, int]) -> tuple[int, int]:
    name, number = word
    return (list(PART_TITLES).index(name) if name in PART_TITLES else len(PART_TITLES), number)
