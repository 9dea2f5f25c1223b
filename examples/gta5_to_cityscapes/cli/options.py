"""Options of all commands, each declared once; how they are read, and results on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from ..atomic_io import read_json
from ..checkpoint import CheckpointError
from ..data import Layout
from ..data.training_data import Folders
from ..distributed import local_device, world_size
from ..methods.style_transfer import StyleTransferConfig
from ..metrics_log import time_of_a_step
from ..recipes import PAPER_EXPERIMENTS, Recipe, check_scales
from ..recipes.presets import PRESETS
from ..run_dir import Result, RunFolder
from ..training.evaluation import Scores

OUT_RUNS = "runs go to OUT/RECIPE/seedK/"

RecipeName = Annotated[
    str, typer.Argument(help="source, target-only, or a sum of parts such as aa+it+sim; `parts` lists them.")
]
RecipeNames = Annotated[str, typer.Option(help="Recipes separated by commas.")]
PaperName = Annotated[str, typer.Argument(help=f"One of {', '.join(PAPER_EXPERIMENTS)}.")]
PresetName = Annotated[str, typer.Option("--preset", help=f"{', '.join(PRESETS)}; full is the authors'.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the preset, such as schedule.max_steps=500; may be repeated."),
]
StyleTransfer = Annotated[
    str | None,
    typer.Option(help="lab, fourier, lab+fourier, or a folder of source images in the target's appearance."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of weights, order and augmentation.")]
Seeds = Annotated[str, typer.Option(help="Seeds separated by commas.")]
Classes = Annotated[str, typer.Option(help="Classes to score: all, 16, 13, or names separated by commas.")]
ClassFile = Annotated[
    str | None,
    typer.Option(
        help="YAML file of classes and their ids in both data sets, or the name of one in classes/. "
        "Default: those of the source layout's data set."
    ),
]
From = Annotated[
    Path | None,
    typer.Option("--from", help="A checkpoint or run folder in place of the run that the recipe depends on."),
]

Source = Annotated[Path, typer.Option(help="Folder of the labeled source data set.")]
Target = Annotated[Path, typer.Option(help="Folder of the target data set.")]
SourceOrCity = Annotated[Path | None, typer.Option("--source", help="Source folder; not needed with --generate.")]
TargetOrCity = Annotated[Path | None, typer.Option("--target", help="Target folder; not needed with --generate.")]
SourceOfStyle = Annotated[
    Path | None, typer.Option("--source", help="Source folder, for a recipe with tt, which needs its appearance.")
]
SourceList = Annotated[
    Path | None, typer.Option(help="Text file that names the source images to use, one per line. Default: all.")
]
TargetList = Annotated[
    Path | None,
    typer.Option(help="Text file that names the target's training images to use, one per line. Default: all."),
]
SourceLayout = Annotated[Layout, typer.Option(help="Layout of the source folder.")]
TargetLayout = Annotated[Layout, typer.Option(help="Layout of the target folder.")]
TrainedTargetLayout = Annotated[Layout | None, typer.Option(help="Layout of the target folder. Default: as trained.")]
GenerateCity = Annotated[
    bool, typer.Option("--generate", help="Draw the generated city, in OUT/city, for folders that are not given.")
]
CitySeed = Annotated[int, typer.Option(min=0, help="Seed of the city that --generate draws.")]

Out = Annotated[Path, typer.Option(file_okay=False, help=f"Experiment folder; {OUT_RUNS}.")]
PaperOut = Annotated[
    Path,
    typer.Option(
        file_okay=False, help=f"Experiment folder; {OUT_RUNS}, in table3 and table4 to OUT/VALUE/RECIPE/seedK/."
    ),
]
DemoOut = Annotated[Path, typer.Option(file_okay=False, help="Folder for everything that it writes.")]
LabelsOut = Annotated[Path, typer.Option(file_okay=False, help="Folder for pseudo_labels/ and thresholds.json.")]
ExperimentFolder = Annotated[Path, typer.Argument(help="Experiment folder.")]
Checkpoint = Annotated[Path, typer.Argument(help="A run folder, or a checkpoint of one.")]

Jobs = Annotated[int, typer.Option(min=1, max=1024, help="Runs at a time, each with its share of the cores.")]
DemoJobs = Annotated[int, typer.Option(min=0, help="Runs at a time; 0 for one per core, at most 2.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Threads = Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0 for torch's default.")]
BudgetName = Annotated[str, typer.Option(help="small (some ten minutes on two cores) or smoke (about one).")]
Check = Annotated[
    bool, typer.Option("--check", help="Train nothing; check data, weights, folders, memory, disk and time.")
]
CheckSteps = Annotated[int, typer.Option(min=0, help="Steps that --check times; 0 for none.")]
Sample = Annotated[int, typer.Option(min=1, help="Images to read of each data set.")]

Quantile = Annotated[float, typer.Option(min=0, max=1, help="Share of a class's pixels below its threshold.")]
Cap = Annotated[float, typer.Option(min=0, max=1, help="No threshold is higher than this.")]
TrainedClasses = Annotated[
    str | None, typer.Option(help="Classes to score, as `train` takes them. Default: as trained.")
]
Split = Annotated[str, typer.Option(help="Split of the target.")]
AtLabelSize = Annotated[
    bool | None,
    typer.Option(
        "--at-label-size/--at-image-size",
        help="Score at the labels' size, or at that of the images that the network gets. Default: as trained.",
        show_default=False,
    ),
]
Flip = Annotated[
    bool | None,
    typer.Option("--flip/--no-flip", help="Average over mirrored images too. Default: as trained.", show_default=False),
]
Scales = Annotated[
    str | None, typer.Option(help="Average over images at these scales, such as 0.75,1,1.25. Default: as trained.")
]


def folders_given(
    source: Path | None,
    target: Path | None,
    city: Folders | None,
    source_list: Path | None = None,
    target_list: Path | None = None,
) -> Folders:
    """The data; ``city``, where one is to be drawn, replaces the folders that are not given."""
    if city is not None:
        if source is not None and target is not None:
            raise typer.BadParameter(
                "--generate draws the city for folders that are not given, but --source and --target both are; "
                "omit --generate, or the folder that the city is to replace"
            )
        return Folders(source or city.source, target or city.target, source_list, target_list)
    if source is None or target is None:
        raise typer.BadParameter("give --source and --target, or --generate to draw the generated city")
    return Folders(source, target, source_list, target_list)


def overrides_of(settings: list[str] | None, style_transfer: str | None) -> list[str]:
    return [*(settings or []), *([] if style_transfer is None else [f"style_transfer.method={style_transfer}"])]


def numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--seeds expects numbers separated by commas, got {text!r}") from error
    if min(found) < 0:
        raise typer.BadParameter(f"--seeds expects numbers from 0 up, got {text!r}")
    if len({*found}) < len(found):
        raise typer.BadParameter(f"--seeds expects each seed once, got {text!r}")
    return found


def factors(text: str, size: Sequence[int]) -> tuple[float, ...]:
    """Scales of images of ``size`` (height, width)."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"--scales expects numbers separated by commas, got {text!r}") from error
    if not all(0 < factor < math.inf for factor in found):
        raise typer.BadParameter(f"--scales expects numbers above 0, got {text!r}")
    try:
        check_scales(found, size, "--scales")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return found


