"""Stop requests: Ctrl-C or SIGTERM stops a run at the end of its step, where its state can be saved."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

PATIENCE_SECONDS = 2.0
STOPPING = (
    "stopping: this step is ended and saved first. "
    f"Another Ctrl-C or SIGTERM after {PATIENCE_SECONDS:.0f} seconds ends without saving."
)


class Stopped(Exception):
    """A run was asked to stop and has saved its state; the message says how to go on."""


def ignores_sigint() -> bool:
    """Whether this process was started so that Ctrl-C does not reach it."""
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


class StopRequest:
    """Context in which the first SIGINT or SIGTERM only sets ``asked``; a later second one interrupts immediately.

    A terminal and a parent process may both pass on one Ctrl-C, so signals close together count as one. A process that
    was started with SIGINT ignored, as a shell without job control starts those in the background, keeps ignoring it:
    there Ctrl-C is meant for others, and SIGTERM stops it.

    Args:
        notify: Called at the first signal, in a thread of its own: the signal may interrupt the very code that
            ``notify`` writes with.
    """

    def __init__(self, notify: Callable[[], None] | None = None) -> None:
        self.asked = False
        self._notify = notify
        self._process = os.getpid()
        self._first = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGTERM,) if ignores_sigint() else (signal.SIGINT, signal.SIGTERM):
                self._before[kind] = signal.signal(kind, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # of a loader's process, which has this handler by being forked
        now = time.monotonic()
        if self.asked and now - self._first > PATIENCE_SECONDS:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._first = True, now
            if self._notify is not None:
                threading.Thread(target=self._notify, daemon=True).start()


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Context in which SIGTERM raises KeyboardInterrupt as Ctrl-C does; in processes forked in it, it is as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
