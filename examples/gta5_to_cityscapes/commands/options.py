"""Options that several commands share, and how they are read and answered."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from ..batches.training_data import Folders
from ..data import Layout
from ..ranks.group import local_device, world
from ..recipes import Recipe, check_scales
from ..records.checkpoints import CheckpointError
from ..records.run_folder import Result, RunFolder
from ..records.step_cost import time_of_a_step
from ..records.written_files import read_json
from ..training.evaluation import Scores

Source = Annotated[Path, typer.Option(help="Folder of the labelled source data set.")]
Target = Annotated[Path, typer.Option(help="Folder of the target data set.")]
SourceList = Annotated[
    Path | None, typer.Option(help="Text file that names the source pictures to use, one a line; all if left out.")
]
TargetList = Annotated[
    Path | None,
    typer.Option(help="Text file that names the target's training pictures to use, one a line; all if left out."),
]
SourceLayout = Annotated[Layout, typer.Option(help="How the source folder is laid out.")]
TargetLayout = Annotated[Layout, typer.Option(help="How the target folder is laid out.")]
SourceOrCity = Annotated[Path | None, typer.Option("--source", help="Source folder; --generate draws one if left out.")]
TargetOrCity = Annotated[Path | None, typer.Option("--target", help="Target folder; --generate draws one if left out.")]
GenerateCity = Annotated[
    bool, typer.Option("--generate", help="Draw the generated city, in OUT/city, for folders that are not given.")
]
CitySeed = Annotated[int, typer.Option(min=0, help="Seed of the city that --generate draws.")]
Seeds = Annotated[str, typer.Option(help="Seeds set apart by commas.")]
Jobs = Annotated[int, typer.Option(min=1, max=1024, help="Runs at a time, each with its share of the cores.")]
SizeName = Annotated[str, typer.Option(help="full (the authors'), full-vgg16, small (two CPU cores) or smoke.")]
Out = Annotated[Path, typer.Option(file_okay=False, help="Experiment folder; runs go to OUT/RECIPE/seedK/.")]
Classes = Annotated[str, typer.Option(help="Classes to score: all, 16, 13, or names set apart by commas.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another value of a setting of the size, such as schedule.steps=500; may be repeated."),
]
Restyle = Annotated[
    str | None, typer.Option(help="lab, fourier, lab+fourier, or a folder of source pictures already restyled.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Threads = Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0 leaves the number to torch.")]


def folders_given(
    source: Path | None,
    target: Path | None,
    city: Folders | None,
    source_list: Path | None = None,
    target_list: Path | None = None,
) -> Folders:
    """The data; ``city`` stands in for folders that are not given, where one is to be drawn."""
    if city is not None:
        if source is not None and target is not None:
            raise typer.BadParameter(
                "--generate draws the city for folders that are not given, but --source and --target both are; "
                "leave out --generate, or the folder that the city is to stand in for"
            )
        return Folders(source or city.source, target or city.target, source_list, target_list)
    if source is None or target is None:
        raise typer.BadParameter("give --source and --target, or --generate to draw the generated city")
    return Folders(source, target, source_list, target_list)


def overrides_of(settings: list[str] | None, restyle: str | None) -> list[str]:
    return [*(settings or []), *([] if restyle is None else [f"restyle.method={restyle}"])]


def numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--seeds expects numbers set apart by commas, got {text!r}") from error
    if min(found) < 0:
        raise typer.BadParameter(f"--seeds expects numbers from 0 up, got {text!r}")
    if len({*found}) < len(found):
        raise typer.BadParameter(f"--seeds expects each seed once, got {text!r}")
    return found


def factors(text: str, size: Sequence[int]) -> tuple[float, ...]:
    """Scales of pictures of ``size`` (height, width)."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"--scales expects numbers set apart by commas, got {text!r}") from error
    if not all(0 < factor < math.inf for factor in found):
        raise typer.BadParameter(f"--scales expects numbers above 0, got {text!r}")
    try:
        check_scales(found, size, "--scales")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return found


def refuse_restyling_without_effect(restyle: str | None, recipes: Iterable[Recipe]) -> None:
    if restyle is not None and all(recipe.restyle is None for recipe in recipes):
        raise typer.BadParameter(
            f"--restyle {restyle} says how a recipe with `it` restyles, and none that is asked for has that part; "
            "leave --restyle out, or ask for a recipe such as aa+it"
        )


def device_named(name: str) -> torch.device:
    if world() > 1 and name.startswith("cuda:"):
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
    of_it = {"waiting for pictures": result.data_share, "matching": result.matching_share}
    words = [time_of_a_step(result.seconds_per_step), f"{result.images_per_second or 0.0:.3g} pictures/s"]
    words += [f"{100 * share:.1f} % {name}" for name, share in of_it.items() if share is not None]
    memory = f"peak memory {result.peak_memory_bytes / 2**30:.2f} GiB"
    Console().print(f"a step: {', '.join(words)}; {memory}", highlight=False, soft_wrap=True)