def require_style_transfer(style_transfer: str | None, recipes: Iterable[Recipe]) -> None:
    """Raise where the option is given and no recipe would use it."""
    if style_transfer is not None and all(recipe.config(StyleTransferConfig) is None for recipe in recipes):
        raise typer.BadParameter(
            f"--style-transfer {style_transfer} sets the style transfer of recipes with `it`, and none of these "
            "recipes has that part; omit --style-transfer, or choose a recipe such as aa+it"
        )


def device_named(name: str) -> torch.device:
    if world_size() > 1 and name.startswith("cuda:"):
        raise typer.BadParameter(f"--device {name}: with torchrun each process has a GPU of its own; use --device cuda")
    try:
        return local_device(name)
    except ValueError as error:
        raise typer.BadParameter(f"--device {name}: {error}") from error


def use_threads(threads: int) -> None:
    if threads > 0:
        torch.set_num_threads(threads)


def checkpoint_file(path: Path | None) -> Path | None:
    """The checkpoint of a run folder; a file stays what it is."""
    if path is None or not path.is_dir():
        return path
    run = RunFolder(path)
    if run.recipe_file.is_file():
        if fused := read_json(run.recipe_file).get("fused_of"):
            raise CheckpointError(
                f"run folder {path}: expected a run that was trained, it holds the mean of {' and '.join(fused)}, "
                "which has no checkpoint. Its scores are in result.json; for anything else give one of those two runs."
            )
    elif runs := sorted(path.glob("*/seed*/recipe.json")):
        names = ", ".join(str(file.parent) for file in runs[:8])
        raise CheckpointError(f"folder {path}: expected the folder of one run, it holds {len(runs)}: {names}.")
    return run.checkpoint


def print_scores(scores: Scores | Result, title: str) -> None:
    table = Table()
    table.add_column("class")
    table.add_column("IoU %", justify="right")
    for name, value in scores.iou.items():
        table.add_row(name, "–" if value is None else f"{100 * value:.1f}")
    table.add_section()
    table.add_row("mean", f"{100 * scores.miou:.1f}")
    console = Console()
    console.print(title, markup=False)  # a title of the table's would be broken to its width
    console.print(table)
    if scores.entropy is not None and scores.density is not None:
        console.print(f"without labels: entropy {scores.entropy:.3f}, density {scores.density:.3f}", highlight=False)


def print_cost(result: Result) -> None:
    """What a step took, where it was timed."""
    if result.seconds_per_step is None:
        return
    words = [time_of_a_step(result.seconds_per_step), f"{result.images_per_second or 0.0:.3g} images/s"]
    words.append(f"{100 * (result.data_share or 0.0):.1f} % waiting for images")
    memory = f"peak memory {result.peak_memory_bytes / 2**30:.2f} GiB"
    Console().print(f"a step: {', '.join(words)}; {memory}", highlight=False, soft_wrap=True)
