"""Commands for trained networks and data sets: pseudo-label, evaluate, check."""

from __future__ import annotations

from pathlib import Path

import typer
from pydantic import ValidationError

from ..checkpoint import digest_of_weights
from ..config import LayoutConfig
from ..data import (
    DatasetError,
    open_dataset,
    require_labels,
)
from ..data.training_data import Folders
from ..experiments.experiment import label_target, seen_by
from ..methods.pseudo_labels import PseudoLabelConfig
from ..methods.style_transfer import TargetStyleTransferConfig
from ..preflight import Findings, check_data
from ..recipes import Recipe, class_names, compose_recipe
from ..run_dir import Event, RunFolder
from ..training.evaluation import evaluate as evaluate_network
from ..training.recipe_network import trained_network
from . import options as opt
from .progress_display import ProgressDisplay


def pseudo_label(
    checkpoint: opt.Checkpoint,
    target: opt.Target,
    out: opt.LabelsOut,
    source: opt.SourceOfStyle = None,
    target_layout: opt.TrainedTargetLayout = None,
    source_list: opt.SourceList = None,
    target_list: opt.TargetList = None,
    quantile: opt.Quantile = 0.5,
    cap: opt.Cap = 0.9,
    device: opt.Device = "auto",
    threads: opt.Threads = 0,
) -> None:
    """Label the target's training images with a trained network; labels are one byte per pixel."""
    where = opt.device_named(device)
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
    file = opt.checkpoint_file(checkpoint) or checkpoint
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
    checkpoint: opt.Checkpoint,
    target: opt.Target,
    target_layout: opt.TrainedTargetLayout = None,
    source: opt.SourceOfStyle = None,
    source_list: opt.SourceList = None,
    classes: opt.TrainedClasses = None,
    split: opt.Split = "val",
    at_label_size: opt.AtLabelSize = None,
    flip: opt.Flip = None,
    scales: opt.Scales = None,
    device: opt.Device = "auto",
    threads: opt.Threads = 0,
) -> None:
    """Mean IoU over a whole labeled data set."""
    where = opt.device_named(device)
    recipe, network, step = trained_network(opt.checkpoint_file(checkpoint) or checkpoint, where)
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
            scales=recipe.evaluation.scales if scales is None else opt.factors(scales, size),
            batch=1 if whole else recipe.evaluation.batch,
            tick=lambda done, total: display(Event("evaluation", done, total)),
        )
    opt.print_scores(scores, f"{recipe.name}, seed {recipe.seed}, step {step}, {len(dataset)} images")


def check(
    source: opt.Source,
    target: opt.Target,
    source_layout: opt.SourceLayout = "gta5",
    target_layout: opt.TargetLayout = "cityscapes",
    source_list: opt.SourceList = None,
    target_list: opt.TargetList = None,
    class_file: opt.ClassFile = None,
    sample: opt.Sample = 20,
) -> None:
    """Check both folders before training: images, unreadable files, pairs that do not fit, sizes, classes, ids."""
    layouts = LayoutConfig(source=source_layout, target=target_layout)
    recipe = compose_recipe("aa", "full", layouts=layouts, class_file=class_file)
    findings = Findings()
    check_data(findings, [recipe], Folders(source, target, source_list, target_list), sample=sample, named=10)
    for _, what, text in findings:
        typer.echo(f"{what}: {text}")
    if missing := [f"{what}: {text.splitlines()[0]}" for kind, what, text in findings if kind == "missing"]:
        raise DatasetError("\n".join(missing))


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
