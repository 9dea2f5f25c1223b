"""Commands that train or report: train, ablation, experiment, demo, parts, report."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..config import LayoutConfig
from ..data.training_data import Folders
from ..distributed import is_rank_zero, on_rank_zero, world_size
from ..experiments.city import BUDGETS, City, is_city
from ..experiments.experiment import Job, carry_out, check_same_run, plan, plan_paper_experiment
from ..experiments.runner import run_experiment, stop_with_stdin
from ..preflight import Finding, check_plan
from ..recipes import ABLATION, PAPER_EXPERIMENTS, depends_on
from ..recipes.parts import parts as known_parts
from ..run_dir import Event, ExperimentRecord, Watch, read_record
from . import options as opt
from .progress_display import ProgressDisplay

LADDER = ",".join(ABLATION)
DEMO = (*ABLATION, "wmix")  # class mixing beside the paper's own recipes: it gains most in so short a training
REPORT_COST = 0.3  # relative to the work of training one recipe on labeled images alone
STYLES = {"ok": "green", "note": "yellow", "missing": "red"}


def train(
    recipe: opt.RecipeName,
    source: opt.Source,
    target: opt.Target,
    out: opt.Out,
    source_layout: opt.SourceLayout = "gta5",
    target_layout: opt.TargetLayout = "cityscapes",
    source_list: opt.SourceList = None,
    target_list: opt.TargetList = None,
    preset: opt.PresetName = "small",
    seed: opt.Seed = 0,
    classes: opt.Classes = "all",
    class_file: opt.ClassFile = None,
    settings: opt.Settings = None,
    style_transfer: opt.StyleTransfer = None,
    device: opt.Device = "auto",
    threads: opt.Threads = 0,
    from_checkpoint: opt.From = None,
    supervised: opt.StopWithStdin = False,
) -> None:
    """Train one recipe, and before it the runs that it depends on, such as the first stage of one with ssl.

    Some parts: aa aligns the output adversarially, it transfers the target's style to source images, sim matches stuff
    and instances, ssl trains once more with pseudo-labels. `parts` lists them all.
    """
    if supervised:
        stop_with_stdin()
    jobs = plan(
        [recipe],
        [seed],
        preset,
        out,
        layouts=LayoutConfig(source=source_layout, target=target_layout),
        classes=classes,
        class_file=class_file,
        overrides=opt.overrides_of(settings, style_transfer),
    )
    opt.require_style_transfer(style_transfer, [each.recipe for each in jobs])
    *before, job = jobs
    if from_checkpoint is not None:
        if len(job.needs) != 1:
            raise typer.BadParameter(
                f"--from replaces the one run that a recipe depends on, got {recipe!r}, which depends on "
                f"{' and '.join(depends_on(recipe).names) or 'none'}; omit --from, or ask for a recipe such as "
                "aa+it+sim+ssl"
            )
        before = []  # trained elsewhere
    folders, where = Folders(source, target, source_list, target_list), opt.device_named(device)
    check_same_run(job, folders, from_checkpoint)
    if job.run.result() is not None:
        before = []  # the run has ended, so they are not needed any more
    with ProgressDisplay({each.name: each.cost for each in (*before, job)}) as display:
        run_experiment(before, folders, where, display)
        result = carry_out(job, folders, where, display, opt.checkpoint_file(from_checkpoint))
    opt.print_scores(result, f"{recipe}, seed {seed}, step {result.step}")
    opt.print_cost(result)


def ablation(
    out: opt.Out,
    source: opt.SourceOrCity = None,
    target: opt.TargetOrCity = None,
    recipes: opt.RecipeNames = LADDER,
    seeds: opt.Seeds = "0",
    source_layout: opt.SourceLayout = "gta5",
    target_layout: opt.TargetLayout = "cityscapes",
    source_list: opt.SourceList = None,
    target_list: opt.TargetList = None,
    preset: opt.PresetName = "small",
    classes: opt.Classes = "all",
    class_file: opt.ClassFile = None,
    settings: opt.Settings = None,
    style_transfer: opt.StyleTransfer = None,
    generate_city: opt.GenerateCity = False,
    city_seed: opt.CitySeed = 0,
    jobs: opt.Jobs = 1,
    device: opt.Device = "auto",
    check: opt.Check = False,
    check_steps: opt.CheckSteps = 2,
) -> None:
    """Run several recipes and seeds, resuming where an earlier call stopped, then write the report."""
    city = City(out, BUDGETS["small"], city_seed) if generate_city else None
    folders = opt.folders_given(source, target, city, source_list, target_list)
    planned = plan(
        [name.strip() for name in recipes.split(",")],
        opt.numbers(seeds),
        preset,
        out,
        layouts=LayoutConfig(source=source_layout, target=target_layout),
        classes=classes,
        class_file=class_file,
        overrides=opt.overrides_of(settings, style_transfer),
    )
    opt.require_style_transfer(style_transfer, [job.recipe for job in planned])
    where = opt.device_named(device)
    if check:
        _check(planned, folders, None, out, where, check_steps, jobs, city)
        return
    run_and_report("all", planned, folders, out, where, jobs, city)


def experiment(
    name: opt.PaperName,
    out: opt.Out,
    source: opt.SourceOrCity = None,
    target: opt.TargetOrCity = None,
    source_list: opt.SourceList = None,
    target_list: opt.TargetList = None,
    preset: opt.PresetName = "small",
    seeds: opt.Seeds = "0,1,2",
    settings: opt.Settings = None,
    style_transfer: opt.StyleTransfer = None,
    generate_city: opt.GenerateCity = False,
    city_seed: opt.CitySeed = 0,
    jobs: opt.Jobs = 1,
    device: opt.Device = "auto",
    check: opt.Check = False,
    check_steps: opt.CheckSteps = 2,
) -> None:
    """Run a table or figure of the paper, resuming where an earlier call stopped, and write it beside the paper's.

    table2 and table6 are the ablations from GTA5 and SYNTHIA, table3 and table4 vary the weight and the banks of
    matching, figure2 is a long training with and without it.
    """
    if name not in PAPER_EXPERIMENTS:
        raise typer.BadParameter(f"name must be one of {', '.join(PAPER_EXPERIMENTS)}, got {name!r}")
    budget, layout = BUDGETS.get(preset, BUDGETS["small"]), PAPER_EXPERIMENTS[name].source
    city = City(out, budget, city_seed, layout) if generate_city else None
    folders, where = opt.folders_given(source, target, city, source_list, target_list), opt.device_named(device)
    record = ExperimentRecord(
        name,
        preset,
        tuple(opt.numbers(seeds)),
        tuple(opt.overrides_of(settings, style_transfer)),
        city is not None or is_city(folders.source),
        source_list="" if source_list is None else source_list.name,
        target_list="" if target_list is None else target_list.name,
    )
    planned = plan_paper_experiment(record, out)
    opt.require_style_transfer(style_transfer, [job.recipe for job in planned])
    if not check:
        on_rank_zero(lambda: record.check(out))
        # A command that ends in an error leaves the record as it was.
        claim = partial(on_rank_zero, partial(record.claim, out))
        run_and_report(name, planned, folders, out, where, jobs, city, claim)
        return
    _check(planned, folders, record, out, where, check_steps, jobs, city)


def _check(
    jobs: Sequence[Job],
    folders: Folders,
    record: ExperimentRecord | None,
    out: Path,
    device: torch.device,
    steps: int,
    processes: int,
    city: City | None,
) -> None:
    """Check a plan and train nothing; a city is drawn first, as any other data have to be there."""
    if world_size() > 1:
        raise typer.BadParameter("--check measures what one process needs; start it without torchrun")
    if city is not None:
        with ProgressDisplay({"city": 1.0}) as display:
            city.generate(display)
    _print_findings(
        check_plan(
            jobs,
            folders,
            record,
            out,
            device,
            steps=steps,
            processes=processes,
            announce=lambda run: typer.echo(f"timing steps of {run} ...", err=True),
        )
    )


def demo(
    out: opt.DemoOut = Path("runs/demo"), budget: opt.BudgetName = "small", seed: opt.Seed = 0, jobs: opt.DemoJobs = 0
) -> None:
    """Draw the city, run the paper's six recipes and class mixing, write the table and the report."""
    if budget not in BUDGETS:
        raise typer.BadParameter(f"budget must be one of {', '.join(BUDGETS)}, got {budget!r}")
    city = City(out, BUDGETS[budget], seed)
    planned = plan(DEMO, [seed], city.budget.preset, out, overrides=city.budget.settings)
    processes = jobs or min(2, os.cpu_count() or 1)
    run_and_report("demo", planned, city.folders, out, torch.device("cpu"), processes, city)


