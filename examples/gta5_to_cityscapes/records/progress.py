"""What a run says about how far it is; a display, a queue between processes or nobody listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple


class Event(NamedTuple):
    """``done`` of ``total`` units of the task named ``task``, with a remark.

    ``"stopping"`` comes at once when a stop is asked for, ``"stopped"`` when its state is saved.
    """

    task: str
    done: int
    total: int
    note: str = ""
    kind: Literal["progress", "finished", "stopping", "stopped", "failed"] = "progress"


Watch = Callable[[Event], None]
Tick = Callable[[int, int], None]  # (pictures done, pictures in all), from what does not know its task's name


def unwatched(event: Event) -> None:
    """Nobody listens."""


def silent(done: int, total: int) -> None:
    """A tick that tells nobody."""
