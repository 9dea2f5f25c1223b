"""``experiment``: a table or figure of the paper, all its runs and the page beside the published numbers."""

from __future__ import annotations

from typing import Annotated

import typer

from ..experiments.city import BUDGETS, city_folders, generate
from ..experiments.paper_jobs import plan_paper_experiment
from ..experiments.processes import run_experiment
from ..recipes import PAPER_EXPERIMENTS
from ..records.experiment_record import ExperimentRecord
from .options import (
    CitySeed,
    Device,
    GenerateCity,
    Jobs,
    Out,
    Restyle,
    Seeds,
    Set,
    SizeName,
    SourceOrCity,
    TargetOrCity,
    device_named,
    folders_given,
    numbers,
    overrides_of,
)
from .progress_display import ProgressDisplay
from .written_reports import REPORT_COST, print_pages, write_reports_of


def experiment(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(PAPER_EXPERIMENTS)}.")],
    out: Out,
    source: SourceOrCity = None,
    target: TargetOrCity = None,
    size: SizeName = "small",
    seeds: Seeds = "0,1,2",
    settings: Set = None,
    restyle: Restyle = None,
    generate_city: GenerateCity = False,
    city_seed: CitySeed = 0,
    jobs: Jobs = 1,
    device: Device = "auto",
) -> None:
    """Run a table or figure of the paper, going on where an earlier call stopped; then write it beside the paper's.

    table2 and table6 are the ablations from GTA5 and SYNTHIA, table3 and table4 vary the weight and the banks of
    matching, figure2 is a long training with and without it.
    """
    if name not in PAPER_EXPERIMENTS:
        raise typer.BadParameter(f"name must be one of {', '.join(PAPER_EXPERIMENTS)}, got {name!r}")
    record = ExperimentRecord(name, size, tuple(numbers(seeds)), tuple(overrides_of(settings, restyle)))
    city = city_folders(out, "synthia" if record.paper.source == "synthia" else "gta5")
    folders = folders_given(source, target, city if generate_city else None)
    planned = plan_paper_experiment(record, out)
    record.claim(out)
    costs = {job.name: job.cost for job in planned} | {"city": 1.0 if generate_city else 0.0, "report": REPORT_COST}
    with ProgressDisplay(costs, overall=name) as display:
        if generate_city:
            generate(city, BUDGETS.get(size, BUDGETS["small"]), city_seed, display)
        run_experiment(planned, folders, device_named(device), display, processes=jobs)
        pages = write_reports_of(out, display)
    print_pages(pages)
