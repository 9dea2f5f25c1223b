"""Commands that look at folders and trained networks: pseudo-label, evaluate, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..batches.training_data import Folders, open_target
from ..data import DatasetError, SegmentationDataset, describe, mismatched_pairs, open_dataset
from ..experiments.carrying_out import label_target, seen_by
from ..recipes import Recipe, class_names, compose_recipe
from ..recipes.settings import Layouts, PseudoLabels
from ..records.checkpoints import digest_of_weights
from ..records.progress import Event
from ..records.run_folder import RunFolder
from ..training.evaluation import evaluate as evaluate_network
from ..training.recipe_network import trained_network
from .options import (
    Device,
    Source,
    SourceLayout,
    Target,
    TargetLayout,
    Threads,
    checkpoint_file,
    device_named,
    factors,
    print_scores,
    use_threads,
)
from .progress_display import ProgressDisplay

SourceOfRestyling = Annotated[
    Path | None, typer.Option("--source", help="Source folder, for a recipe with tt, which restyles the target so.")
]


def pseudo_label(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder, or a checkpoint of one.")],
    target: Target,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for pseudo_labels/ and thresholds.json.")],
    source: SourceOfRestyling = None,
    quantile: Annotated[float, typer.Option(min=0, max=1, help="Share of a class's pixels below its threshold.")] = 0.5,
    cap: Annotated[float, typer.Option(min=0, max=1, help="No threshold is higher than this.")] = 0.9,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Label the target's training pictures with a trained network; labels are one byte per pixel."""
    use_threads(threads)
    where = device_named(device)
    run = RunFolder(out)
    if run.recipe_file.is_file():
        raise typer.BadParameter(
            f"--out {out} is a run folder, whose own pseudo-labels this would replace; choose another"
        )
    file = checkpoint_file(checkpoint) or checkpoint
    recipe, network, _ = trained_network(file, where)
    with ProgressDisplay({"labels": 1.0}) as display:
        kept = label_target(
            [(recipe, network)],
            recipe,
            PseudoLabels(quantile=quantile, cap=cap),
            run,
            Folders(_source_for(recipe, source, target), target),
            where,
            weights_sha256=digest_of_weights(network.state_dict()),
            tick=lambda done, total: display(Event("labels", done, total)),
        )
    typer.echo(f"{100 * kept.kept_total:.1f} % of the pixels kept; labels in {run.pseudo_labels}")


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder, or a checkpoint of one.")],
    target: Target,
    target_layout: TargetLayout = "cityscapes",
    source: SourceOfRestyling = None,
    classes: Annotated[
        str | None, typer.Option(help="Classes to score, as `train` takes them; as trained if left out.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the target.")] = "val",
    at_label_size: Annotated[
        bool | None,
        typer.Option(
            "--at-label-size/--at-picture-size",
            help="Score at the labels' own size or at the size the network sees; as trained if left out.",
            show_default=False,
        ),
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip", help="Average over mirrored pictures too; as trained if left out.", show_default=False
        ),
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(help="Average over pictures of these sizes, such as 0.75,1,1.25; as trained if left out."),
    ] = None,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Mean IoU over a whole labelled data set."""
    use_threads(threads)
    where = device_named(device)
    recipe, network, step = trained_network(checkpoint_file(checkpoint) or checkpoint, where)
    space = recipe.label_space
    names = recipe.classes if classes is None else class_names(classes, space)
    size = recipe.pictures.target_size
    whole = recipe.evaluation.at == "labels" if at_label_size is None else at_label_size
    opened = open_dataset(target_layout, target, split=split, space=space, size=None if whole else size)
    folders = Folders(_source_for(recipe, source, target), target)
    dataset = seen_by(recipe, opened, folders)
    with ProgressDisplay({"evaluation": 1.0}) as display:
        scores = evaluate_network(
            [network],
            [dataset],
            space,
            names,
            where,
            picture_size=size,
            flip=recipe.evaluation.flip if flip is None else flip,
            scales=recipe.evaluation.scales if scales is None else factors(scales),
            batch=1 if whole else recipe.evaluation.batch,
            tick=lambda done, total: display(Event("evaluation", done, total)),
        )
    print_scores(scores, f"{recipe.name}, seed {recipe.seed}, step {step}, {len(dataset)} pictures")


def check(
    source: Source,
    target: Target,
    source_layout: SourceLayout = "gta5",
    target_layout: TargetLayout = "cityscapes",
    sample: Annotated[int, typer.Option(min=1, help="Pictures to read of each set.")] = 20,
) -> None:
    """Look at both folders before training: pictures, pairs that do not fit, sizes, classes, undefined ids."""
    recipe = compose_recipe("aa", "full", layouts=Layouts(source=source_layout, target=target_layout))
    pictures = len(open_target(recipe, Folders(source, target)))
    typer.echo(f"target, training: {pictures} pictures (labels are not needed)")
    space = recipe.label_space
    misfits = _check_set("source", open_dataset(source_layout, source, space=space), sample)
    misfits += _check_set("target, validation", open_dataset(target_layout, target, split="val", space=space), sample)
    if misfits:
        raise DatasetError(
            f"expected every label map to be of its picture's size, {misfits} are not; training stops at the first "
            "that it reads. Replace one file of each such pair, or take both out of the folders."
        )


def _source_for(recipe: Recipe, source: Path | None, target: Path) -> Path:
    """The source folder; only a network that sees the target restyled as the source needs one."""
    if source is None and recipe.restyle_target is not None and recipe.restyle_target.in_step:
        raise typer.BadParameter(
            f"recipe {recipe.name} sees target pictures restyled as the source: give --source, the folder it was "
            "trained with"
        )
    return source or target


def _check_set(title: str, dataset: SegmentationDataset, sample: int) -> int:
    """Print what a data set holds; the number of pairs that cannot be read comes back."""
    misfits = mismatched_pairs(dataset)
    total = len(dataset)
    if misfits:
        more = f" and {len(misfits) - 10} more" if len(misfits) > 10 else ""
        typer.echo(f"{title}: picture and label map differ in size: {', '.join(misfits[:10])}{more}")
        dataset.leave_out(misfits)
    if not len(dataset):
        return len(misfits)
    found = describe(dataset, sample)
    sizes = ", ".join(f"{width}x{height}" for height, width in found.sizes)
    typer.echo(f"{title}: {total} pictures ({sizes}), {found.sampled} of them read:")
    for name, pixels in found.pixels.items():
        amount = f"{found.share(name):7.2%} of labelled pixels" if pixels else "absent"
        typer.echo(f"  {name:<14} {amount}")
    if found.unknown_ids:
        typer.echo(f"  ids that the layout does not define, ignored (id: pixels): {found.unknown_ids}")
    return len(misfits)
