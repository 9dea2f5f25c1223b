"""Command line: ``python -m examples.generated_city --out DIR --train 200 --val 50``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from examples.gta5_to_cityscapes.console import escape_unprintable

from .generation import SourceLayout, generate_city


def main(
    out: Annotated[Path, typer.Option(help="Folder to write; gta5/ or synthia/, and cityscapes/ appear in it.")],
    train: Annotated[int, typer.Option(min=0, help="Images of the source, and of the target's train split.")] = 200,
    val: Annotated[int, typer.Option(min=0, help="Images of the target's val split.")] = 50,
    source: Annotated[int | None, typer.Option(min=0, help="Images of the source, when not --train.")] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels.")] = "480x240",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    source_layout: Annotated[
        SourceLayout, typer.Option(help="Layout of the source; the scenes are the same.")
    ] = "gta5",
    workers: Annotated[int, typer.Option(min=1, help="Processes; the bytes do not depend on it.")] = 1,
) -> None:
    """Generate a source city in GTA5's layout, or SYNTHIA's, and a target city in Cityscapes'."""
    try:
        width, height = (int(part) for part in size.lower().split("x"))
    except ValueError:
        raise typer.BadParameter(f"expected WIDTHxHEIGHT, such as 480x240, got {size!r}", param_hint="--size") from None
    source_images = train if source is None else source
    columns = (
        TextColumn("generating the city"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("scenes", total=source_images + train + val)
        try:
            generate_city(
                out, source_images=source_images, target_train=train, target_val=val, size=(width, height), seed=seed,
                source_layout=source_layout, workers=workers, progress=lambda done: bar.update(task, completed=done),
            )  # fmt: skip
        except (ValueError, FileExistsError) as problem:
            raise typer.BadParameter(str(problem)) from problem


if __name__ == "__main__":
    escape_unprintable()
    typer.run(main)
