"""Commands that look at folders and trained networks: pseudo-label, evaluate, check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from ..checkpoint import digest_of_weights
from ..config import LayoutConfig
from ..data import (
    DatasetError,
    Layout,
    SegmentationDataset,
    UnreadableFile,
    describe,
    mismatched_pairs,
    open_dataset,
    require_labels,
    unreadable_files,
)
from ..data.training_data import Folders, open_target
from ..experiments.experiment import label_target, seen_by
from ..methods.pseudo_labels import PseudoLabelConfig
from ..methods.style_transfer import TargetStyleTransferConfig
from ..recipes import Recipe, class_names, compose_recipe
from ..run_dir import Event, RunFolder
from ..training.evaluation import evaluate as evaluate_network
from ..training.recipe_network import trained_network
from .options import (
    Device,
    Source,
    SourceLayout,
    SourceList,
    Target,
    TargetLayout,
    TargetList,
    Threads,
    checkpoint_file,
    device_named,
    factors,
    print_scores,
    use_threads,
)
from .progress_display import ProgressDisplay

StyleSource = Annotated[
    Path | None,
    typer.Option("--source", help="Source folder, for a recipe with tt, which transfers target images to its style."),
]
LISTED = 10  # of the images with a fault, the first so many are named


def pseudo_label(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder, or a checkpoint of one.")],
    target: Target,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for pseudo_labels/ and thresholds.json.")],
    source: StyleSource = None,
    target_layout: Annotated[
        Layout | None, typer.Option(help="How the target folder is laid out; as trained if left out.")
    ] = None,
    source_list: SourceList = None,
    target_list: TargetList = None,
    quantile: Annotated[float, typer.Option(min=0, max=1, help="Share of a class's pixels below its threshold.")] = 0.5,
    cap: Annotated[float, typer.Option(min=0, max=1, help="No threshold is higher than this.")] = 0.9,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Label the target's training images with a trained network; labels are one byte per pixel."""
    use_threads(threads)
    where = device_named(device)
    try:
        settings = PseudoLabelConfig(quantile=quantile, cap=cap)
    except ValidationError as error:  # NaN is neither below nor above a bound
        raise typer.BadParameter(
            f"--quantile and --cap expect numbers from 0 to 1, got {quantile} and {cap}"
        ) from error
    run = RunFolder(out)
    if run.recipe_file.is_file():
        raise typer.BadParameter(
            f"--out {out} is a run folder, whose own pseudo-labels this would replace; choose another"
        )
    file = checkpoint_file(checkpoint) or checkpoint
    recipe, network, _ = trained_network(file, where)
    if target_layout is not None:
        layouts = recipe.layouts.model_copy(update={"target": target_layout})
        recipe = recipe.model_copy(update={"layouts": layouts})
    folders = _folders_for(recipe, source, target, source_list, target_list)
    with ProgressDisplay({"labels": 1.0}) as display:
        kept = label_target(
            [(recipe, network)],
            recipe,
            settings,
            run,
            folders,
            where,
            weights_sha256=digest_of_weights(network.state_dict()),
            tick=lambda done, total: display(Event("labels", done, total)),
        )
    typer.echo(f"{100 * kept.kept_total:.1f} % of the pixels kept; labels in {run.pseudo_labels}")


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder, or a checkpoint of one.")],
    target: Target,
    target_layout: TargetLayout = "cityscapes",
    source: StyleSource = None,
    source_list: SourceList = None,
    classes: Annotated[
        str | None, typer.Option(help="Classes to score, as `train` takes them; as trained if left out.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the target.")] = "val",
    at_label_size: Annotated[
        bool | None,
        typer.Option(
            "--at-label-size/--at-image-size",
            help="Score at the labels' own size or at the size the network sees; as trained if left out.",
            show_default=False,
        ),
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip", help="Average over mirrored images too; as trained if left out.", show_default=False
        ),
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(help="Average over images of these sizes, such as 0.75,1,1.25; as trained if left out."),
    ] = None,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Mean IoU over a whole labeled data set."""
    use_threads(threads)
    where = device_named(device)
    recipe, network, step = trained_network(checkpoint_file(checkpoint) or checkpoint, where)
    space = recipe.label_space
    names = recipe.classes if classes is None else class_names(classes, space)
    size = recipe.data.target_size
    whole = recipe.evaluation.at == "labels" if at_label_size is None else at_label_size
    opened = open_dataset(target_layout, target, split=split, space=space, size=None if whole else size)
    require_labels(f"target, {split}", opened, names)
    folders = _folders_for(recipe, source, target, source_list)
    dataset = seen_by(recipe, opened, folders)
    with ProgressDisplay({"evaluation": 1.0}) as display:
        scores = evaluate_network(
            [network],
            [dataset],
            space,
            names,
            where,
            image_size=size,
            flip=recipe.evaluation.flip if flip is None else flip,
            scales=recipe.evaluation.scales if scales is None else factors(scales, size),
            batch=1 if whole else recipe.evaluation.batch,
            tick=lambda done, total: display(Event("evaluation", done, total)),
        )
    print_scores(scores, f"{recipe.name}, seed {recipe.seed}, step {step}, {len(dataset)} images")


def check(
    source: Source,
    target: Target,
    source_layout: SourceLayout = "gta5",
    target_layout: TargetLayout = "cityscapes",
    source_list: SourceList = None,
    target_list: TargetList = None,
    sample: Annotated[int, typer.Option(min=1, help="Images to read of each set.")] = 20,
) -> None:
    """Look at both folders before training: images, unreadable files, pairs that do not fit, sizes, classes, ids."""
    recipe = compose_recipe("aa", "full", layouts=LayoutConfig(source=source_layout, target=target_layout))
    training = open_target(recipe, Folders(source, target, source_list, target_list))
    typer.echo(f"target, training: {len(training)} images (labels are not needed)")
    faulty = _leave_out_faulty("target, training", training)
    space = recipe.label_space
    unusable: list[str] = []
    labeled = {
        "source": open_dataset(source_layout, source, space=space, listed=source_list),
        "target, validation": open_dataset(target_layout, target, split="val", space=space),
    }
    for title, dataset in labeled.items():
        faulty += _check_set(title, dataset, sample)
        try:
            require_labels(title, dataset)
        except DatasetError as error:
            unusable.append(str(error))
    if faulty:
        unusable.append(
            "expected every file to be readable and every label map to be of its image's size, "
            f"{faulty} {'is' if faulty == 1 else 'are'} not; training stops at the first that it reads. Replace these "
            "files, or take the images and their label maps out of the folders."
        )
    if unusable:
        raise DatasetError("\n".join(unusable))


def _folders_for(
    recipe: Recipe, source: Path | None, target: Path, source_list: Path | None, target_list: Path | None = None
) -> Folders:
    """Both folders; only a network that sees the target in the source's style needs a source."""
    if source is None and source_list is not None:
        raise typer.BadParameter(
            f"--source-list {source_list} names images of the source: give --source, the folder that holds them, or "
            "leave the list out"
        )
    transfer = recipe.config(TargetStyleTransferConfig)
    if source is None and transfer is not None and transfer.in_step:
        raise typer.BadParameter(
            f"recipe {recipe.name} sees target images in the source's style: give --source, the folder it was "
            "trained with"
        )
    return Folders(source or target, target, source_list, target_list)


