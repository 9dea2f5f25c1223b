"""Time and memory of calls, taken so that a slow minute of the machine hits every compared way alike."""

import atexit
import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from benchmarks.measurement import Settings, Timing

__all__ = ["Timing", "captured_in_graph", "held_memory", "peak_memory", "time_in_turn", "timing_of"]

_LEAST_REPEATS = 3
_SHORT_SECONDS = 0.02

atexit.register(gc.unfreeze)  # some libraries complain of what is left when the process ends


def time_in_turn(ways: Mapping[str, Callable[[], object]], settings: Settings) -> dict[str, Timing]:
    """Time every way: after a warm-up of each, rounds in which each runs once, one after another.

    A way whose warm-up says that ``settings.repeats`` calls would take more than ``settings.seconds_per_way`` is left
    out of some rounds, evenly, down to 3 calls. A way that takes less than 20 ms is called once more before each timed
    call: what ran before it must not decide what it finds in the caches. On a GPU the time is that between two events
    on the stream, with the device idle before the first: it holds the launches.

    Args:
        ways: What to call, by name. A call's result is dropped after the clock stopped.
        settings: Device, repeats and budget.

    Returns:
        Median and quartiles by name, in the order of ``ways``.
    """
    repeats, short = {}, set()
    for name, call in ways.items():
        seconds = _milliseconds(call, settings.device) / 1e3  # compiles, opens caches
        if seconds < settings.seconds_per_way:
            seconds = _milliseconds(call, settings.device) / 1e3
        if seconds < _SHORT_SECONDS:
            short.add(name)
        affordable = math.floor(settings.seconds_per_way / max(seconds, 1e-9))
        repeats[name] = min(max(settings.repeats, _LEAST_REPEATS), max(_LEAST_REPEATS, affordable))
    rounds = max(repeats.values(), default=0)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(rounds):
            for name, call in ways.items():
                if (number + 1) * repeats[name] // rounds > number * repeats[name] // rounds:
                    if name in short:
                        call()
                    taken[name].append(_milliseconds(call, settings.device))
    finally:
        if collecting:
            gc.enable()
    return {name: timing_of(milliseconds) for name, milliseconds in taken.items()}


def peak_memory(call: Callable[[], object], device: torch.device) -> float:
    """MiB that ``call`` holds at its peak beyond what was held before it.

    On a GPU what torch's allocator gave out. On a CPU the resident set, so numpy, OpenCV and torch count alike: its
    high-water mark is reset first, and freed memory is handed back, so that the call cannot reuse it unseen. Cycles of
    objects that are held by then stay held, garbage or not: no later search sees them, in this process. NaN where the
    system does not let the mark be reset (it needs Linux).
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        _hand_back_freed_memory()
        gc.freeze()  # what a finalizer let go is garbage of the next search; which is also faster by all these objects
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        held = _resident_mib("VmRSS")
        call()
        return max(0.0, _resident_mib("VmHWM") - held)
    except (OSError, AttributeError):
        return math.nan


def _hand_back_freed_memory() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def held_memory(device: torch.device) -> float:
    """MiB held now: by torch's allocator on a GPU, else the resident set of this process (NaN if unknown)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    try:
        _hand_back_freed_memory()
        return _resident_mib("VmRSS")
    except (OSError, AttributeError):
        return math.nan


def captured_in_graph(call: Callable[[], object]) -> Callable[[], object]:
    """``call`` as a CUDA graph: each replay runs the same kernels on the same memory, without their launches.

    Raises:
        RuntimeError: If ``call`` waits for the device, which a graph cannot hold.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is set up on first use must be there before the capture
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()

    def replay() -> object:
        graph.replay()
        return results

    return replay


def _milliseconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        result = call()
        milliseconds = (time.perf_counter() - started) * 1e3
        del result
        return milliseconds
    started_at, stopped_at = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    started_at.record()
    result = call()
    stopped_at.record()
    torch.cuda.synchronize(device)
    del result
    return float(started_at.elapsed_time(stopped_at))


def timing_of(milliseconds: list[float]) -> Timing:
    """Median and quartiles of times, in milliseconds."""
    low, median, high = statistics.quantiles(milliseconds, n=4, method="inclusive")
    return Timing(median, low, high, len(milliseconds))


def _resident_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status holds no {field}")
