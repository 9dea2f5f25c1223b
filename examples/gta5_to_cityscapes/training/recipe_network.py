"""The network of a recipe, as training starts with it or as a checkpoint left it."""

from __future__ import annotations

from pathlib import Path

import torch

from ..networks import SegmentationNetwork, build_network
from ..networks.shared_statistics import share_statistics
from ..recipes import Recipe
from ..records.checkpoints import CheckpointError, load_checkpoint, restore_network, seed_everything


def start_network(recipe: Recipe, device: torch.device, start: Path | None = None) -> SegmentationNetwork:
    """The network as training finds it: the same weights for every recipe of one seed, and in both steps.

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
    if recipe.network.shared_statistics:
        share_statistics(network, device)
    return network.to(device)


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


def _existing(weights: str) -> Path:
    path = Path(weights)
    if not path.exists():
        raise FileNotFoundError(
            f"network.weights: expected a file or folder of start weights, there is none at {path}. Nothing is "
            "downloaded: fetch it yourself and give its path, or leave the setting out to start from random weights."
        )
    return path
