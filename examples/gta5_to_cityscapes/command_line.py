"""The commands: train, pseudo-label, evaluate, check, ablation, demo, report."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from .ablation_runs import Job, carry_out, label_target, plan, run_folder
from .checkpoints import CheckpointError, load_checkpoint
from .data import DatasetError, describe, open_dataset
from .demonstration import BUDGETS, city_folders, generate, run_demonstration, write_report_of
from .evaluation import Scores, evaluate
from .experiment import RunsFailed, run_experiment
from .networks import WeightsError, build_network
from .progress_display import ProgressDisplay
from .progress_events import Event
from .recipes import ABLATION, Recipe, RecipeError, compose_recipe, first_step_name
from .run_folder import RunFolder, RunFolderError
from .settings import LayoutName, Layouts
from .stopping import Stopped
from .training_data import Folders, open_labelled, open_target, open_validation
from .written_files import write_json

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

Source = Annotated[Path, typer.Option(help="Folder of the labelled source data set.")]
Target = Annotated[Path, typer.Option(help="Folder of the target data set.")]
SourceLayout = Annotated[LayoutName, typer.Option(help="How the source folder is laid out.")]
TargetLayout = Annotated[LayoutName, typer.Option(help="How the target folder is laid out.")]
SizeName = Annotated[str, typer.Option(help="full (the authors'), full-vgg16, small (two CPU cores) or smoke.")]
Out = Annotated[Path, typer.Option(help="Experiment folder; runs go to OUT/<recipe>/seed<k>/.")]
Classes = Annotated[str, typer.Option(help="Classes to score: all, 16, 13, or names set apart by commas.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A setting of the size, such as schedule.steps=500.")]
Restyle = Annotated[
    str | None, typer.Option(help="lab, fourier, lab+fourier, or a folder of source pictures already restyled.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Threads = Annotated[int, typer.Option(help="CPU threads, 0 for all cores.")]


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
    _use_threads(threads)
    overrides = _overrides(settings, restyle)
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
            result = carry_out(job, folders, _device(device), display, _checkpoint_file(from_checkpoint))
    _print_scores(Scores(result.miou, result.iou), f"{recipe}, seed {seed}, step {result.step}")


@app.command("pseudo-label")
def pseudo_label(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder, or a checkpoint of one.")],
    target: Target,
    out: Annotated[Path, typer.Option(help="Folder for pseudo_labels/ and thresholds.json.")],
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Label the target's training pictures with a trained network; labels are one byte per pixel."""
    _use_threads(threads)
    where = _device(device)
    file = _checkpoint_file(checkpoint) or checkpoint
    recipe = Recipe.model_validate(load_checkpoint(file)["recipe"])
    run = RunFolder(out)
    with ProgressDisplay({"labels": 1.0}) as display:
        kept = label_target(recipe, file, run, Folders(target, target), where, display, "labels")
    write_json(run.thresholds, kept.as_json())
    typer.echo(f"{100 * kept.kept_total:.1f} % of the pixels kept; labels in {run.pseudo_labels}")