def run_and_report(
    title: str,
    jobs: Sequence[Job],
    folders: Folders,
    out: Path,
    device: torch.device,
    processes: int,
    city: City | None,
    begin: Callable[[], None] | None = None,
) -> None:
    """Draw the city where there is one, carry out the jobs, write the report and print its first table."""
    costs = {job.name: job.cost for job in jobs} | {"city": 1.0 if city else 0.0, "report": REPORT_COST}
    with ProgressDisplay(costs, overall=title) as display:
        if city is not None:
            on_rank_zero(lambda: city.generate(display))
        run_experiment(jobs, folders, device, display, processes=processes, begin=begin)
        pages = write_reports_of(out, display)
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


def parts() -> None:
    """List the parts that recipe names are sums of."""
    table = Table("part", "what it does", "settings", box=None)
    for group, part in known_parts().values():
        name = f"{part.name}, {part.name}2 to {part.name}9" if part.rounds else part.name
        table.add_row(name, part.meaning, group)
    Console().print(table, markup=False)


def report(experiment: opt.ExperimentFolder) -> None:
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


def print_pages(pages: Sequence[Path]) -> None:
    """The paths of the pages, and the first table of the first page."""
    for page in pages:
        typer.echo(f"report: {page}")
    for page in pages[:1]:
        text = page.with_suffix(".md") if page.with_suffix(".md").is_file() else page.with_name("table.md")
        blocks = text.read_text(encoding="utf-8").split("\n\n")
        typer.echo(next((block for block in blocks if block.startswith("|")), "").rstrip())
