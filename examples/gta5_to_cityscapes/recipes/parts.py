"""Recipe names: sums of the methods' words, and the runs that a recipe depends on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..methods import Part, registered_methods

# Sums that have a name of their own, which can be part of a sum too: vfm+ssl.
NAMED = {"vfm": "rcs+sim+mix+mask"}


class RecipeError(ValueError):
    """A recipe that is not possible: an unknown part, setting or class."""


def parts() -> dict[str, tuple[str, Part]]:
    """The words of recipe names, each with its method's group of settings, in the order of the methods."""
    return {part.name: (group, part) for group, kind in registered_methods().items() for part in kind.parts}


class Chosen(NamedTuple):
    """A part of one recipe, and which round of it."""

    part: Part
    group: str
    round: int = 1

    @property
    def word(self) -> str:
        """As the recipe's name has it."""
        return self.part.name + (str(self.round) if self.round > 1 else "")


def parts_of(name: str) -> tuple[Chosen, ...]:
    """The parts that a recipe name switches on, in the order of the methods; none for ``source``, ``target-only``."""
    if name in ("source", "target-only"):
        return ()
    known = parts()
    words = "+".join(NAMED.get(word, word) for word in name.split("+"))
    chosen = [_part(word, name, known) for word in words.split("+")]
    groups: dict[str, str] = {}
    for each in chosen:
        if each.group in groups:
            raise RecipeError(
                f"recipe {name!r}: {groups[each.group]!r} and {each.word!r} set the same thing; omit one."
            )
        groups[each.group] = each.word
    stages = [each.word for each in chosen if each.part.kind == "stage"]
    if len(stages) > 1:
        raise RecipeError(
            f"recipe {name!r}: each of {', '.join(stages)} begins where another run ended; omit all but one."
        )
    if any(each.part.two_models for each in chosen) and sum(each.part.mirror is not None for each in chosen) != 1:
        both = ", ".join(part.name for _, part in known.values() if part.two_models)
        mirrors = [part.name for _, part in known.values() if part.mirror]
        raise RecipeError(f"recipe {name!r}: {both} need one of {', '.join(mirrors)}, such as aa+it+sym.")
    return _ordered(chosen)


def _part(word: str, name: str, known: dict[str, tuple[str, Part]]) -> Chosen:
    match = re.fullmatch(r"([a-z_]+)([2-9]?)", word)
    group, part = known.get(match[1], ("", None)) if match else ("", None)
    if match is None or part is None or (match[2] and not part.rounds):
        rounds = ", ".join(each.name for _, each in known.values() if each.rounds)
        raise RecipeError(
            f"recipe must be 'source', 'target-only' or a sum of {', '.join(known)} such as 'aa+it+sim' "
            f"(a later round of {rounds} has its number: cbst2), got {name!r}."
        )
    return Chosen(part, group, int(match[2] or 1))


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
    """The recipes that must have been trained before."""
    chosen = parts_of(name)
    of_kind = {each.part.kind: each for each in chosen}
    if fusion := of_kind.get("fusion"):
        return DependsOn(fused_of=_both(_before(chosen, fusion)))
    if labeling := of_kind.get("labeling"):
        before = _before(chosen, labeling)
        return DependsOn(labeled_by=_both(before) if labeling.part.two_models else (_name(before),))
    if stage := of_kind.get("stage"):
        return DependsOn(start=_name(_before(chosen, stage)))
    return DependsOn()


def canonical(name: str) -> str:
    """The name with its parts in the order of the methods."""
    return name if name in ("source", "target-only") else _name(parts_of(name))


def _name(chosen: Sequence[Chosen]) -> str:
    return "+".join(each.word for each in chosen) or "source"


def _before(chosen: Sequence[Chosen], one: Chosen) -> tuple[Chosen, ...]:
    """The same recipe one round earlier, or without the part."""
    earlier = [each if each != one else one._replace(round=one.round - 1) for each in chosen]
    return tuple(each for each in earlier if each.round > 0)


def _both(chosen: Sequence[Chosen]) -> tuple[str, ...]:
    """A recipe and its mirror, by name."""
    known = parts()
    other = []
    for each in chosen:
        group, part = known[each.part.mirror or each.part.name]
        other.append(Chosen(part, group, each.round))
    return tuple(sorted({_name(chosen), _name(_ordered(other))}))


def _ordered(chosen: Sequence[Chosen]) -> tuple[Chosen, ...]:
    order = list(parts())
    return tuple(sorted(chosen, key=lambda each: order.index(each.part.name)))
