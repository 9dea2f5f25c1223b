"""The parts that recipe names are sums of, and which other runs a recipe depends on.

A part switches one group of settings on. Most take effect in a step of training; some begin where another run ended
(*stages*), some train once more with labels that other runs gave the target (*labeling*), and one trains nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Kind = Literal["training", "stage", "labeling", "fusion"]


class RecipeError(ValueError):
    """A recipe that cannot be: an unknown part, setting or class."""


@dataclass(frozen=True)
class Part:
    """One summand of a recipe name.

    Attributes:
        name: In recipe names.
        meaning: For people, one line.
        group: The settings it switches on; no two parts of a recipe share one.
        changes: Settings of the group that it fixes.
        network: Options that the network needs for it.
        kind: What it asks of a run.
        rounds: Whether it can be repeated, as in ``cbst2``.
    """

    name: str
    meaning: str
    group: str | None
    changes: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind = "training"
    rounds: bool = False


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part("aa", "adversarial alignment of the output", "adversarial"),
        Part("asn", "the same at two levels (AdaptSegNet)", "adversarial", {"levels": 2}, {"auxiliary": True}),
        Part("advent", "adversarial alignment of entropy maps (ADVENT)", "adversarial", {"of": "entropy"}),
        Part("minent", "entropy of the target's output minimized (ADVENT)", "entropy"),
        Part("maxsq", "maximum squares loss (MaxSquare)", "max_square"),
        Part("it", "source images restyled as the target", "restyle"),
        Part("tt", "target images restyled as the source", "restyle_target"),
        Part("sim", "stuff and instance matching", "matching"),
        Part("mix", "class mixing with an averaged teacher's labels (DACS)", "class_mixing"),
        Part("mask", "masked consistency with an averaged teacher (MIC)", "masked_consistency"),
        Part("fada", "fine-grained adversarial alignment of features (FADA)", "fine_grained", kind="stage"),
        Part("cag", "category anchors (CAG-UDA)", "anchors", kind="stage", rounds=True),
        Part("ssl", "a second stage on pseudo-labels above class medians", "pseudo_labels", kind="labeling"),
        Part("distill", "a second stage on all labels (FADA)", "pseudo_labels", {"rule": "argmax"}, kind="labeling"),
        Part("cbst", "a round of CBST", "pseudo_labels", {"rule": "portion"}, kind="labeling", rounds=True),
        Part(
            "crst",
            "a round of CBST, its confidence regularized (CRST, MRKLD)",
            "pseudo_labels",
            {"rule": "portion", "divergence": 0.1},
            kind="labeling",
            rounds=True,
        ),
        Part("iast", "a round on adaptive thresholds (IAST)", "pseudo_labels", {"rule": "adaptive"}, kind="labeling"),
        Part("sym", "labels that two models agree on", "pseudo_labels", {"rule": "symmetric"}, kind="labeling"),
        Part("fused", "the mean of both symmetric models, nothing trained", None, kind="fusion"),
    )
}
MIRRORED = {"it": "tt", "tt": "it"}  # the two models of symmetric adaptation


class Chosen(NamedTuple):
    """A part of one recipe, and which round of it."""

    part: Part
    round: int = 1

    @property
    def word(self) -> str:
        """As the recipe's name has it."""
        return self.part.name + (str(self.round) if self.round > 1 else "")


def parts_of(name: str) -> tuple[Chosen, ...]:
    """The parts that a recipe name switches on, in their order here; none for ``source`` and ``target-only``."""
    if name in ("source", "target-only"):
        return ()
    chosen = [_part(word, name) for word in name.split("+")]
    groups: dict[str | None, str] = {}
    for each in chosen:
        if each.part.group in groups:
            raise RecipeError(
                f"recipe {name!r}: {groups[each.part.group]!r} and {each.word!r} set the same thing; leave one out."
            )
        groups[each.part.group] = each.word
    kinds = [each.part.kind for each in chosen]
    order = list(PARTS)
    ordered = tuple(sorted(chosen, key=lambda each: order.index(each.part.name)))
    if kinds.count("stage") > 1:
        raise RecipeError(f"recipe {name!r}: one of fada and cag begins where another run ended; leave one out.")
    symmetric = any(each.part.name in ("sym", "fused") for each in chosen)
    if symmetric and sum(each.part.name in MIRRORED for each in chosen) != 1:
        raise RecipeError(f"recipe {name!r}: sym and fused need one of it and tt, such as aa+it+sym.")
    return ordered


def _part(word: str, name: str) -> Chosen:
    match = re.fullmatch(r"([a-z]+)([2-9]?)", word)
    part = PARTS.get(match[1]) if match else None
    if match is None or part is None or (match[2] and not part.rounds):
        rounds = ", ".join(each.name for each in PARTS.values() if each.rounds)
        raise RecipeError(
            f"recipe must be 'source', 'target-only' or a sum of {', '.join(PARTS)} such as 'aa+it+sim' "
            f"(a later round of {rounds} has its number: cbst2), got {name!r}."
        )
    return Chosen(part, int(match[2] or 1))


class DependsOn(NamedTuple):
    """The recipes whose networks a recipe needs, by what it needs them for."""

    start: str | None = None  # begins with its weights
    labeled_by: tuple[str, ...] = ()  # they label the target
    fused_of: tuple[str, ...] = ()  # averaged

    @property
    def names(self) -> tuple[str, ...]:
        """Each once."""
        return tuple(dict.fromkeys((*([self.start] if self.start else []), *self.labeled_by, *self.fused_of)))


def depends_on(name: str) -> DependsOn:
    """What must have been trained before."""
    parts = parts_of(name)
    fusion = [each for each in parts if each.part.kind == "fusion"]
    if fusion:
        single = _without(parts, fusion[0])
        return DependsOn(fused_of=tuple(sorted({_name(single), _name(_mirrored(single))})))
    labeling = [each for each in parts if each.part.kind == "labeling"]
    if labeling:
        before = _before(parts, labeling[0])
        if labeling[0].part.name == "sym":
            return DependsOn(labeled_by=tuple(sorted({_name(before), _name(_mirrored(before))})))
        return DependsOn(labeled_by=(_name(before),))
    stage = [each for each in parts if each.part.kind == "stage"]
    return DependsOn(start=_name(_before(parts, stage[0]))) if stage else DependsOn()


def canonical(name: str) -> str:
    """The name with its parts in the order of :data:`PARTS`."""
    return name if name in ("source", "target-only") else _name(parts_of(name))


def _name(parts: tuple[Chosen, ...]) -> str:
    return "+".join(each.word for each in parts) or "source"


def _without(parts: tuple[Chosen, ...], one: Chosen) -> tuple[Chosen, ...]:
    return tuple(each for each in parts if each != one)


def _before(parts: tuple[Chosen, ...], one: Chosen) -> tuple[Chosen, ...]:
    """The same recipe one round earlier, or without the part."""
    if one.round == 1:
        return _without(parts, one)
    return tuple(Chosen(one.part, one.round - 1) if each == one else each for each in parts)


def _mirrored(parts: tuple[Chosen, ...]) -> tuple[Chosen, ...]:
    swapped = [Chosen(PARTS[MIRRORED.get(each.part.name, each.part.name)], each.round) for each in parts]
    order = list(PARTS)
    return tuple(sorted(swapped, key=lambda each: order.index(each.part.name)))