@app.command("evaluate")
def evaluate_command(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder, or a checkpoint of one.")],
    target: Target,
    target_layout: TargetLayout = "cityscapes",
    classes: Annotated[str | None, typer.Option(help="all, 16, 13 or names; as trained if left out.")] = None,
    split: Annotated[str, typer.Option(help="Split of the target.")] = "val",
    at_label_size: Annotated[bool, typer.Option(help="Score at the labels' own size.")] = False,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Mean IoU over a whole labelled data set."""
    from .recipes import class_names

    _use_threads(threads)
    where = _device(device)
    saved = load_checkpoint(_checkpoint_file(checkpoint) or checkpoint, where)
    recipe = Recipe.model_validate(saved["recipe"])
    space = recipe.label_space
    names = recipe.classes if classes is None else class_names(classes, space)
    network = build_network(recipe.network.name, space.num_classes, **recipe.network.options).to(where)
    network.load_state_dict(saved["network"])
    size = recipe.pictures.target_size
    whole = at_label_size or recipe.evaluation.at == "labels"
    dataset = open_dataset(target_layout, target, split=split, space=space, size=None if whole else size)
    with ProgressDisplay({"evaluation": 1.0}) as display:
        scores = evaluate(
            network,
            dataset,
            space,
            names,
            where,
            picture_size=size,
            batch=1 if whole else recipe.evaluation.batch,
            tick=lambda done, total: display(Event("evaluation", done, total)),
        )
    _print_scores(scores, f"{recipe.name}, seed {recipe.seed}, step {saved['step']}, {len(dataset)} pictures")


@app.command()
def check(
    source: Source,
    target: Target,
    source_layout: SourceLayout = "gta5",
    target_layout: TargetLayout = "cityscapes",
    sample: Annotated[int, typer.Option(help="Pictures to read of each set.")] = 20,
) -> None:
    """Look at both folders before training: pictures, sizes, classes, ids that no table knows."""
    recipe = compose_recipe("aa", "full", layouts=Layouts(source=source_layout, target=target_layout))
    folders = Folders(source, target)
    typer.echo(f"target, training: {len(open_target(recipe, folders))} pictures (labels are not needed)")
    opened = {"source": open_labelled(recipe, folders), "target, validation": open_validation(recipe, folders)}
    for title, dataset in opened.items():
        dataset.size = None
        found = describe(dataset, sample)
        sizes = ", ".join(f"{width}x{height}" for height, width in found.sizes)
        typer.echo(f"{title}: {found.pictures} pictures ({sizes}), {found.sampled} of them read:")
        for name, pixels in found.pixels.items():
            amount = f"{found.share(name):7.2%} of labelled pixels" if pixels else "absent"
            typer.echo(f"  {name:<14} {amount}")
        if found.unknown_ids:
            typer.echo(f"  ids that the layout does not define, ignored (id: pixels): {found.unknown_ids}")


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
        _numbers(seeds),
        size,
        out,
        layouts=Layouts(source=source_layout, target=target_layout),
        classes=classes,
        overrides=_overrides(settings, restyle),
    )
    costs = {job.name: job.cost for job in planned} | {"city": 1.0 if generate_city else 0.0, "report": 0.2}
    with ProgressDisplay(costs, overall="all") as display:
        if generate_city:
            generate(city_folders(out), BUDGETS["small"], 0, display)
        run_experiment(planned, folders, _device(device), display, processes=jobs)
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
        app(standalone_mode=False)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except EXPECTED as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False, markup=True)
        sys.exit(1)
    except (Stopped, KeyboardInterrupt) as stop:
        Console(stderr=True).print(str(stop) or "Stopped.", highlight=False, markup=False)
        sys.exit(130)


def _folders(source: Path | None, target: Path | None, out: Path, generated: bool) -> Folders:
    if generated:
        city = city_folders(out)
        return Folders(source or city.source, target or city.target)
    if source is None or target is None:
        raise typer.BadParameter("give --source and --target, or --generate to draw the generated city")
    return Folders(source, target)


def _overrides(settings: list[str] | None, restyle: str | None) -> list[str]:
    return [*(settings or []), *([] if restyle is None else [f"restyle.method={restyle}"])]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--seeds expects numbers set apart by commas, got {text!r}") from error


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise typer.BadParameter(f"--device {name}: this machine has no CUDA device; use --device cpu")
    return torch.device(name)


def _use_threads(threads: int) -> None:
    if threads > 0:
        torch.set_num_threads(threads)


def _checkpoint_file(path: Path | None) -> Path | None:
    return RunFolder(path).checkpoint if path is not None and path.is_dir() else path


def _print_scores(scores: Scores, title: str) -> None:
    table = Table(title=title)
    table.add_column("class")
    table.add_column("IoU %", justify="right")
    for name, value in scores.iou.items():
        table.add_row(name, "–" if value is None else f"{100 * value:.1f}")
    table.add_section()
    table.add_row("mean", f"{100 * scores.miou:.1f}")
    Console().print(table)


def _print_page(page: Path | None) -> None:
    if page is not None:
        typer.echo(f"report: {page}")
        table = page.with_name("table.md")
        if table.is_file():
            typer.echo(table.read_text(encoding="utf-8"))
