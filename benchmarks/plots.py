"""Charts of a run: every way's time beside what bounds it, and how the cost grows."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks.measurement import Measurement, Timing
from examples.gta5_to_cityscapes.atomic_io import written_beside
from examples.gta5_to_cityscapes.report.charts import INK, NEUTRAL, draw

_OURS, _REFERENCE, _BOUND = "#009e73", "#d55e00", "#0072b2"
_GROWTH_LINES = {
    "whole step": ("#009e73", "o"),
    "instance regions": ("#e69f00", "s"),
    "region mean": ("#56b4e9", "^"),
    "matching of things": ("#cc79a7", "D"),
}
_COLUMNS = 2
_WRAP = 62  # characters below and above a chart

Panels = dict[str, list[Measurement]]
"""Measurements that have a time, by case."""


def write_plots(measurements: Sequence[Measurement], prefix: Path) -> list[Path]:
    """Draw what the measurements hold.

    Args:
        measurements: Of one device; benchmarks that are absent are not drawn.
        prefix: Beginning of the files' names: ``results/cpu`` gives ``results/cpu_components.png`` and so on.

    Returns:
        The files written.
    """
    prefix.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for benchmark, choose in _CHOICES.items():
        of_it = [m for m in measurements if m.benchmark == benchmark and m.timing is not None]
        panels = choose(of_it)
        if panels:
            written.append(_write(prefix, benchmark, _size_of(panels), partial(_paint_ways, panels)))
    growth = [m for m in measurements if m.benchmark == "growth" and m.timing is not None]
    if growth:
        written.append(_write(prefix, "growth", (9, 9), partial(_paint_growth, growth)))
    return written


def in_words(milliseconds: float) -> str:
    """A time with three digits and the unit that suits it.

    >>> in_words(0.0123), in_words(12.34), in_words(4856.1)
    ('12.3 µs', '12.3 ms', '4.86 s')
    """
    for unit, factor in (("µs", 1e3), ("ms", 1.0)):
        if milliseconds * factor < 999.5:
            return f"{milliseconds * factor:.3g} {unit}"
    seconds = milliseconds / 1e3
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:,.0f} s"


def _by_case(measurements: Sequence[Measurement]) -> Panels:
    panels: Panels = {}
    for one in measurements:
        panels.setdefault(one.case, []).append(one)
    return panels


def _single_streets(measurements: Sequence[Measurement]) -> Panels:
    """Of components one drawn street a size; batches and hard maps are in the table."""
    return _by_case([m for m in measurements if m.case.startswith("city 1x")])


def _most_channels(measurements: Sequence[Measurement]) -> Panels:
    """Of pooling the first D, which is SIM's own."""
    if not measurements:
        return {}
    ending = measurements[0].case.rpartition(",")[2]
    return _by_case([m for m in measurements if m.case.endswith(ending)])


_CHOICES: Mapping[str, Callable[[Sequence[Measurement]], Panels]] = {
    "components": _single_streets,
    "pooling": _most_channels,
    "step": _by_case,
    "thresholds": _by_case,
    "loader": _by_case,
}


