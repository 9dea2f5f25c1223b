"""The public names as text: what can be called with which arguments and defaults, one line each.

``python -m tests.contracts.public_signatures`` writes the list anew. Types are omitted: mypy holds them, and Python
releases spell them differently.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import stuffinstance
from stuffinstance import plotting

STORED = Path(__file__).with_suffix(".txt")
ROOMS = (stuffinstance, plotting)


def call(thing: object) -> str:
    """The arguments of something that can be called, with kinds and defaults, without types."""
    signature = inspect.signature(thing)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def members(kind: type) -> Iterator[str]:
    """Public methods, properties and declared attributes, those of the package's own parents too."""
    own = [parent for parent in kind.__mro__ if parent.__module__.partition(".")[0] == stuffinstance.__name__]
    names = {name for parent in own for name in (*vars(parent), *inspect.get_annotations(parent))}
    for name in sorted(name for name in names if not name.startswith("_") and name != "extra_repr"):
        member = inspect.getattr_static(kind, name, None)
        if isinstance(member, staticmethod | classmethod):
            yield f".{name}{call(getattr(kind, name))}  # {type(member).__name__}"
        elif inspect.isfunction(member):
            yield f".{name}{call(member)}"
        else:
            yield f".{name}"


def lines(room: ModuleType) -> Iterator[str]:
    """Every public name of a room, a class with its members behind it."""
    for name in sorted(room.__all__):
        thing, full = getattr(room, name), f"{room.__name__}.{name}"
        if inspect.isclass(thing) and issubclass(thing, Exception):
            yield f"{full}  # a {thing.__base__.__name__}"
        elif inspect.isclass(thing):
            yield full + call(thing)
            yield from (full + member for member in members(thing))
        elif inspect.isfunction(thing):
            yield full + call(thing)
        else:
            yield f"{full}  # a {type(thing).__name__}"


def public_signatures() -> str:
    """The whole list, as it is stored."""
    return "".join(f"{line}\n" for room in ROOMS for line in lines(room))


if __name__ == "__main__":
    STORED.write_text(public_signatures(), encoding="utf-8")
