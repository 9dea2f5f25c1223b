"""What ranks draw at random: each its own crops and colors, as a checkpoint keeps and restores them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import random_state, restore_random_state, seed_everything
from ..distributed import of_all_ranks, rank, world

logger = logging.getLogger(__name__)


def draw_apart(seed: int, step: int = 0) -> None:
    """Let each rank but the first, which draws as a run alone would, go its own way from here on.

    Until then all of them draw alike, so that they start with the same weights.
    """
    if rank() > 0:
        seed_everything(seed + 1_000_003 * rank() + step)


def draws_of_all_ranks() -> dict[str, Any]:
    """Where every rank's generators stand, for a checkpoint."""
    first, *others = of_all_ranks(random_state())
    return {"random": first, "random_of_other_ranks": others}


def restore_draws(saved: dict[str, Any], checkpoint: Path, seed: int) -> None:
    """Put this rank's generators where a checkpoint has them; a rank that was not there then draws apart."""
    known = [saved["random"], *saved.get("random_of_other_ranks", [])]
    if len(known) != world():
        logger.warning(
            "%s was saved by %d processes, going on with %d: with the same steps, but other random draws.",
            checkpoint,
            len(known),
            world(),
        )
    if rank() < len(known):
        restore_random_state(known[rank()])
    else:
        draw_apart(seed, saved["step"])


@contextmanager
def repeatable_kernels(wanted: bool, device: torch.device) -> Iterator[None]:
    """Let torch choose repeatable kernels; on a GPU some have none, which it then says once."""
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
