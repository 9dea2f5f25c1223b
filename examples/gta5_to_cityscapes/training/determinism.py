"""Random number generators of all ranks, saved and restored with a checkpoint; deterministic kernels."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..distributed import all_gather_object, rank, world_size

logger = logging.getLogger(__name__)


def random_state() -> dict[str, Any]:
    """The state of every generator that training may draw from, in types that a checkpoint can hold."""
    name, keys, *others = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *others),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every generator back to where :func:`random_state` found it; GPUs that are absent now are ignored."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for index, one in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(one, index)


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch; loaders have generators of their own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def draw_apart(seed: int, step: int = 0) -> None:
    """Seed every rank but rank 0 differently from here on; rank 0 draws as a single process would.

    Until then all ranks draw alike, so that they start with the same weights.
    """
    if rank() > 0:
        seed_everything(seed + 1_000_003 * rank() + step)


def random_states() -> list[dict[str, Any]]:
    """The states of every rank's generators, for a checkpoint."""
    return all_gather_object(random_state())


def restore_random_states(saved: list[dict[str, Any]], checkpoint: Path, seed: int, step: int) -> None:
    """Restore this rank's generators from a checkpoint; a rank that did not exist then is seeded anew."""
    if len(saved) != world_size():
        logger.warning(
            "%s was saved by %d processes, going on with %d: with the same steps, but other random draws.",
            checkpoint,
            len(saved),
            world_size(),
        )
    if rank() < len(saved):
        restore_random_state(saved[rank()])
    else:
        draw_apart(seed, step)


@contextmanager
def repeatable_kernels(wanted: bool, device: torch.device) -> Iterator[None]:
    """Deterministic kernels where ``wanted``; on a GPU torch warns of operations without one."""
    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if wanted:
        torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
