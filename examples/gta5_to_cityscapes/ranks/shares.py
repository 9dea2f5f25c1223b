"""Which pictures a rank takes: its places in every step's batch, or its batches of a whole data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .group import rank, world


class TooFewPicturesError(ValueError):
    """A step with fewer pictures than processes and parts to share them out to."""


@dataclass(frozen=True)
class Share:
    """One rank's share of a step whose pictures are cut into ``parts``, and each part among ``ranks``.

    Parts follow each other, ranks lie side by side, and within both pictures keep their order; so what is written part
    by part and in rank order is written in the order of the pictures, however they are cut.
    """

    rank: int = 0
    ranks: int = 1
    parts: int = 1

    def places(self, batch: int) -> list[range]:
        """This rank's places in a step of ``batch`` pictures, part by part; sizes differ by one at most."""
        return [list(_cut(part, self.ranks))[self.rank] for part in _cut(range(batch), self.parts)]


def own_share(parts: int, batch: int) -> Share:
    """The share of this process.

    Args:
        parts: In how many parts each process goes through a step.
        batch: Pictures of a step.

    Raises:
        TooFewPicturesError: If not everyone can have one.
    """
    if batch < parts * world():
        raise TooFewPicturesError(
            f"pictures.batch is the number of pictures of a whole step, expected at least {parts * world()} "
            f"(processes: {world()}, running.accumulate: {parts}), got {batch}. Set pictures.batch to at least that, "
            f"or {'lower running.accumulate' if parts > 1 else 'start fewer processes'}."
        )
    return Share(rank(), world(), parts)


def _cut(places: range, pieces: int) -> Iterator[range]:
    total = len(places)
    for i in range(pieces):
        yield places[total * i // pieces : total * (i + 1) // pieces]


def own_batches(count: int, batch: int, *, even: bool = False) -> Iterator[range]:
    """Places of a whole data set, in batches that are dealt out to the ranks in turn.

    Args:
        count: Pictures in all.
        batch: Pictures at once.
        even: Every rank gets equally many batches, at the end perhaps an empty one; for what waits for the others at
            each.
    """
    firsts = range(rank() * batch, count, world() * batch)
    for first in firsts:
        yield range(first, min(first + batch, count))
    if even and len(firsts) < len(range(0, count, world() * batch)):
        yield range(0)
