"""Commands for trained networks and data sets: pseudo-label, evaluate, check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from pydantic import ValidationError

from ..checkpoint import digest_of_weights
from ..config import LayoutConfig
from ..data import (
    DatasetError,
    SegmentationDataset,
    UnreadableFile,
    open_dataset,
    require_labels,
)
from ..data.training_data import Folders, open_target
from ..experiments.experiment import label_target, seen_by
from ..methods.pseudo_labels import PseudoLabelConfig
from ..methods.style_transfer import TargetStyleTransferConfig
from ..preflight import and_more, inspect
from ..recipes import Recipe, class_names, compose_recipe
from ..run_dir import Event, RunFolder
from ..training.evaluation import evaluate as evaluate_network
from ..training.recipe_network import trained_network
from .options import (
    AtLabelSize,
    Cap,
    Checkpoint,
    ClassFile,
    Device,
    Flip,
    LabelsOut,
    Quantile,
    Sample,
    Scales,
    Source,
    SourceLayout,
    SourceList,
    SourceOfStyle,
    Split,
    Target,
    TargetLayout,
    TargetList,
    Threads,
    TrainedClasses,
    TrainedTargetLayout,
    checkpoint_file,
    device_named,
    factors,
    print_scores,
    use_threads,
)
from .progress_display import ProgressDisplay

NAMED = 10  # of the images with a fault, so many are named


def pseudo_label(
    checkpoint: Checkpoint,
    target: Target,
    out: LabelsOut,
    source: SourceOfStyle = None,
    target_layout: TrainedTargetLayout = None,
    source_list: SourceList = None,
    target_list: TargetList = None,
    quantile: Quantile = 0.5,
    cap: Cap = 0.9,
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
    checkpoint: Checkpoint,
    target: Target,
    target_layout: TrainedTargetLayout = None,
    source: SourceOfStyle = None,
    source_list: SourceList = None,
    classes: TrainedClasses = None,
    split: Split = "val",
    at_label_size: AtLabelSize = None,
    flip: Flip = None,
    scales: Scales = None,
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
    table = recipe.space.table("target")
    opened = open_dataset(
        target_layout or recipe.layouts.target, target, split=split, table=table, size=None if whole else size
    )
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
    class_file: ClassFile = None,
    sample: Sample = 20,
) -> None:
    """Check both folders before training: images, unreadable files, pairs that do not fit, sizes, classes, ids."""
    layouts = LayoutConfig(source=source_layout, target=target_layout)
    recipe = compose_recipe("aa", "full", layouts=layouts, class_file=class_file)
    source_table, target_table = recipe.space.table("source"), recipe.space.table("target")
    faults, unusable = 0, []
    for title, opened in {
        "target, training": lambda: open_target(recipe, Folders(source, target, source_list, target_list)),
        "source": lambda: open_dataset(source_layout, source, table=source_table, listed=source_list),
        "target, validation": lambda: open_dataset(target_layout, target, split="val", table=target_table),
    }.items():
        dataset = opened()
        faults += _check_set(title, dataset, sample)
        try:
            if title != "target, training":
                require_labels(title, dataset)
        except DatasetError as error:
            unusable.append(str(error))
    if faults:
        unusable.append(
            "expected every file to be readable and every label map to be of its image's size, "
            f"{faults} {'is' if faults == 1 else 'are'} not; training stops at the first that it reads. Replace these "
            "files, or move the images and their label maps out of the folders."
        )
    if unusable:
        raise DatasetError("\n".join(unusable))


def _check_set(title: str, dataset: SegmentationDataset, sample: int) -> int:
    """Print what a data set holds; returns the number of its faults."""
    total = len(dataset)
    if unlabeled := dataset.files[0].labels is None:
        typer.echo(f"{title}: {total} images (labels are not needed)")
    found = inspect(dataset, sample)
    summary, damaged = found.summary, found.summary.unreadable if found.summary else []
    _print_unreadable(title, found.unreadable)
    if found.misfits:
        names = f"{', '.join(found.misfits[:NAMED])}{and_more(found.misfits, NAMED)}"
        typer.echo(f"{title}: image and label map differ in size: {names}")
    if summary is not None:
        _print_unreadable(f"{title}, of {summary.sampled + len(damaged)} decoded", damaged)
    if summary is not None and summary.sampled and not unlabeled:
        sizes = ", ".join(f"{width}x{height}" for height, width in summary.sizes)
        typer.echo(f"{title}: {total} images ({sizes}), {summary.sampled} of them read:")
        width = max(14, *map(len, summary.pixels))
        for name, pixels in summary.pixels.items():
            amount = f"{summary.share(name):7.2%} of labeled pixels" if pixels else "absent"
            typer.echo(f"  {name:<{width}} {amount}")
        if summary.unknown_ids:
            first, file = next(iter(summary.unknown_in.items()))
            typer.echo(f"  ids without a row in the class file, ignored (id: pixels): {summary.unknown_ids}")
            typer.echo(f"  the first of them, {first}, in {file}")
    return len(found.unreadable) + len(found.misfits) + len(damaged)


def _print_unreadable(title: str, files: Sequence[UnreadableFile]) -> None:
    if files:
        reasons = "\n  ".join(each.reason for each in files[:NAMED])
        typer.echo(f"{title}: {len(files)} cannot be read:\n  {reasons}{and_more(files, NAMED)}")


def _folders_for(
    recipe: Recipe, source: Path | None, target: Path, source_list: Path | None, target_list: Path | None = None
) -> Folders:
    """Both folders; only a network that sees the target in the source's style needs a source."""
    if source is None and source_list is not None:
        raise typer.BadParameter(
            f"--source-list {source_list} names images of the source: give --source, the folder that holds them, or "
            "omit the list"
        )
    transfer = recipe.config(TargetStyleTransferConfig)
    if source is None and transfer is not None and transfer.in_step:
        raise typer.BadParameter(
            f"recipe {recipe.name} sees target images in the source's style: give --source, the folder it was "
            "trained with"
        )
    return Folders(source or target, target, source_list, target_list)
