"""The commands: train, pseudo-label, evaluate, check, ablation, demo, report."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from .ablation_runs import Job, carry_out, plan, run_folder
from .checkpoint_commands import check, evaluate, pseudo_label
from .checkpoints import CheckpointError
from .command_options import (
    Classes,
    Device,
    Out,
    Restyle,
    Set,
    SizeName,
    Source,
    SourceLayout,
    Target,
    TargetLayout,
    Threads,
    checkpoint_file,
    device_named,
    numbers,
    overrides_of,
    print_scores,
    use_threads,
)
from .data import DatasetError
from .demonstration import BUDGETS, city_folders, generate, run_demonstration, write_report_of
from .evaluation import Scores
from .experiment import RunsFailed, run_experiment
from .networks import WeightsError
from .progress_display import ProgressDisplay
from .recipes import ABLATION, Recipe, RecipeError, compose_recipe, first_step_name
from .run_folder import RunFolderError
from .settings import Layouts
from .stopping import Stopped
from .training_data import Folders

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False)
EXPECTED = (
    CheckpointError,
    DatasetError,
    FileNotFoundError,
    FloatingPointError,
    RecipeError,
    RunFolderError,
    RunsFailed,
    WeightsError,
)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="source, target-only, or a sum of aa, it, sim, ssl: aa+it+sim.")],
    source: Source,
    target: Target,
    out: Out,
    source_layout: SourceLayout = "gta5",
    target_layout: TargetLayout = "cityscapes",
    size: SizeName = "small",
    seed: Annotated[int, typer.Option(help="Seed of weights, order and augmentation.")] = 0,
    classes: Classes = "all",
    settings: Set = None,
    restyle: Restyle = None,
    device: Device = "auto",
    threads: Threads = 0,
    from_checkpoint: Annotated[
        Path | None, typer.Option("--from", help="For ssl: label with this checkpoint or run folder.")
    ] = None,
) -> None:
    """Train one recipe; a second step (ssl) trains its first step before it if need be."""
    use_threads(threads)
    overrides = overrides_of(settings, restyle)
    layouts = Layouts(source=source_layout, target=target_layout)
    names = [recipe]
    if "ssl" in recipe.split("+") and from_checkpoint is None:
        names.insert(0, first_step_name(recipe))
    recipes = [
        compose_recipe(name, size, seed=seed, layouts=layouts, classes=classes, overrides=overrides) for name in names
    ]
    folders = Folders(source, target)
    if from_checkpoint is not None:
        jobs = [Job(recipes[0], run_folder(out, recipes[0]))]
    else:
        jobs = plan(recipes[-1:], out, recipes[:-1])
    with ProgressDisplay({job.name: job.cost for job in jobs}) as display:
        for job in jobs:
            result = carry_out(job, folders, device_named(device), display, checkpoint_file(from_checkpoint))
    print_scores(Scores(result.miou, result.iou), f"{recipe}, seed {seed}, step {result.step}")


app.command("pseudo-label")(pseudo_label)
app.command("evaluate")(evaluate)
app.command("check")(check)


@app.command()
def ablation(
    out: Out,
    source: Annotated[Path | None, typer.Option(help="Source folder; OUT/city/gta5 with --generate.")] = None,
    target: Annotated[Path | None, typer.Option(help="Target folder; OUT/city/cityscapes with --generate.")] = None,
    recipes: Annotated[str, typer.Option(help="Recipes set apart by commas.")] = ",".join(ABLATION),
    seeds: Annotated[str, typer.Option(help="Seeds set apart by commas.")] = "0",
    source_layout: SourceLayout = "gta5",
    target_layout: TargetLayout = "cityscapes",
    size: SizeName = "small",
    classes: Classes = "all",
    settings: Set = None,
    restyle: Restyle = None,
    generate_city: Annotated[
        bool, typer.Option("--generate", help="Draw the generated city for folders that are not given.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Runs at a time, each with its share of the cores.")] = 1,
    device: Device = "auto",
) -> None:
    """Run several recipes and seeds, going on where an earlier call stopped, then write the report."""
    folders = _folders(source, target, out, generate_city)
    planned = planned_jobs(
        [name.strip() for name in recipes.split(",")],
        numbers(seeds),
        size,
        out,
        layouts=Layouts(source=source_layout, target=target_layout),
        classes=classes,
        overrides=overrides_of(settings, restyle),
    )
    costs = {job.name: job.cost for job in planned} | {"city": 1.0 if generate_city else 0.0, "report": 0.2}
    with ProgressDisplay(costs, overall="all") as display:
        if generate_city:
            generate(city_folders(out), BUDGETS["small"], 0, display)
        run_experiment(planned, folders, device_named(device), display, processes=jobs)
        page = write_report_of(out, display)
    _print_page(page)


def planned_jobs(
    recipes: list[str],
    seeds: list[int],
    size: str,
    out: Path,
    *,
    layouts: Layouts | None = None,
    classes: str = "all",
    overrides: list[str] | None = None,
) -> list[Job]:
    """Every recipe with every seed, and the first steps that second steps need."""

    def composed(names: list[str]) -> list[Recipe]:
        return [
            compose_recipe(name, size, seed=seed, layouts=layouts, classes=classes, overrides=overrides or ())
            for seed in seeds
            for name in names
        ]

    asked = composed(recipes)
    first = sorted({first_step_name(recipe.name) for recipe in asked if recipe.pseudo_labels})
    return plan(asked, out, composed(first))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    budget: Annotated[str, typer.Option(help="small (minutes, two cores) or smoke (seconds).")] = "small",
    seed: Annotated[int, typer.Option(help="Seed of the city and of training.")] = 0,
    jobs: Annotated[int, typer.Option(help="Runs at a time, 0 for one per core, at most 2.")] = 0,
) -> None:
    """Draw the city, run the six recipes, write the table and the report."""
    if budget not in BUDGETS:
        raise typer.BadParameter(f"budget must be one of {', '.join(BUDGETS)}, got {budget!r}")
    planned = planned_jobs(list(ABLATION), [seed], BUDGETS[budget].size, out)
    page = run_demonstration(planned, out, budget, seed, jobs or min(2, os.cpu_count() or 1))
    _print_page(page)


@app.command()
def report(experiment: Annotated[Path, typer.Argument(help="Experiment folder.")]) -> None:
    """Write the report of an experiment, finished or not, to EXPERIMENT/report/."""
    with ProgressDisplay({"report": 1.0}) as display:
        page = write_report_of(experiment, display)
    _print_page(page)


def main() -> None:
    """Run a command; what a person can put right is told without a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        app()
    except EXPECTED as error:
        typer.echo(f"{typer.style('error:', fg='red')} {error}", err=True)
        sys.exit(1)
    except Stopped as stop:
        typer.echo(str(stop), err=True)
        sys.exit(130)


def _folders(source: Path | None, target: Path | None, out: Path, generated: bool) -> Folders:
    if generated:
        city = city_folders(out)
        return Folders(source or city.source, target or city.target)
    if source is None or target is None:
        raise typer.BadParameter("give --source and --target, or --generate to draw the generated city")
    return Folders(source, target)


def _print_page(page: Path | None) -> None:
    if page is not None:
        typer.echo(f"report: {page}")
        table = page.with_name("table.md")
        if table.is_file():
            typer.echo(table.read_text(encoding="utf-8"))
