"""Connected regions of the eleven thing classes: every backend here, every library there is, and a copy as floor."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

import stuffinstance as si
from benchmarks.label_maps import city_labels, noise_labels, worst_cases
from benchmarks.labeling_ways import WAYS, Way
from benchmarks.measurement import Floor, Measurement, Settings, WrongResult
from benchmarks.region_oracle import Expected, expected_regions, fault, fault_of_largest, fault_of_numbers
from benchmarks.timing import Timing, captured_in_graph, peak_memory, time_in_turn
from stuffinstance.regions.backends import BACKENDS

log = logging.getLogger(__name__)

Extra = dict[str, float | int | str]

THINGS = si.CITYSCAPES.things
_COPIES_ON_A_GPU = 10
_MOST_PIXELS = {"reference": 2**14, "torch": 2**22}  # on a CPU; more would take minutes
_SIZES = ((64, 128), (90, 160), (512, 1024), (1024, 2048))
_QUICK_SIZES = ((32, 64),)
_SLOW_SECONDS = 2.0  # a way whose call takes longer is timed by that call
_MOST_PIXELS_OF_A_CASE = {"cpu": 2**22, "cuda": 2**26}


def run(settings: Settings) -> list[Measurement]:
    """Compare all ways on all maps.

    Raises:
        WrongResult: If a way that claims to be exact finds other regions than the oracle.
    """
    measurements = []
    for case, labels in cases(settings):
        log.info("components: %s", case)
        measurements += compare(case, labels.to(settings.device), settings)
    return measurements


def cases(settings: Settings) -> Iterator[tuple[str, Tensor]]:
    """Label maps by name, one after another: streets by size and batch, noise, and long paths."""
    most = _MOST_PIXELS_OF_A_CASE[settings.device.type]
    for height, width in _QUICK_SIZES if settings.quick else _SIZES:
        for batch in (1, 2) if settings.quick else (1, 8, 32):
            if batch * height * width <= most:
                yield f"city {batch}x{height}x{width}", city_labels(batch, height, width)
    hard = ((12, 20),) if settings.quick else ((90, 160), (512, 1024))
    for height, width in hard:
        yield f"noise 1x{height}x{width}", noise_labels(1, height, width)
    height, width = hard[-1]
    for name, labels in worst_cases(height, width).items():
        yield f"{name} 1x{height}x{width}", labels


def compare(case: str, labels: Tensor, settings: Settings, ways: Mapping[str, Way] = WAYS) -> list[Measurement]:
    """Check the library's ways and ``ways`` on one batch against the oracle, then time them in turn."""
    expected = [expected_regions(image, THINGS) for image in labels.cpu().numpy()]
    regions = sum(len(one.first) for one in expected)
    calls, slow, notes = _library_ways(case, labels, expected, ways)
    calls |= _own_ways(case, labels, expected, notes, settings.interpreted)
    floor_name, floor_call, floor_bytes = _floor(labels)
    timings = time_in_turn({**calls, floor_name: floor_call}, settings)
    floor = Floor(floor_name, timings.pop(floor_name).median_ms, bytes=floor_bytes)
    extras: dict[str, Extra] = {name: {"regions": regions} for name in (*timings, *slow)}
    for name in timings:
        extras[name]["peak_mib"] = round(peak_memory(calls[name], settings.device), 2)
    measured = [
        Measurement("components", case, name, timing, floor, extras[name]) for name, timing in (timings | slow).items()
    ]
    return measured + [Measurement("components", case, name, None, floor, extra) for name, extra in notes.items()]


def _library_ways(
    case: str, labels: Tensor, expected: Sequence[Expected], ways: Mapping[str, Way]
) -> tuple[dict[str, Callable[[], object]], dict[str, Timing], dict[str, Extra]]:
    """Other ways, each checked: those to be timed, the time of those too slow to be called again, why not the rest."""
    calls: dict[str, Callable[[], object]] = {}
    notes: dict[str, Extra] = {}
    slow: dict[str, Timing] = {}
    for name, way in ways.items():
        obstacle = way.obstacle(labels, sum(len(one.first) for one in expected))
        if obstacle is not None:
            notes[name] = {"note": obstacle}
            continue
        call = partial(way.find, labels, THINGS)
        try:
            way.find(labels[:, :8, :8].contiguous(), THINGS)  # imports its library
            started = time.perf_counter()
            found = call()
            seconds = time.perf_counter() - started
        except ImportError:
            notes[name] = {"note": "not in the installed version"}
            continue
        except torch.OutOfMemoryError:
            notes[name] = {"note": "out of memory"}
            continue
        wrong = fault(found, expected)
        if wrong is not None and way.exact:
            raise WrongResult(f"{name} on {case}: {wrong}; its time means nothing.")
        if wrong is not None:
            notes[name] = {"wrong": wrong}
        elif seconds > _SLOW_SECONDS:
            slow[name] = Timing(1e3 * seconds, 1e3 * seconds, 1e3 * seconds, 1)
        else:
            calls[name] = call
    return calls, slow, notes


