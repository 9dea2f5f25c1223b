"""The network of a recipe, as training starts with it or as a checkpoint left it."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from torch import nn

from ..checkpoint import CheckpointError, load_checkpoint, restore_network
from ..distributed import world_size
from ..models import IMAGENET, NetworkName, SegmentationNetwork, build_network
from ..recipes import Recipe, RecipeError
from .determinism import seed_everything


def check_network(recipe: Recipe) -> None:
    """Check before anything is read or written that the network can be built and take its images.

    Shapes alone are computed, on the meta device, in milliseconds.

    Raises:
        RecipeError: If its options do not fit each other, or the images of a step or of an evaluation are too small.
    """
    if recipe.fused_of:
        return
    parts = recipe.runtime.accumulate_grad_batches * (1 if recipe.network.sync_bn else world_size())
    count = max(1, recipe.data.batch // parts)
    shown = [
        (f"data.{field}, augmentation.crop and data.batch", (count, 3, *size), True)
        for field, size in recipe.trained_sizes.items()
    ]
    for scale in recipe.evaluation.scales:
        height, width = (max(1, round(scale * side)) for side in recipe.data.target_size)
        shown.append(("data.target_size and evaluation.scales", (1, 3, height, width), False))
    options = json.dumps(recipe.network.options, sort_keys=True)
    _try_network(recipe.network.name, recipe.label_space.num_classes, options, tuple(shown))


@lru_cache(maxsize=64)
def _try_network(
    name: NetworkName, num_classes: int, options: str, shown: tuple[tuple[str, tuple[int, ...], bool], ...]
) -> None:
    """Build it and show it batches: the settings that their shape follows from, the shape, whether it is trained."""
    try:
        with torch.device("meta"):
            network = build_network(name, num_classes, **json.loads(options))
    except NotImplementedError:  # a network that reads values where it is built
        return
    except ImportError:
        raise
    except Exception as error:  # builders and torch raise many kinds for one thing: these options make no network
        # The configuration of a transformer is read from its file and has dozens of settings: they are not shown.
        shorter = json.dumps({key: value for key, value in json.loads(options).items() if key != "config"})
        raise RecipeError(
            f"network.options {shorter} do not make a network {name}: {_first_line(error)} Correct or omit what "
            "--set network.options... says."
        ) from error
    for settings, shape, training in shown:
        network.train(training)
        try:
            with torch.no_grad():
                network(torch.empty(shape, device="meta"))
        except NotImplementedError:
            continue
        except (RuntimeError, TypeError, ValueError) as error:
            raise RecipeError(
                f"network {name} cannot take a batch of {shape[0]} of {list(shape[2:])} (height, width), from "
                f"{settings}: {_first_line(error)} Set these larger."
            ) from error


def _first_line(error: BaseException) -> str:
    line = (str(error) or type(error).__name__).splitlines()[0]
    return line if line.endswith(".") else f"{line}."


def start_network(recipe: Recipe, device: torch.device, start: Path | None = None) -> SegmentationNetwork:
    """The network as training finds it: the same weights for every recipe of one seed, and in both stages.

    A recipe that begins where another run ended has that run's checkpoint as ``start``.
    """
    seed_everything(recipe.seed)
    weights = recipe.network.weights
    network = build_network(
        recipe.network.name,
        recipe.label_space.num_classes,
        weights=None if weights is None else _existing(weights),
        **recipe.network.options,
    )
    if start is not None:
        restore_network(network, load_checkpoint(start), start)
    if recipe.network.sync_bn and world_size() > 1:
        network = convert_sync_batchnorm(network, device)
    if recipe.runtime.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return network.to(device)


def convert_sync_batchnorm(network: SegmentationNetwork, device: torch.device) -> SegmentationNetwork:
    """``network`` with ``SyncBatchNorm``; names, parameters and buffers stay, so that checkpoints fit either way.

    Raises:
        RecipeError: On a CPU, for which torch has no ``SyncBatchNorm``.
    """
    if device.type != "cuda":
        raise RecipeError(
            "network.sync_bn needs a GPU for each process, torch has no SyncBatchNorm for a CPU; set "
            "network.sync_bn=false, or train in one process."
        )
    return cast(SegmentationNetwork, nn.SyncBatchNorm.convert_sync_batchnorm(network))


def trained_network(file: Path, device: torch.device) -> tuple[Recipe, SegmentationNetwork, int]:
    """The recipe, the network and the step of a checkpoint."""
    saved = load_checkpoint(file)
    try:
        recipe, step = Recipe.model_validate(saved["recipe"]), int(saved["step"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {file}: expected the recipe of its run and a step in it, as `train` writes them, got others "
            f"({type(error).__name__}). It was written by another version, or by something else: train again into "
            "another --out."
        ) from error
    network = build_network(recipe.network.name, recipe.label_space.num_classes, **recipe.network.options)
    restore_network(network, saved, file)
    return recipe, network.to(device), step


def _existing(weights: str) -> str:
    if weights != IMAGENET and not Path(weights).exists():
        raise FileNotFoundError(
            f"network.weights: expected a file or folder of start weights, found none at {weights}. Nothing is "
            "downloaded: fetch it yourself and give its path, or omit the setting to start from random weights."
        )
    return weights
