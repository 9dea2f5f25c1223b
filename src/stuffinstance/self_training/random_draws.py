"""Random numbers for a batch: from the caller's generator where there is one, else from its device's own."""

import torch
from torch import Tensor


def uniform(size: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Numbers in [0, 1), float32, on ``device``; drawn where ``generator`` lives, and copied from there."""
    if generator is None:  # left out, not passed as None, with which no size that varies can be compiled
        return torch.rand(size, device=device)
    return torch.rand(size, generator=generator, device=generator.device).to(device, non_blocking=True)
