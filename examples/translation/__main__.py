"""``python -m examples.translation train | apply | compare``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from examples.gta5_to_cityscapes.atomic_io import DamagedFileError, read_json
from examples.gta5_to_cityscapes.checkpoint import CheckpointError, digest_of_weights
from examples.gta5_to_cityscapes.console import escape_unprintable
from examples.gta5_to_cityscapes.data import DatasetError, SegmentationDataset, open_dataset
from examples.gta5_to_cityscapes.distributed import local_device
from examples.gta5_to_cityscapes.run_dir import RunFolderError
from examples.gta5_to_cityscapes.signals import Stopped

from .applying import NOTE, write_translated
from .comparing import STATISTICS, spread, write_sheet
from .comparing import compare as compared
from .settings import Settings, Towards, domain_of
from .step import Segment
from .training import Progress as ProgressCallback
from .training import train as train_translation
from .training import trained_generator

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False)
DEFAULTS = Settings()
EXPECTED = (
    CheckpointError,
    DamagedFileError,
    DatasetError,
    FloatingPointError,
    OSError,  # a full disk, a file or folder that is not there or cannot be written
    RunFolderError,
)

Source = Annotated[Path, typer.Option(help="Source folder, in GTA5's layout.")]
Target = Annotated[Path, typer.Option(help="Target folder, in Cityscapes' layout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Threads = Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0 leaves the number to torch.")]
Splits = Annotated[str, typer.Option(help="Splits of the target folder, set apart by commas.")]


@app.command()
def train(
    source: Source,
    target: Target,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for checkpoint and metrics.")],
    steps: Annotated[int, typer.Option(help="Updates of the generator.")] = DEFAULTS.steps,
    size: Annotated[tuple[int, int], typer.Option(help="Height and width to read images at.")] = DEFAULTS.size,
    crop: Annotated[
        tuple[int, int], typer.Option(help="Height and width to cut out; the size for whole images.")
    ] = DEFAULTS.crop or DEFAULTS.size,
    batch: Annotated[int, typer.Option(help="Images of each domain per step.")] = DEFAULTS.batch,
    seed: Annotated[int, typer.Option(help="Of weights, order, crops and flips.")] = DEFAULTS.seed,
    width: Annotated[int, typer.Option(help="Channels of the generator at full resolution.")] = DEFAULTS.width,
    blocks: Annotated[int, typer.Option(help="Residual blocks of the generator.")] = DEFAULTS.blocks,
    lr: Annotated[float, typer.Option(help="Learning rate of both networks.")] = DEFAULTS.lr,
    reconstruction: Annotated[float, typer.Option(help="Weight of the way back.")] = DEFAULTS.reconstruction,
    identity: Annotated[float, typer.Option(help="Weight of leaving alone what is of the domain.")] = DEFAULTS.identity,
    from_checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint of the pipeline: translations keep its segmentation.")
    ] = None,
    consistency: Annotated[float, typer.Option(help="Weight of keeping the segmentation.")] = DEFAULTS.consistency,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Train the generator of both directions; the same command again goes on where it stopped."""
    where = _device(device, threads)
    segment, digest = (None, None) if from_checkpoint is None else _segmentation(from_checkpoint, where)
    settings = _asked(
        steps=steps, size=size, crop=crop, batch=batch, seed=seed, width=width, blocks=blocks, lr=lr,
        reconstruction=reconstruction, identity=identity, consistency=consistency, segmentation=digest,
    )  # fmt: skip
    ours = open_dataset("gta5", source, size=settings.size, labels=False)
    theirs = open_dataset("cityscapes", target, size=settings.size, labels=False)
    with _Display("training") as progress:
        checkpoint = train_translation(settings, ours, theirs, out, device=where, segment=segment, progress=progress)
    typer.echo(checkpoint)


