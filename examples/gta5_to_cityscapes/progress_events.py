"""What a run says about how far it is; a display, a queue between processes or nobody listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple


class Event(NamedTuple):
    """``done`` of ``total`` units of the task named ``task``, with a remark."""

    task: str
    done: int
    total: int
    note: str = ""
    kind: Literal["progress", "finished", "stopped", "failed"] = "progress"


Watch = Callable[[Event], None]


def unwatched(event: Event) -> None:
    """Nobody listens."""
