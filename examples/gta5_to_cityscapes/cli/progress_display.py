"""Progress bars with the time left; plain lines where output does not go to a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..distributed import is_rank_zero
from ..run_dir import Event

LINES_PER_TASK = 5


class ProgressDisplay:
    """A bar for each task, and one over all of them, in which each counts by its ``costs``.

    Args:
        costs: Work of each task that will come, relative to each other, by task name.
        overall: Name of the bar over all, or None to have none.
        console: Default: standard error, so that results can be piped.
    """

    def __init__(self, costs: Mapping[str, float], overall: str | None = None, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=not is_rank_zero())
        total = sum(costs.values()) or 1.0
        self.weights = {task: cost / total for task, cost in costs.items()}
        self.share = 0.0  # of all the work
        self._done: dict[str, float] = {}
        self._lines: dict[str, int] = {}
        self._bars = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            speed_estimate_period=120.0,
            disable=not self.console.is_terminal,
        )
        self._overall = None if overall is None else self._bars.add_task(overall, total=100, note="")
        self._tasks: dict[str, TaskID] = {}

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
        if event.kind in ("stopping", "failed"):
            said, style = ("", "yellow") if event.kind == "stopping" else (" failed", "red")
            self.console.print(f"{event.task}{said}: {event.note}", style=style, highlight=False, markup=False)
            return
        share = event.done / max(1, event.total)
        self.share += self.weights.get(event.task, 0.0) * (share - self._done.get(event.task, 0.0))
        self._done[event.task] = share
        shown = {"total": event.total, "completed": event.done, "note": event.note}
        move = self._bars.update
        if event.task not in self._tasks:
            self._tasks[event.task] = self._bars.add_task(event.task, **shown)
            # What was done before this call took none of its time: the speed is measured from here.
            move = self._bars.reset if event.done else move
        self._bars.update(self._tasks[event.task], **shown)
        if self._overall is not None:
            move(self._overall, total=100, completed=round(100 * self.share, 3), note="")
        if not self.console.is_terminal:
            self._print_line(event)

    def _print_line(self, event: Event) -> None:
        mark = LINES_PER_TASK * event.done // max(1, event.total)
        if mark > self._lines.get(event.task, -1) or event.kind == "finished":
            self._lines[event.task] = mark if event.kind != "finished" else LINES_PER_TASK + 1
            overall = f"{self.share:4.0%}, {self._time_left()} left  " if self._overall is not None else ""
            text = f"{overall}{event.task:<24} {event.done}/{event.total}  {event.note}"
            self.console.print(text, highlight=False, soft_wrap=True)

    def _time_left(self) -> str:
        seconds = self._bars.tasks[0].time_remaining  # of the bar over all
        return "-:--:--" if seconds is None else str(timedelta(seconds=int(seconds)))
