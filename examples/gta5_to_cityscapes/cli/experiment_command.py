"""``experiment``: a table or figure of the paper, all its runs and the page beside the published numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..distributed import from_first, world
from ..experiments.city import BUDGETS, city_folders, generate, is_city
from ..experiments.experiment import plan_paper_experiment
from ..experiments.runner import run_experiment
from ..preflight import Finding, check_plan
from ..recipes import PAPER_EXPERIMENTS
from ..run_dir import ExperimentRecord
from .options import (
    CitySeed,
    Device,
    GenerateCity,
    Jobs,
    Seeds,
    Set,
    SizeName,
    SourceList,
    SourceOrCity,
    StyleTransferOption,
    TargetList,
    TargetOrCity,
    device_named,
    folders_given,
    numbers,
    overrides_of,
    require_style_transfer_recipe,
)
from .progress_display import ProgressDisplay
from .written_reports import REPORT_COST, print_pages, write_reports_of

STYLES = {"ok": "green", "note": "yellow", "missing": "red"}


def experiment(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(PAPER_EXPERIMENTS)}.")],
    out: Annotated[
        Path,
        typer.Option(
            file_okay=False,
            help="Experiment folder; runs go to OUT/RECIPE/seedK/, in table3 and table4 to OUT/VALUE/RECIPE/seedK/.",
        ),
    ],
    source: SourceOrCity = None,
    target: TargetOrCity = None,
    source_list: SourceList = None,
    target_list: TargetList = None,
    size: SizeName = "small",
    seeds: Seeds = "0,1,2",
    settings: Set = None,
    style_transfer: StyleTransferOption = None,
    generate_city: GenerateCity = False,
    city_seed: CitySeed = 0,
    jobs: Jobs = 1,
    device: Device = "auto",
    check: Annotated[
        bool, typer.Option("--check", help="Train nothing: look at data, weights, folders, room and time, then say.")
    ] = False,
    check_steps: Annotated[int, typer.Option(min=0, help="Steps that --check times; 0 for none.")] = 2,
) -> None:
    """Run a table or figure of the paper, going on where an earlier call stopped; then write it beside the paper's.

    table2 and table6 are the ablations from GTA5 and SYNTHIA, table3 and table4 vary the weight and the banks of
    matching, figure2 is a long training with and without it.
    """
    if name not in PAPER_EXPERIMENTS:
        raise typer.BadParameter(f"name must be one of {', '.join(PAPER_EXPERIMENTS)}, got {name!r}")
    paper = PAPER_EXPERIMENTS[name]
    city = city_folders(out, paper.source) if generate_city else None
    folders, where = folders_given(source, target, city, source_list, target_list), device_named(device)
    drawn = city is not None or is_city(folders.source)
    record = ExperimentRecord(
        name,
        size,
        tuple(numbers(seeds)),
        tuple(overrides_of(settings, style_transfer)),
        drawn,
        source_list="" if source_list is None else source_list.name,
        target_list="" if target_list is None else target_list.name,
    )
    planned = plan_paper_experiment(record, out)
    require_style_transfer_recipe(style_transfer, [job.recipe for job in planned])
    if check and world() > 1:
        raise typer.BadParameter("--check looks at what one process will need; start it without torchrun")
    if not check:
        from_first(lambda: record.check(out))
    work = {} if check else {job.name: job.cost for job in planned} | {"report": REPORT_COST}
    with ProgressDisplay(work | ({"city": 1.0} if city else {}), overall=None if check else name) as display:
        if city is not None:
            drawing = BUDGETS.get(size, BUDGETS["small"]), city_seed, display, paper.source
            from_first(lambda: generate(city, *drawing))
        if not check:
            # A command that is refused leaves the record as it was.
            claim = partial(from_first, partial(record.claim, out))
            run_experiment(planned, folders, where, display, processes=jobs, begin=claim)
            pages = write_reports_of(out, display)
    if check:
        _tell(check_plan(planned, folders, record, out, where, steps=check_steps, processes=jobs, tell=_tell_timing))
    else:
        print_pages(pages)


def _tell_timing(run: str) -> None:
    typer.echo(f"timing steps of {run} ...", err=True)


def _tell(findings: Sequence[Finding]) -> None:
    """One table; below it once more what is missing, which ends the command with 1."""
    table = Table("", "what", box=None)
    table.add_column("found", overflow="fold")  # no path is cut short
    for kind, what, told in findings:
        table.add_row(Text(kind, style=STYLES[kind]), what, Text(told))
    Console().print(table)
    missing = dict.fromkeys(finding.what for finding in findings if finding.kind == "missing")
    if missing:
        typer.echo(f"missing: {'; '.join(missing)}", err=True)
        raise typer.Exit(1)
