"""Look at the data of an experiment: are the sets there, whole, and those that were published?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from ..batches.restyling import RestyledPictures, restyled_folder
from ..batches.training_data import Folders, open_labelled, open_target, open_validation
from ..data import (
    PUBLISHED_PICTURES,
    Layout,
    SegmentationDataset,
    describe,
    mismatched_pairs,
    require_labels,
    unreadable_files,
)
from ..recipes import Recipe
from ..training.recipe_network import start_network
from .findings import Finding, attempted


def check_data(recipes: Sequence[Recipe], folders: Folders, sample: int = 20) -> list[Finding]:
    """Every set that a recipe reads: folders, counts, all headers, pairs of unequal size, ``sample`` of them whole."""
    findings: list[Finding] = []
    for what, (opened, layout, split) in _sets(recipes, folders).items():
        dataset = attempted(what, opened, findings)
        if dataset is None:
            continue
        findings.append(_count(what, len(dataset), PUBLISHED_PICTURES.get((layout, split))))
        attempted(what, partial(_look_into, what, dataset, sample, findings), findings)
    return findings


def _sets(
    recipes: Sequence[Recipe], folders: Folders
) -> dict[str, tuple[Callable[[], SegmentationDataset], Layout, str]]:
    """How to open each set, its layout and its split, by what it is for."""
    sets: dict[str, tuple[Callable[[], SegmentationDataset], Layout, str]] = {}
    for recipe in recipes:
        layouts = recipe.layouts
        if recipe.labelled == "source":
            sets.setdefault("source", (partial(open_labelled, recipe, folders), layouts.source, "train"))
        else:
            labelled = partial(open_labelled, recipe, folders)
            sets.setdefault("target, training labels", (labelled, layouts.target, "train"))
        if recipe.needs_target:
            sets.setdefault("target, training", (partial(open_target, recipe, folders), layouts.target, "train"))
        sets.setdefault("target, validation", (partial(open_validation, recipe, folders), layouts.target, "val"))
    return sets


def _count(what: str, pictures: int, published: int | None) -> Finding:
    if published is None or pictures == published:
        return Finding("ok", what, f"{pictures:,} pictures")
    return Finding("note", what, f"{pictures:,} pictures, {published:,} were published")


def _look_into(what: str, dataset: SegmentationDataset, sample: int, findings: list[Finding]) -> None:
    labelled = dataset.files[0].labels is not None
    unreadable = unreadable_files(dataset)
    dataset.leave_out([each.name for each in unreadable])
    misfits = mismatched_pairs(dataset)
    if misfits:
        more = f" and {len(misfits) - 5} more" if len(misfits) > 5 else ""
        text = f"picture and label map differ in size: {', '.join(misfits[:5])}{more}; replace one file of each pair"
        findings.append(Finding("missing", what, text))
        dataset.leave_out(misfits)
    found = describe(dataset, sample) if len(dataset) else None
    unreadable += found.unreadable if found else []
    if unreadable:
        files = "1 file" if len(unreadable) == 1 else f"{len(unreadable)} files"
        text = f"{files} cannot be read, the first: {unreadable[0].reason}"
        findings.append(Finding("missing", what, text))
    if not labelled or found is None or not found.sampled:
        return
    if found.unknown_ids:
        first, file = next(iter(found.unknown_in.items()))
        text = f"ids that the layout does not define, ignored (id: pixels): {found.unknown_ids}; {first} in {file}"
        findings.append(Finding("note", f"{what}, labels", text))
    refused = len(findings)
    attempted(f"{what}, labels", partial(require_labels, what, dataset), findings)
    if len(findings) > refused:
        return
    absent = [name for name, pixels in found.pixels.items() if not pixels]
    seen = f"{len(found.pixels) - len(absent)} of {len(found.pixels)} classes in {found.sampled} pictures"
    if absent:
        findings.append(Finding("note", f"{what}, labels", f"{seen}; not seen: {', '.join(absent)}"))
    else:
        findings.append(Finding("ok", f"{what}, labels", seen))


def check_restyling(recipes: Sequence[Recipe], folders: Folders) -> list[Finding]:
    """The folder of restyled source pictures, where recipes restyle."""
    restyling = [recipe for recipe in recipes if recipe.restyle is not None]
    if not restyling:
        return []
    recipe, what = restyling[0], "restyled pictures"
    assert recipe.restyle is not None
    if recipe.restyle.in_step:
        text = f"{recipe.restyle.method}, within a step; the paper's were translated by a CycleGAN (--restyle FOLDER)"
        return [Finding("note", what, text)]
    findings: list[Finding] = []
    folder = attempted(what, partial(restyled_folder, recipe.restyle), findings)
    if folder is None:
        return findings
    source = attempted(what, partial(open_labelled, recipe, folders), [])  # a source that is not there is told above
    if source is None:
        return [Finding("note", what, f"{folder}: not compared, since the source cannot be opened")]
    if attempted(what, partial(RestyledPictures, source, folder), findings) is not None:
        findings.append(Finding("ok", what, f"one for each of {len(source):,}"))
    return findings


def check_weights(recipes: Sequence[Recipe]) -> list[Finding]:
    """The start weights of each network that the recipes have: are they there, and do they fit?"""
    findings: list[Finding] = []
    for recipe in {recipe.network.model_dump_json(): recipe for recipe in recipes}.values():
        what = "start weights"
        if recipe.network.weights is None:
            findings.append(
                Finding("note", what, "random; the paper began with ImageNet's (--set network.weights=FILE)")
            )
        elif (network := attempted(what, partial(start_network, recipe, torch.device("cpu")), findings)) is not None:
            text = f"{network.weights_report}; pixels are normalised in the style of {network.style}"
            findings.append(Finding("ok", what, text))
    return findings