def _leave_out_faulty(title: str, dataset: SegmentationDataset) -> int:
    """Name and leave out the images whose headers tell of a fault; the number of faults comes back."""
    unreadable = unreadable_files(dataset)
    _print_unreadable(title, unreadable)
    dataset.leave_out([each.name for each in unreadable])
    misfits = mismatched_pairs(dataset)
    if misfits:
        typer.echo(f"{title}: image and label map differ in size: {', '.join(misfits[:LISTED])}{_more(misfits)}")
        dataset.leave_out(misfits)
    return len(unreadable) + len(misfits)


def _print_unreadable(title: str, files: Sequence[UnreadableFile]) -> None:
    if files:
        reasons = "\n  ".join(each.reason for each in files[:LISTED])
        typer.echo(f"{title}: {len(files)} cannot be read:\n  {reasons}{_more(files)}")


def _more(found: Sequence[object]) -> str:
    return f" and {len(found) - LISTED} more" if len(found) > LISTED else ""


def _check_set(title: str, dataset: SegmentationDataset, sample: int) -> int:
    """Print what a data set holds; the number of its faults comes back."""
    total = len(dataset)
    faulty = _leave_out_faulty(title, dataset)
    if not len(dataset):
        return faulty
    found = describe(dataset, sample)
    _print_unreadable(f"{title}, of {found.sampled + len(found.unreadable)} decoded", found.unreadable)
    faulty += len(found.unreadable)
    if not found.sampled:
        return faulty
    sizes = ", ".join(f"{width}x{height}" for height, width in found.sizes)
    typer.echo(f"{title}: {total} images ({sizes}), {found.sampled} of them read:")
    for name, pixels in found.pixels.items():
        amount = f"{found.share(name):7.2%} of labeled pixels" if pixels else "absent"
        typer.echo(f"  {name:<14} {amount}")
    if found.unknown_ids:
        first, file = next(iter(found.unknown_in.items()))
        typer.echo(f"  ids that the layout does not define, ignored (id: pixels): {found.unknown_ids}")
        typer.echo(f"  the first of them, {first}, in {file}")
    return faulty
