"""Commands that carry out runs and sum them up: train, ablation, demo, report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from ..config import LayoutConfig
from ..data.training_data import Folders
from ..distributed import on_rank_zero
from ..experiments.city import BUDGETS, city_folders, generate
from ..experiments.experiment import carry_out, plan, refuse_another_run
from ..experiments.runner import run_experiment
from ..recipes import ABLATION, depends_on
from ..recipes.parts import parts as known_parts
from .options import (
    CitySeed,
    Classes,
    Device,
    GenerateCity,
    Jobs,
    Out,
    Seeds,
    Set,
    SizeName,
    Source,
    SourceLayout,
    SourceList,
    SourceOrCity,
    StyleTransferOption,
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
    require_style_transfer_recipe,
    use_threads,
)
from .progress_display import ProgressDisplay
from .written_reports import REPORT_COST, print_pages, write_reports_of


def train(
    recipe: Annotated[
        str, typer.Argument(help="source, target-only, or a sum of parts such as aa+it+sim; `parts` lists them.")
    ],
    source: Source,
    target: Target,
    out: Out,
    source_layout: SourceLayout = "gta5",
    target_layout: TargetLayout = "cityscapes",
    source_list: SourceList = None,
    target_list: TargetList = None,
    size: SizeName = "small",
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order and augmentation.")] = 0,
    classes: Classes = "all",
    settings: Set = None,
    style_transfer: StyleTransferOption = None,
    device: Device = "auto",
    threads: Threads = 0,
    from_checkpoint: Annotated[
        Path | None,
        typer.Option("--from", help="A checkpoint or run folder in place of the run that the recipe depends on."),
    ] = None,
) -> None:
    """Train one recipe; what it depends on, such as the first step of one with ssl, is trained before it if need be.

    Some parts: aa aligns the output adversarially, it transfers source images to the target's style, sim matches stuff
    and instances, ssl trains once more with pseudo-labels. `parts` lists them all.
    """
    use_threads(threads)
    jobs = plan(
        [recipe],
        [seed],
        size,
        out,
        layouts=LayoutConfig(source=source_layout, target=target_layout),
        classes=classes,
        overrides=overrides_of(settings, style_transfer),
    )
    require_style_transfer_recipe(style_transfer, [each.recipe for each in jobs])
    *first_steps, job = jobs
    if from_checkpoint is not None:
        if len(job.needs) != 1:
            raise typer.BadParameter(
                f"--from stands in for the one run that a recipe depends on, got {recipe!r}, which depends on "
                f"{' and '.join(depends_on(recipe).names) or 'none'}; leave --from out, or ask for a recipe such as "
                "aa+it+sim+ssl"
            )
        first_steps = []  # trained elsewhere
    folders, where = Folders(source, target, source_list, target_list), device_named(device)
    refuse_another_run(job, folders, from_checkpoint)
    if job.run.result() is not None:
        first_steps = []  # what they were needed for has ended
    with ProgressDisplay({each.name: each.cost for each in (*first_steps, job)}) as display:
        run_experiment(first_steps, folders, where, display)
        result = carry_out(job, folders, where, display, checkpoint_file(from_checkpoint))
    print_scores(result, f"{recipe}, seed {seed}, step {result.step}")
    print_cost(result)


def ablation(
    out: Out,
    source: SourceOrCity = None,
    target: TargetOrCity = None,
    recipes: Annotated[str, typer.Option(help="Recipes set apart by commas.")] = ",".join(ABLATION),
    seeds: Seeds = "0",
    source_layout: SourceLayout = "gta5",
    target_layout: TargetLayout = "cityscapes",
    source_list: SourceList = None,
    target_list: TargetList = None,
    size: SizeName = "small",
    classes: Classes = "all",
    settings: Set = None,
    style_transfer: StyleTransferOption = None,
    generate_city: GenerateCity = False,
    city_seed: CitySeed = 0,
    jobs: Jobs = 1,
    device: Device = "auto",
) -> None:
    """Run several recipes and seeds, going on where an earlier call stopped, then write the report."""
    city = city_folders(out) if generate_city else None
    folders = folders_given(source, target, city, source_list, target_list)
    planned = plan(
        [name.strip() for name in recipes.split(",")],
        numbers(seeds),
        size,
        out,
        layouts=LayoutConfig(source=source_layout, target=target_layout),
        classes=classes,
        overrides=overrides_of(settings, style_transfer),
    )
    require_style_transfer_recipe(style_transfer, [job.recipe for job in planned])
    costs = {job.name: job.cost for job in planned} | {"city": 1.0 if city else 0.0, "report": REPORT_COST}
    with ProgressDisplay(costs, overall="all") as display:
        if city is not None:
            on_rank_zero(lambda: generate(city, BUDGETS["small"], city_seed, display))
        run_experiment(planned, folders, device_named(device), display, processes=jobs)
        pages = write_reports_of(out, display)
    print_pages(pages)


def demo(
    out: Annotated[Path, typer.Option(file_okay=False, help="Where everything goes.")] = Path("runs/demo"),
    budget: Annotated[str, typer.Option(help="small (some ten minutes on two cores) or smoke (about one).")] = "small",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the city and of training.")] = 0,
    jobs: Annotated[int, typer.Option(min=0, help="Runs at a time, 0 for one per core, at most 2.")] = 0,
) -> None:
    """Draw the city, run the six recipes, write the table and the report."""
    if budget not in BUDGETS:
        raise typer.BadParameter(f"budget must be one of {', '.join(BUDGETS)}, got {budget!r}")
    planned = plan(ABLATION, [seed], BUDGETS[budget].size, out)
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


def report(experiment: Annotated[Path, typer.Argument(help="Experiment folder.")]) -> None:
    """Write the report of an experiment, finished or not, to EXPERIMENT/report/."""
    with ProgressDisplay({"report": 1.0}) as display:
        pages = write_reports_of(experiment, display)
    print_pages(pages)
