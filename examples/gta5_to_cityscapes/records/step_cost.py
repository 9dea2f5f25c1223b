"""What steps took: sums that add up over intervals and interruptions, and the means that are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepCost:
    """Sums over the steps that were timed; those of two intervals can be added.

    Attributes:
        steps: How many.
        pictures: Drawn for them, of both domains.
        seconds: All that they took; evaluation and saving are no steps.
        phases: Seconds of what was timed within them, by name.
    """

    steps: int = 0
    pictures: int = 0
    seconds: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: StepCost) -> StepCost:
        names = dict.fromkeys((*self.phases, *other.phases))
        return StepCost(
            self.steps + other.steps,
            self.pictures + other.pictures,
            self.seconds + other.seconds,
            {name: self.phases.get(name, 0.0) + other.phases.get(name, 0.0) for name in names},
        )

    def means(self) -> dict[str, float]:
        """``seconds_per_step``, ``images_per_second`` and a ``<phase>_share`` each; nothing where no step was timed."""
        if not self.steps or not self.seconds:
            return {}
        return {
            "seconds_per_step": self.seconds / self.steps,
            "images_per_second": self.pictures / self.seconds,
            **{f"{name}_share": seconds / self.seconds for name, seconds in self.phases.items()},
        }

    @property
    def note(self) -> str:
        """The time of a step in words, for whoever looks on."""
        return f"{time_of_a_step(self.seconds / max(1, self.steps))} a step"


def time_of_a_step(seconds: float) -> str:
    """Three digits of milliseconds, or of seconds from one up."""
    return f"{seconds:.3g} s" if seconds >= 0.9995 else f"{1e3 * seconds:.3g} ms"
