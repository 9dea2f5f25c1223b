"""The reports of an experiment folder, written and named on the terminal."""

from __future__ import annotations

from itertools import dropwhile, takewhile
from pathlib import Path

import typer

from ..distributed import is_rank_zero
from ..run_dir import Event, Watch, read_record

REPORT_COST = 0.3  # of the work of training one recipe on labeled images alone


def write_reports_of(experiment: Path, watch: Watch) -> list[Path]:
    """Its pages: the comparison with the paper where it is one of the paper's, and the report of its recipes.

    None where the packages that they need are not installed; of several processes the first one writes.
    """
    if not is_rank_zero():
        return []
    try:
        from ..report import write_paper_page, write_report
    except ImportError as error:
        watch(Event("report", 1, 1, f"not written: {error}", "failed"))
        return []
    watch(Event("report", 0, 1, "writing"))
    record = read_record(experiment)
    pages = [] if record is None else [write_paper_page(record, experiment)]
    if record is None or record.paper.sweep is None:  # the rows of a sweep are one recipe
        pages.append(write_report(experiment, experiment / "report"))
    watch(Event("report", 1, 1, "written", "finished"))
    return pages


def print_pages(pages: list[Path]) -> None:
    """Where they lie, and the first one's table."""
    for page in pages:
        typer.echo(f"report: {page}")
    tables = (page.with_name(name) for page in pages[:1] for name in (f"{page.stem}.md", "table.md"))
    for table in tables:
        if table.is_file():
            lines = dropwhile(_between_tables, table.read_text(encoding="utf-8").splitlines())
            typer.echo("\n".join(takewhile(lambda line: not _between_tables(line), lines)))
            return


def _between_tables(line: str) -> bool:
    return not line.startswith("|")
