"""Log of a run: losses, scores, step time and memory, one JSON object per line in ``metrics.jsonl``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .atomic_io import room_needed, written_beside

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class StepCost:
    """Sums over timed steps; those of two intervals can be added.

    Attributes:
        steps: Number of steps.
        images: Images drawn for them, of both domains.
        seconds: Time of the steps; evaluation and saving do not count.
        data_seconds: The part of it spent waiting for images.
    """

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0

    def __add__(self, other: StepCost) -> StepCost:
        return StepCost(*(own + its for own, its in zip(vars(self).values(), vars(other).values(), strict=True)))

    def means(self) -> dict[str, float]:
        """``seconds_per_step``, ``images_per_second`` and ``data_share``; empty where no step was timed."""
        if not self.steps or not self.seconds:
            return {}
        return {
            "seconds_per_step": self.seconds / self.steps,
            "images_per_second": self.images / self.seconds,
            "data_share": self.data_seconds / self.seconds,
        }


class StepClock:
    """Times steps by the clock of the host.

    A GPU works behind the host, so a single step there has no time of its own: :meth:`read` waits until the queue is
    empty, which makes the sum over an interval right without a synchronization in any step.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._cost = StepCost()

    @contextmanager
    def step(self, images: int) -> Iterator[None]:
        """Around one whole step, which draws ``images`` images."""
        begin = time.perf_counter()
        yield
        self._cost += StepCost(1, images, time.perf_counter() - begin)

    @contextmanager
    def data(self) -> Iterator[None]:
        """Around the wait for a step's images."""
        begin = time.perf_counter()
        yield
        self._cost += StepCost(data_seconds=time.perf_counter() - begin)

    def read(self) -> StepCost:
        """Cost of the steps since the last reading, once a GPU has finished them."""
        begin = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        cost = self._cost + StepCost(seconds=time.perf_counter() - begin)
        self._cost = StepCost()
        return cost


def time_of_a_step(seconds: float) -> str:
    """Three digits of milliseconds, or of seconds from one up."""
    return f"{seconds:.3g} s" if seconds >= 0.9995 else f"{1e3 * seconds:.3g} ms"


def reset_peak_memory(device: torch.device) -> None:
    """Reset a GPU's peak memory; that of a CPU process cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held: on a GPU since :func:`reset_peak_memory`, else by this process since it began."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def free_memory_bytes(device: torch.device) -> int | None:
    """Memory that a run could still have: the GPU's, else the machine's; None where it is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    for line in info.read_text(encoding="utf-8").splitlines() if info.is_file() else ():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


class Metrics:
    """Appends one line at a time; lines beyond the checkpoint that a run resumes from are removed.

    Args:
        path: ``metrics.jsonl``.
        tensorboard: Folder for the curves; without one nothing of TensorBoard is written or imported.
        last_step: Of the checkpoint; 0 starts anew.
    """

    def __init__(self, path: Path, tensorboard: Path | None, last_step: int) -> None:
        kept = []
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with suppress(ValueError, KeyError, TypeError, RecursionError):  # half a line, of a run that was killed
                if json.loads(text)["step"] <= last_step:
                    kept.append(f"{text}\n")
        with written_beside(path) as beside:
            beside.write_text("".join(kept), encoding="utf-8")
        self.path = path
        with room_needed(path):
            self._file = path.open("a", encoding="utf-8")
        self._curves: SummaryWriter | None = None
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

            # Points beyond the checkpoint are hidden by purge_step.
            self._curves = SummaryWriter(str(tensorboard), purge_step=last_step + 1)

    def write(self, step: int, kind: str, **values: Any) -> None:
        """One line, and a point on the curve of each of its numbers."""
        with room_needed(self.path):
            self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
            self._file.flush()  # visible immediately to whoever reads along
            for name, value in values.items() if self._curves is not None else ():
                if isinstance(value, int | float):
                    self._curves.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is buffered."""
        with suppress(OSError):  # every line was flushed: a failure here was reported before
            self._file.close()
        if self._curves is not None:
            self._curves.close()
