"""``python -m benchmarks``: run the parts, keep their results, and say which targets they meet."""

import importlib
import logging
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from benchmarks.measurement import (
    Measurement,
    Settings,
    Verdict,
    WrongResult,
    device_name,
    environment,
    read_measurements,
    slug,
    write_measurements,
)
from benchmarks.plots import write_plots
from benchmarks.results_page import results_page
from benchmarks.targets import verdicts
from examples.gta5_to_cityscapes.atomic_io import written_beside
from examples.gta5_to_cityscapes.console import escape_unprintable

PARTS = {
    "components": "benchmarks.components",
    "pooling": "benchmarks.pooling",
    "step": "benchmarks.step",
    "thresholds": "benchmarks.thresholds",
    "network": "benchmarks.network",
    "growth": "benchmarks.growth",
    "loader": "benchmarks.loader",
}
"""What can be named on the command line, and the module whose ``run(settings)`` measures it."""

RESULTS = Path(__file__).parent / "results"
_QUICK_REPEATS, _QUICK_SECONDS = 3, 0.05

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
console = Console()


@app.command()
def benchmark(
    parts: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(PARTS)}; all where none is named.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Folder of the results. [default: benchmarks/results; a new one for --quick]"
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="CPU threads of torch and OpenCV.")] = 2,
    repeats: Annotated[int, typer.Option(min=3, help="Calls of a way; slow ways are called less.")] = 21,
    images: Annotated[int, typer.Option(min=16, help="Maps that stream through the thresholds.")] = 240,
    quick: Annotated[bool, typer.Option("--quick", help="Small and few: whether it runs, not how fast.")] = False,
) -> None:
    """Time the library beside the reference implementation, other libraries and lower bounds."""
    unknown = [name for name in parts or () if name not in PARTS]
    if unknown:
        raise typer.BadParameter(f"parts must be of {', '.join(PARTS)}, got {', '.join(unknown)}.")
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"--device must be cpu or cuda, got {device}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("--device cuda needs a GPU and a CUDA build of torch; torch sees none.")
    if out is None:
        # A quick run's times mean nothing: they must not take the place of a real run's.
        out = Path(tempfile.mkdtemp(prefix="benchmarks_quick_")) if quick else RESULTS
    settings = (
        Settings(torch.device(device), threads, True, _QUICK_REPEATS, seconds_per_way=_QUICK_SECONDS)
        if quick
        else Settings(torch.device(device), threads, False, repeats, images)
    )
    logging.basicConfig(format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    try:
        rows = measure(parts or list(PARTS), settings, out)
    except WrongResult as error:
        console.print(f"[red]wrong result:[/red] {escape(str(error))}")
        raise typer.Exit(1) from None
    console.print(_verdict_table(rows))
    console.print(f"Results: {out}")


def measure(parts: list[str], settings: Settings, out: Path) -> list[Verdict]:
    """Run the parts one after another and write ``<device>.json``, ``<device>.md`` and the charts.

    Each part is written as soon as it is done. What the file holds of other parts stays, with its own commit and date.

    Returns:
        One verdict per target, over all that the file holds.

    Raises:
        WrongResult: If a way computes something else than its oracle; nothing of that part is written.
    """
    _use_threads(settings.threads)
    name = slug(device_name(settings.device))
    path = out / f"{name}.json"
    for part in parts:
        run: Callable[[Settings], list[Measurement]] = importlib.import_module(PARTS[part]).run
        with console.status(f"{part} on {device_name(settings.device)}"):
            where = environment(settings)
            measurements = run(settings)
        write_measurements(path, {part: (where, measurements)})
        console.print(f"{part}: {len(measurements)} measurements")
    return write_page(path, settings.device)


def write_page(path: Path, device: torch.device) -> list[Verdict]:
    """Write the page and the charts of a results file beside it; the verdicts on all that it holds."""
    held = read_measurements(path)
    everything = [one for _, measurements in held.values() for one in measurements]
    rows = verdicts(everything, device)
    plots = write_plots(everything, path.with_suffix(""))
    in_order = {part: held[part] for part in (*PARTS, *held) if part in held}
    with written_beside(path.with_suffix(".md")) as beside:
        beside.write_text(results_page(in_order, rows, [plot.name for plot in plots]), encoding="utf-8")
    return rows


def _use_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    if find_spec("cv2") is not None:
        import cv2

        cv2.setNumThreads(threads)


def _verdict_table(rows: list[Verdict]) -> Table:
    table = Table("target", "measured", "verdict", "why")
    for one in rows:
        measured = "" if one.measured is None else f"{one.measured:.3g}"
        table.add_row(escape(one.description), measured, one.verdict, escape(one.reason))
    return table


if __name__ == "__main__":
    escape_unprintable()
    app()