def _write(prefix: Path, name: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> Path:
    path = prefix.with_name(f"{prefix.name}_{name}.png")
    with written_beside(path) as beside:
        beside.write_bytes(draw(name, f"Times of {name}.", size, paint).png)
    return path


def _most_ways(panels: Panels) -> list[int]:
    """How many ways the fullest panel of each row of panels has."""
    counts = [len(ways) for ways in panels.values()]
    columns = _columns(panels)
    return [max(counts[first : first + columns]) for first in range(0, len(counts), columns)]


def _columns(panels: Panels) -> int:
    return min(_COLUMNS, len(panels))


def _size_of(panels: Panels) -> tuple[float, float]:
    return 6.6 * _columns(panels), sum(map(_height_of, _most_ways(panels)))


def _height_of(ways: int) -> float:
    return 1.2 + 0.27 * ways  # inches: title and axis, then a line each


def _paint_ways(panels: Panels, figure: Figure) -> None:
    columns, most_ways = _columns(panels), _most_ways(panels)
    heights = [_height_of(ways) for ways in most_ways]
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights).flatten()
    for place, (axes, (case, ways)) in enumerate(zip(grid, panels.items(), strict=False)):
        _paint_case(axes, case, ways)
        axes.set_ylim(most_ways[place // columns] - 0.4, -0.6)
    for empty in grid[len(panels) :]:
        empty.set_axis_off()


def _paint_case(axes: Axes, case: str, ways: Sequence[Measurement]) -> None:
    """Dots, not bars: a logarithmic axis has no zero that a bar could start from."""
    timed = sorted(((m.way, m.timing) for m in ways if m.timing is not None), key=lambda pair: pair[1].median_ms)
    for row, (way, timing) in enumerate(timed):
        color = (
            _OURS if way.startswith("stuffinstance") else _REFERENCE if "reference implementation" in way else NEUTRAL
        )
        axes.plot([timing.low_ms, timing.high_ms], [row, row], color=color, linewidth=3, alpha=0.4)
        axes.plot([timing.median_ms], [row], "o", color=color, markersize=5)
        axes.annotate(
            in_words(timing.median_ms),
            (timing.high_ms, row),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_xscale("log")
    _mark_times(axes.xaxis)
    low, high = _extent([timing for _, timing in timed])
    floor = next((m.floor for m in ways if m.floor is not None), None)
    if floor is not None:
        taken = in_words(floor.ms).replace(" ", "\u00a0")  # stays on one line
        axes.axvline(floor.ms, color=_BOUND, linestyle="--", linewidth=1.2)
        axes.set_xlabel(fill(f"dashed: {floor.what}, {taken}", _WRAP), color=_BOUND)
        low, high = min(low, floor.ms), max(high, floor.ms)
    axes.set_xlim(low / 1.5, high * (high / low) ** 0.25 * 1.5)  # room for the words right of the last dot
    axes.set_yticks(range(len(timed)), [way for way, _ in timed])
    axes.tick_params(axis="y", length=0)
    axes.set_title(fill(case, _WRAP))


def _mark_times(axis: Axis) -> None:
    """Powers of ten with their unit, the lines between without words."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: in_words(float(f"{value:.6g}"))))
    axis.set_minor_formatter(NullFormatter())


def _extent(timings: Sequence[Timing]) -> tuple[float, float]:
    return min(timing.low_ms for timing in timings), max(timing.high_ms for timing in timings)


def _paint_growth(measurements: Sequence[Measurement], figure: Figure) -> None:
    of_axis: dict[str, list[Measurement]] = {}
    for one in measurements:
        of_axis.setdefault(str(one.extra["axis"]), []).append(one)
    rows = -(-(len(of_axis) + 1) // _COLUMNS)  # the last place is the legend's
    grid = figure.subplots(rows, _COLUMNS, squeeze=False, sharey=True).flatten()
    for axes, (axis, points) in zip(grid, of_axis.items(), strict=False):
        _paint_axis(axes, axis, points)
    for empty in grid[len(of_axis) :]:
        empty.set_axis_off()
    handles, labels = grid[0].get_legend_handles_labels()
    grid[len(of_axis)].legend(handles, labels, loc="center", labelcolor=INK)


def _paint_axis(axes: Axes, axis: str, points: Sequence[Measurement]) -> None:
    for way, (color, marker) in _GROWTH_LINES.items():
        line = [(float(m.extra["value"]), m.timing.median_ms) for m in points if m.way == way and m.timing is not None]
        axes.plot(*zip(*line, strict=True), marker=marker, markersize=4, linewidth=1.5, color=color, label=way)
    bound = [(float(m.extra["value"]), m.floor.ms) for m in points if m.floor is not None]
    label = "floor of the step: both feature maps\nread once, the gradient written once"
    axes.plot(*zip(*bound, strict=True), "--", linewidth=1.2, color=_BOUND, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _mark_times(axes.yaxis)
    values = sorted({int(m.extra["value"]) for m in points})
    axes.set_xticks(values, [f"{value:,}" for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(axis)
    axes.tick_params(labelleft=True)
