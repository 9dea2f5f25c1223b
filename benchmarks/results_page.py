"""A run's results as one Markdown page: which targets it meets, every time, and where it ran."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.measurement import Measurement, Verdict
from benchmarks.plots import in_words

Parts = Mapping[str, tuple[dict[str, Any], Sequence[Measurement]]]
"""Environment and measurements by benchmark."""


def results_page(parts: Parts, verdicts: Sequence[Verdict], plots: Sequence[str]) -> str:
    """The page.

    Args:
        parts: What was measured, as :func:`benchmarks.measurement.read_measurements` gives it.
        verdicts: One per target.
        plots: File names of the charts, relative to the page.
    """
    device = next((str(where["device"]) for where, _ in parts.values()), "nothing measured")
    lines = [f"# Benchmarks on {'a CPU' if device == 'cpu' else device}", ""]
    quick = [name for name, (where, _) in parts.items() if where["quick"]]
    if quick:
        lines += [f"Of a quick run, these times mean nothing: {', '.join(quick)}.", ""]
    lines += ["## Targets", ""]
    lines += _table(
        ["target", "measured", "verdict", "why"],
        [[one.description, _number(one.measured), one.verdict, one.reason] for one in verdicts],
    )
    for plot in plots:
        lines += ["", f"![{plot}]({plot})"]
    for name, (_, measurements) in parts.items():
        lines += ["", f"## {name}"]
        for case in dict.fromkeys(one.case for one in measurements):
            lines += ["", f"### {case}", "", *_case([one for one in measurements if one.case == case])]
    lines += ["", "## Where", "", *_places({name: where for name, (where, _) in parts.items()})]
    return "\n".join(lines) + "\n"


def _case(measurements: Sequence[Measurement]) -> list[str]:
    floors = {one.floor.what: one.floor for one in measurements if one.floor is not None}
    lines = []
    for floor in floors.values():
        moved = "" if floor.bytes is None else f", {floor.bytes / 2**20:.3g} MiB moved"
        lines += [f"Floor: {floor.what}, {in_words(floor.ms)}{moved}.", ""]
    timed = [one for one in measurements if one.timing is not None]
    timed.sort(key=lambda one: one.timing.median_ms if one.timing is not None else 0)
    rest = [one for one in measurements if one.timing is None]
    return lines + _table(
        ["way", "median", "quartiles", "calls", "times the floor", "more"], [_row(one) for one in timed + rest]
    )


def _row(one: Measurement) -> list[str]:
    more = ", ".join(f"{key.replace('_', ' ')}: {_number(value)}" for key, value in one.extra.items())
    if one.timing is None:
        return [one.way, "", "", "", "", more]
    timing = one.timing
    floors = "" if one.floor is None else _number(timing.median_ms / one.floor.ms)
    quartiles = f"{in_words(timing.low_ms)} .. {in_words(timing.high_ms)}"
    return [one.way, in_words(timing.median_ms), quartiles, str(timing.repeats), floors, more]


def _places(places: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row a part; versions that all parts share are listed once, below."""
    versions = {name: dict(where["versions"]) for name, where in places.items()}
    shared = set.intersection(*(set(held.items()) for held in versions.values())) if versions else set()
    own = {name: _versions(one for one in held.items() if one not in shared) for name, held in versions.items()}
    differ = any(own.values())
    head = ["part", "commit", "date", "processor", "threads", *(["also"] if differ else [])]
    rows = [[name, *_where(where), *([own[name]] if differ else [])] for name, where in places.items()]
    first = next(iter(versions.values()), {})
    common = _versions(one for one in first.items() if one in shared)
    return _table(head, rows) + (["", f"{'All parts: ' if len(places) > 1 else ''}{common}."] if common else [])


def _versions(held: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {version}" for name, version in held)


def _where(where: Mapping[str, Any]) -> list[str]:
    commit = str(where["commit"] or "unknown")[:10] + (" with changes" if where["dirty"] else "")
    load = where.get("load")  # parts of earlier versions did not ask
    processor = f"{where['cpu']}, {where['cores']} cores" + ("" if load is None else f", load {load} before")
    return [commit, where["date"], processor, str(where["threads"])]


def _number(value: float | int | str | None) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (head, ["---"] * len(head), *rows)]
    return ["| " + " | ".join(row) + " |" for row in cells]
