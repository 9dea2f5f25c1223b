"""What steps took: sums that add up over intervals and interruptions, and the means that are told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic_io import room_needed, written_beside


@dataclass(frozen=True)
class StepCost:
    """Sums over the steps that were timed; those of two intervals can be added.

    Attributes:
        steps: How many.
        images: Drawn for them, of both domains.
        seconds: All that they took; evaluation and saving are no steps.
        phases: Seconds of what was timed within them, by name.
    """

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: StepCost) -> StepCost:
        names = dict.fromkeys((*self.phases, *other.phases))
        return StepCost(
            self.steps + other.steps,
            self.images + other.images,
            self.seconds + other.seconds,
            {name: self.phases.get(name, 0.0) + other.phases.get(name, 0.0) for name in names},
        )

    def means(self) -> dict[str, float]:
        """``seconds_per_step``, ``images_per_second`` and a ``<phase>_share`` each; nothing where no step was timed."""
        if not self.steps or not self.seconds:
            return {}
        return {
            "seconds_per_step": self.seconds / self.steps,
            "images_per_second": self.images / self.seconds,
            **{f"{name}_share": seconds / self.seconds for name, seconds in self.phases.items()},
        }

    @property
    def note(self) -> str:
        """The time of a step in words, for whoever looks on."""
        return f"{time_of_a_step(self.seconds / max(1, self.steps))} a step"


def time_of_a_step(seconds: float) -> str:
    """Three digits of milliseconds, or of seconds from one up."""
    return f"{seconds:.3g} s" if seconds >= 0.9995 else f"{1e3 * seconds:.3g} ms"


if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Metrics:
    """Appends one line at a time; what goes beyond the checkpoint that a run resumes from is cut off.

    Args:
        path: ``metrics.jsonl``.
        tensorboard: Folder for the curves; without one nothing of TensorBoard is written or imported.
        last_step: Of the checkpoint; 0 starts anew.
    """

    def __init__(self, path: Path, tensorboard: Path | None, last_step: int) -> None:
        kept = []
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                if json.loads(text)["step"] <= last_step:
                    kept.append(text)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # half a line, from a run that was stopped while writing
        with written_beside(path) as beside:
            beside.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")
        self.path = path
        with room_needed(path):
            self._file = path.open("a", encoding="utf-8")
        self._curves: SummaryWriter | None = None
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

            # Points beyond the checkpoint are hidden by purge_step.
            self._curves = SummaryWriter(str(tensorboard), purge_step=last_step + 1)

    def write_losses(self, step: int, losses: Mapping[str, float], lr: float, seconds: float) -> None:
        """The losses of one step, and the learning rate that it trained with."""
        curves = {**{f"loss/{name}": value for name, value in losses.items()}, "lr": lr}
        self._write({"step": step, "kind": "train", **curves, "seconds": seconds}, curves)

    def write_cost(self, step: int, cost: StepCost, peak_memory_bytes: int) -> None:
        """What the steps since the last such line took, as means, and the most memory held so far."""
        means = {**cost.means(), "peak_memory_bytes": peak_memory_bytes}
        self._write({"step": step, "kind": "cost", **means}, {f"cost/{name}": mean for name, mean in means.items()})

    def write_scores(
        self, step: int, miou: float, iou: Mapping[str, float | None], entropy: float, density: float
    ) -> None:
        """One evaluation; entropy and density of the predictions need no labels."""
        line = {"step": step, "kind": "evaluation", "miou": miou, "iou": iou, "entropy": entropy, "density": density}
        self._write(line, {"mIoU": miou, "label_free/entropy": entropy, "label_free/density": density})

    def _write(self, line: Mapping[str, Any], curves: Mapping[str, float]) -> None:
        with room_needed(self.path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()  # at once visible to whoever reads along
            if self._curves is not None:
                for name, value in curves.items():
                    self._curves.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Write out what is buffered."""
        with suppress(OSError):  # every line was flushed: what is left here has failed and was told before
            self._file.close()
        if self._curves is not None:
            self._curves.close()