@app.command()
def apply(
    checkpoint: Annotated[Path, typer.Option(help="last.pt of a translation.")],
    towards: Annotated[str, typer.Option(help="target translates source images, source translates target images.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for images/ and, of the source, labels/.")],
    source: Annotated[Path | None, typer.Option(help="Folder in GTA5's layout, with --towards target.")] = None,
    target: Annotated[Path | None, typer.Option(help="Folder in Cityscapes' layout, with --towards source.")] = None,
    splits: Splits = "train,val",
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Write a data set in the appearance of the other domain; the same command again writes what is missing."""
    root = source if _towards(towards) == "target" else target
    if root is None or (source is not None and target is not None):
        raise typer.BadParameter("give --source with --towards target, or --target with --towards source, not both")
    where = _device(device, threads)
    settings, generator = trained_generator(checkpoint, where)
    datasets = _originals(_towards(towards), root, settings.size, splits)
    with _Display("style transfer") as progress:
        written = write_translated(settings, generator, datasets, _towards(towards), out, progress=progress)
    typer.echo(written)


@app.command()
def compare(
    translated: Annotated[Path, typer.Option(help="Folder that `apply` wrote.")],
    source: Source,
    target: Target,
    images: Annotated[int, typer.Option(min=2, help="Images to compare, twice as many of the other domain.")] = 100,
    sheet: Annotated[Path | None, typer.Option(help="Also write images side by side to this PNG.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the sheet.")] = 4,
    splits: Splits = "train,val",
) -> None:
    """Print how far the images are from the other domain, before and after."""
    note = read_json(translated / NOTE) if (translated / NOTE).is_file() else None
    if note is None:
        raise typer.BadParameter(f"--translated {translated}: expected a folder that `apply` wrote, with {NOTE} in it")
    try:
        towards, size = _towards(note["towards"]), (int(note["size"][0]), int(note["size"][1]))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(
            f"{translated / NOTE}: expected towards and size, as `apply` writes them, got {', '.join(note)}. Apply "
            "again into another --out."
        ) from error
    other: Towards = "source" if towards == "target" else "target"
    roots: dict[Towards, Path] = {"source": source, "target": target}
    ours = _originals(towards, roots[other], size, splits)
    theirs = _originals(other, roots[towards], size, splits)
    count = min(images, sum(map(len, ours)), sum(map(len, theirs)) // 2)
    if count < 2:
        raise typer.BadParameter(
            f"--images {images}: expected at least 2 images of the {other} and 4 of the {towards}, got "
            f"{sum(map(len, ours))} and {sum(map(len, theirs))}"
        )
    before, after, reference = (
        spread(ours, count),
        spread(ours, count, translated / "images"),
        spread(theirs, 2 * count),
    )
    table = Table(title=f"distance to the {towards}, {count} images")
    table.add_column("")
    for kind in STATISTICS:
        table.add_column(f"{kind}: accuracy", justify="right")
        table.add_column("shift", justify="right")
    for name, found in compared(before, after, reference).items():
        cells = [cell for each in found.values() for cell in (f"{100 * each.accuracy:.1f} %", f"{each.shift:.2f}")]
        table.add_row(name, *cells)
    Console(width=120).print(table)
    if sheet is not None:
        write_sheet([before, after, reference], rows, sheet)


def _originals(towards: Towards, root: Path, size: tuple[int, int], splits: str) -> list[SegmentationDataset]:
    """What is translated towards a domain: the data set of the other one."""
    if towards == "target":
        return [open_dataset("gta5", root, size=size)]
    return [open_dataset("cityscapes", root, split=each.strip(), size=size, labels=False) for each in splits.split(",")]


def _segmentation(file: Path, device: torch.device) -> tuple[Segment, str]:
    from examples.gta5_to_cityscapes.training.recipe_network import trained_network

    _, network, _ = trained_network(file, device)
    network.eval().requires_grad_(False)
    return lambda images: network(images).logits, digest_of_weights(network.state_dict())


def _asked(**values: object) -> Settings:
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _towards(text: str) -> Towards:
    try:
        domain_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return "source" if text == "source" else "target"


def _device(name: str, threads: int) -> torch.device:
    if threads > 0:
        torch.set_num_threads(threads)
    try:
        return local_device(name)
    except ValueError as error:
        raise typer.BadParameter(f"--device {name}: {error}") from error


class _Display(Progress):
    """One bar on standard error, so that what a command prints can be piped."""

    def __init__(self, title: str) -> None:
        super().__init__(
            TextColumn(title),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
        )
        self._bar = self.add_task("", total=None)

    def __enter__(self) -> ProgressCallback:  # type: ignore[override]
        super().__enter__()
        return lambda done, total, note: self.update(self._bar, completed=done, total=total, description=note)


def main() -> None:
    """Run a command; errors that a user can correct are printed without a traceback."""
    try:
        app()
    except EXPECTED as error:
        typer.echo(f"{typer.style('error:', fg='red')} {error}", err=True)
        sys.exit(1)
    except Stopped as stop:
        typer.echo(str(stop), err=True)
        sys.exit(130)


if __name__ == "__main__":
    escape_unprintable()
    main()
