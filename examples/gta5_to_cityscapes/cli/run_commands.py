"""Commands that train or report: train, ablation, experiment, demo, parts, report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from itertools import dropwhile, takewhile
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..config import LayoutConfig
from ..data.training_data import Folders
from ..distributed import is_rank_zero, on_rank_zero, world_size
from ..experiments.city import BUDGETS, city_folders, generate, is_city
from ..experiments.experiment import carry_out, check_same_run, plan, plan_paper_experiment
from ..experiments.runner import run_experiment
from ..preflight import Finding, check_plan
from ..recipes import ABLATION, PAPER_EXPERIMENTS, depends_on
from ..recipes.parts import parts as known_parts
from ..run_dir import Event, ExperimentRecord, Watch, read_record
from .options import (
    BudgetName,
    Check,
    CheckSteps,
    CitySeed,
    Classes,
    ClassFile,
    DemoJobs,
    DemoOut,
    Device,
    ExperimentFolder,
    From,
    GenerateCity,
    Jobs,
    Out,
    PaperName,
    PaperOut,
    PresetName,
    RecipeName,
    RecipeNames,
    Seed,
    Seeds,
    Settings,
    Source,
    SourceLayout,
    SourceList,
    SourceOrCity,
    StyleTransfer,
    Target,
    TargetLayout,
    TargetList,
    TargetOrCity,
    Threads,
    checkpoint_file,
    device_named,
    folders_given,
    numbers,
    overrides_of,
    print_cost,
    print_scores,
    require_style_transfer,
    use_threads,
)
from .progress_display import ProgressDisplay

REPORT_COST = 0.3  # relative to the work of training one recipe on labeled images alone
LADDER = ",".join(ABLATION)
STYLES = {"ok": "green", "note": "yellow", "missing": "red"}


def train(
    recipe: RecipeName,
    source: Source,
    target: Target,
    out: Out,
    source_layout: SourceLayout = "gta5",
    target_layout: TargetLayout = "cityscapes",
    source_list: SourceList = None,
    target_list: TargetList = None,
    preset: PresetName = "small",
    seed: Seed = 0,
    classes: Classes = "all",
    class_file: ClassFile = None,
    settings: Settings = None,
    style_transfer: StyleTransfer = None,
    device: Device = "auto",
    threads: Threads = 0,
    from_checkpoint: From = None,
) -> None:
    """Train one recipe, and before it the runs that it depends on, such as the first stage of one with ssl.

    Some parts: aa aligns the output adversarially, it transfers the target's style to source images, sim matches stuff
    and instances, ssl trains once more with pseudo-labels. `parts` lists them all.
    """
    use_threads(threads)
    jobs = plan(
        [recipe],
        [seed],
        preset,
        out,
        layouts=LayoutConfig(source=source_layout, target=target_layout),
        classes=classes,
        class_file=class_file,
        overrides=overrides_of(settings, style_transfer),
    )
    require_style_transfer(style_transfer, [each.recipe for each in jobs])
    *before, job = jobs
    if from_checkpoint is not None:
        if len(job.needs) != 1:
            raise typer.BadParameter(
                f"--from replaces the one run that a recipe depends on, got {recipe!r}, which depends on "
                f"{' and '.join(depends_on(recipe).names) or 'none'}; omit --from, or ask for a recipe such as "
                "aa+it+sim+ssl"
            )
        before = []  # trained elsewhere
    folders, where = Folders(source, target, source_list, target_list), device_named(device)
    check_same_run(job, folders, from_checkpoint)
    if job.run.result() is not None:
        before = []  # the run has ended, so they are not needed any more
    with ProgressDisplay({each.name: each.cost for each in (*before, job)}) as display:
        run_experiment(before, folders, where, display)
        result = carry_out(job, folders, where, display, checkpoint_file(from_checkpoint))
    print_scores(result, f"{recipe}, seed {seed}, step {result.step}")
    print_cost(result)


def ablation(
    out: Out,
    source: SourceOrCity = None,
    target: TargetOrCity = None,
    recipes: RecipeNames = LADDER,
    seeds: Seeds = "0",
    source_layout: SourceLayout = "gta5",
    target_layout: TargetLayout = "cityscapes",
    source_list: SourceList = None,
    target_list: TargetList = None,
    preset: PresetName = "small",
    classes: Classes = "all",
    class_file: ClassFile = None,
    settings: Settings = None,
    style_transfer: StyleTransfer = None,
    generate_city: GenerateCity = False,
    city_seed: CitySeed = 0,
    jobs: Jobs = 1,
    device: Device = "auto",
) -> None:
    """Run several recipes and seeds, resuming where an earlier call stopped, then write the report."""
    city = city_folders(out) if generate_city else None
    folders = folders_given(source, target, city, source_list, target_list)
    planned = plan(
        [name.strip() for name in recipes.split(",")],
        numbers(seeds),
        preset,
        out,
        layouts=LayoutConfig(source=source_layout, target=target_layout),
        classes=classes,
        class_file=class_file,
        overrides=overrides_of(settings, style_transfer),
    )
    require_style_transfer(style_transfer, [job.recipe for job in planned])
    costs = {job.name: job.cost for job in planned} | {"city": 1.0 if city else 0.0, "report": REPORT_COST}
    with ProgressDisplay(costs, overall="all") as display:
        if city is not None:
            on_rank_zero(lambda: generate(city, BUDGETS["small"], city_seed, display))
        run_experiment(planned, folders, device_named(device), display, processes=jobs)
        pages = write_reports_of(out, display)
    print_pages(pages)


def experiment(
    name: PaperName,
    out: PaperOut,
    source: SourceOrCity = None,
    target: TargetOrCity = None,
    source_list: SourceList = None,
    target_list: TargetList = None,
    preset: PresetName = "small",
    seeds: Seeds = "0,1,2",
    settings: Settings = None,
    style_transfer: StyleTransfer = None,
    generate_city: GenerateCity = False,
    city_seed: CitySeed = 0,
    jobs: Jobs = 1,
    device: Device = "auto",
    check: Check = False,
    check_steps: CheckSteps = 2,
) -> None:
    """Run a table or figure of the paper, resuming where an earlier call stopped, and write it beside the paper's.

    table2 and table6 are the ablations from GTA5 and SYNTHIA, table3 and table4 vary the weight and the banks of
    matching, figure2 is a long training with and without it.
    """
    if name not in PAPER_EXPERIMENTS:
        raise typer.BadParameter(f"name must be one of {', '.join(PAPER_EXPERIMENTS)}, got {name!r}")
    paper = PAPER_EXPERIMENTS[name]
    city = city_folders(out, paper.source) if generate_city else None
    folders, where = folders_given(source, target, city, source_list, target_list), device_named(device)
    record = ExperimentRecord(
        name,
        preset,
        tuple(numbers(seeds)),
        tuple(overrides_of(settings, style_transfer)),
        city is not None or is_city(folders.source),
        source_list="" if source_list is None else source_list.name,
        target_list="" if target_list is None else target_list.name,
    )
    planned = plan_paper_experiment(record, out)
    require_style_transfer(style_transfer, [job.recipe for job in planned])
    if check and world_size() > 1:
        raise typer.BadParameter("--check measures what one process needs; start it without torchrun")
    if not check:
        on_rank_zero(lambda: record.check(out))
    work = {} if check else {job.name: job.cost for job in planned} | {"report": REPORT_COST}
    with ProgressDisplay(work | ({"city": 1.0} if city else {}), overall=None if check else name) as display:
        if city is not None:
            drawing = BUDGETS.get(preset, BUDGETS["small"]), city_seed, display, paper.source
            on_rank_zero(lambda: generate(city, *drawing))
        if not check:
            # A command that ends in an error leaves the record as it was.
            claim = partial(on_rank_zero, partial(record.claim, out))
            run_experiment(planned, folders, where, display, processes=jobs, begin=claim)
            pages = write_reports_of(out, display)
    if check:

        def announce(run: str) -> None:
            typer.echo(f"timing steps of {run} ...", err=True)

        findings = check_plan(
            planned, folders, record, out, where, steps=check_steps, processes=jobs, announce=announce
        )
        _print_findings(findings)
    else:
        print_pages(pages)


def _print_findings(findings: Sequence[Finding]) -> None:
    """One table; where something is missing, it is named again below, and the command ends with 1."""
    table = Table("", "what", box=None)
    table.add_column("found", overflow="fold")  # no path is cut short
    for kind, what, text in findings:
        table.add_row(Text(kind, style=STYLES[kind]), what, Text(text))
    Console().print(table)
    missing = dict.fromkeys(finding.what for finding in findings if finding.kind == "missing")
    if missing:
        typer.echo(f"missing: {'; '.join(missing)}", err=True)
        raise typer.Exit(1)


def demo(out: DemoOut = Path("runs/demo"), budget: BudgetName = "small", seed: Seed = 0, jobs: DemoJobs = 0) -> None:
    """Draw the city, run the six recipes, write the table and the report."""
    if budget not in BUDGETS:
        raise typer.BadParameter(f"budget must be one of {', '.join(BUDGETS)}, got {budget!r}")
    planned = plan(ABLATION, [seed], BUDGETS[budget].preset, out)
    folders = city_folders(out)
    costs = {job.name: job.cost for job in planned} | {"city": 1.0, "report": REPORT_COST}
    with ProgressDisplay(costs, overall="demo") as display:
        on_rank_zero(lambda: generate(folders, BUDGETS[budget], seed, display))
        processes = jobs or min(2, os.cpu_count() or 1)
        run_experiment(planned, folders, torch.device("cpu"), display, processes=processes)
        pages = write_reports_of(out, display)
    print_pages(pages)


def parts() -> None:
    """List the parts that recipe names are sums of."""
    table = Table("part", "what it does", "settings", box=None)
    for group, part in known_parts().values():
        name = f"{part.name}, {part.name}2 to {part.name}9" if part.rounds else part.name
        table.add_row(name, part.meaning, group)
    Console().print(table, markup=False)


def report(experiment: ExperimentFolder) -> None:
    """Write the report of an experiment, finished or not, to EXPERIMENT/report/."""
    with ProgressDisplay({"report": 1.0}) as display:
        pages = write_reports_of(experiment, display)
    print_pages(pages)


def write_reports_of(experiment: Path, watch: Watch) -> list[Path]:
    """Write the pages of an experiment: the comparison with the paper, where it is one of the paper's, and its report.

    Nothing is written where the packages that it needs are not installed, or on ranks other than 0.
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
    """The paths of the pages, and the first table of the first page."""
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