def _own_ways(
    case: str, labels: Tensor, expected: Sequence[Expected], notes: dict[str, Extra], interpreted: bool
) -> Mapping[str, Callable[[], object]]:
    """The library's ways, each checked; why one is skipped goes into ``notes``."""
    calls: dict[str, Callable[[], object]] = {}
    for backend, entry in BACKENDS.items():
        name = f"stuffinstance {backend}"
        obstacle = _obstacle(backend, labels, interpreted)
        if obstacle is None:
            obstacle = entry.obstacle("labels", labels.device)
        if obstacle is not None:
            notes[name] = {"note": obstacle}
            continue
        calls[name] = partial(si.connected_components, labels, classes=THINGS, backend=backend)
        if backend == "triton" and labels.device.type == "cuda":
            _add_graphs(calls, labels, notes)
        calls[f"{name}, areas"] = partial(_numbers_and_areas, labels, backend)
    calls["stuffinstance auto, areas"] = partial(_numbers_and_areas, labels, "auto")
    calls["stuffinstance instance_regions"] = partial(si.instance_regions, labels, THINGS)
    for name, call in calls.items():
        wrong = _own_fault(call(), expected)
        if wrong is not None:
            raise WrongResult(f"{name} on {case}: {wrong}; its time means nothing.")
    return calls


def _obstacle(backend: str, labels: Tensor, interpreted: bool) -> str | None:
    if labels.device.type != "cpu":
        return None
    if backend == "triton" and not interpreted:
        return "runs on cuda only"  # in Triton's interpreter it would, which says nothing about its speed
    most = _MOST_PIXELS.get(backend)
    if most is not None and labels.numel() > most:
        return f"skipped: more than {most} pixels would take minutes on a CPU"
    return None


def _add_graphs(calls: dict[str, Callable[[], object]], labels: Tensor, notes: dict[str, Extra]) -> None:
    for name, call in (
        ("stuffinstance triton, CUDA graph", partial(si.connected_components, labels, classes=THINGS)),
        ("stuffinstance instance_regions, CUDA graph", partial(si.instance_regions, labels, THINGS)),
    ):
        try:
            calls[name] = captured_in_graph(partial(call, backend="triton"))
        except RuntimeError as error:
            notes[name] = {"note": f"cannot be captured: {str(error).splitlines()[0]}"}


def _numbers_and_areas(labels: Tensor, backend: str) -> tuple[Tensor, list[Tensor]]:
    numbers = si.connected_components(labels, classes=THINGS, backend=backend)
    return numbers, [torch.bincount(image.flatten())[1:] for image in numbers]


def _own_fault(result: object, expected: Sequence[Expected]) -> str | None:
    if isinstance(result, si.Regions):
        return fault_of_largest(result, THINGS, expected)
    if isinstance(result, tuple):
        numbers, areas = result
        right = all(a.tolist() == one.area.tolist() for a, one in zip(areas, expected, strict=True))
        return fault_of_numbers(numbers, expected) or (None if right else "areas differ")
    assert isinstance(result, Tensor)
    return fault_of_numbers(result, expected)


def _floor(labels: Tensor) -> tuple[str, Callable[[], object], int]:
    """What has to be moved at least, as a call to be timed beside the ways."""
    if labels.device.type == "cpu":
        moved = labels.numel() * (labels.element_size() + 4)
        return "read the labels, write int32", lambda: labels.to(torch.int32), moved
    maps = torch.zeros(_COPIES_ON_A_GPU, *labels.shape, dtype=torch.int32, device=labels.device)
    copies = torch.empty_like(maps)
    return f"copy {_COPIES_ON_A_GPU} int32 maps", lambda: copies.copy_(maps), 2 * maps.numel() * 4
