"""Progress bars with the time left; plain lines where output does not go to a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..distributed import is_rank_zero
from ..run_dir import Event

LINES_PER_TASK = 5


class _TimeLeft(TimeRemainingColumn):
    """By the speed of the bar, unless the bar has an estimate of its own."""

    def render(self, task: Task) -> Text:
        own = task.fields.get("left")
        return super().render(task) if own is None else Text(own, style="progress.remaining")


class ProgressDisplay:
    """A bar for each task, and one over all of them, in which each counts by its ``costs``.

    Args:
        costs: Work of each task that will come, relative to each other, by task name.
        overall: Name of the bar over all, or None to have none.
        console: Default: standard error, so that results can be piped.
    """

    def __init__(self, costs: Mapping[str, float], overall: str | None = None, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=not is_rank_zero())
        self.costs = dict(costs)
        self.done = dict.fromkeys(costs, 0.0)
        self._bars = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            _TimeLeft(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            speed_estimate_period=120.0,
            disable=not self.console.is_terminal,
        )
        self._started = time.monotonic()
        self._share_at_start = 0.0
        self._tasks: dict[str, TaskID] = {}
        self._lines: dict[str, int] = {}
        self._overall = None
        if overall is not None:
            self._overall = self._bars.add_task(overall, total=100, note="", left="-:--:--")

    def __enter__(self) -> ProgressDisplay:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if event.kind == "stopped":
            return  # reported for all runs together, once the bars have been removed
        if event.kind == "stopping":
            self.console.print(f"{event.task}: {event.note}", style="yellow", highlight=False, markup=False)
            return
        if event.kind == "failed":
            self.console.print(f"{event.task} failed: {event.note}", style="red", highlight=False, markup=False)
            return
        first = event.task not in self._tasks
        if first:
            # The bar of a resumed run starts at its step, so that its speed is that of this call.
            self._tasks[event.task] = self._bars.add_task(
                event.task, total=event.total, completed=event.done, note=event.note
            )
        self._bars.update(self._tasks[event.task], total=event.total, completed=event.done, note=event.note)
        share = event.done / max(1, event.total)
        if first:  # what was there before did not take any of this time
            self._share_at_start += share * self.costs.get(event.task, 0.0) / (sum(self.costs.values()) or 1.0)
        self.done[event.task] = share
        if self._overall is not None:
            self._bars.update(self._overall, completed=round(100 * self.share), left=self._time_left())
        if not self.console.is_terminal:
            self._print_line(event)

    @property
    def share(self) -> float:
        """Share of all the work that is done."""
        total = sum(self.costs.values()) or 1.0
        return sum(self.costs.get(task, 0.0) * done for task, done in self.done.items()) / total

    def _time_left(self) -> str:
        """By what this call has done in its time; not less than any of the bars says."""
        done = self.share - self._share_at_start
        if done < 1e-6:  # nothing yet, but for rounding
            return "-:--:--"
        seconds = (time.monotonic() - self._started) * (1 - self.share) / done
        bars = (bar.time_remaining for bar in self._bars.tasks if bar.id != self._overall and not bar.finished)
        return str(timedelta(seconds=int(max(seconds, *(left or 0.0 for left in bars), 0.0))))

    def _print_line(self, event: Event) -> None:
        mark = LINES_PER_TASK * event.done // max(1, event.total)
        if mark > self._lines.get(event.task, -1) or event.kind == "finished":
            self._lines[event.task] = mark if event.kind != "finished" else LINES_PER_TASK + 1
            overall = f"{self.share:4.0%}, {self._time_left()} left  " if self._overall is not None else ""
            self.console.print(f"{overall}{event.task:<24} {event.done}/{event.total}  {event.note}", highlight=False)
