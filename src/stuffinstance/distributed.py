"""What crosses ranks: rows gathered in rank order, counts added up. Without a process group nothing happens here."""

from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from stuffinstance.arguments import check_choice

Sync = Literal["auto", "off"]


def check_sync(sync: str) -> None:
    """Require one of the two ways."""
    check_choice("sync", sync, get_args(Sync), " ('auto' is across ranks where a process group runs)")


def synchronises(sync: Sync) -> bool:
    """Whether there are other ranks to agree with."""
    return sync == "auto" and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_rows(tensors: tuple[Tensor, ...], sync: Sync) -> tuple[Tensor, ...]:
    """Concatenate along dimension 0 over all ranks, in rank order; ranks may differ in how many rows they bring.

    Every rank of the group must call this equally often, also with no rows; every rank gets the same bits.

    Args:
        tensors: (N, ...) each, N equal within the call and free across ranks.
        sync: ``"auto"`` or ``"off"``.

    Returns:
        The same tensors with N summed over ranks; the arguments themselves where there are no other ranks.
    """
    if not synchronises(sync):
        return tensors
    own = torch.tensor([tensors[0].shape[0]], device=tensors[0].device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    lengths = torch.cat(counts).tolist()  # the one read of a call
    return tuple(_gather_padded(tensor, lengths) for tensor in tensors)


def _gather_padded(tensor: Tensor, lengths: list[int]) -> Tensor:
    """all_gather wants equal shapes: pad to the longest, cut afterwards. Booleans travel as bytes."""
    travelling = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
    padded = travelling.new_zeros(max(lengths), *travelling.shape[1:])
    padded[: travelling.shape[0]] = travelling
    received = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(received, padded)
    joined = torch.cat([rows[:length] for rows, length in zip(received, lengths, strict=True)])
    return joined.to(tensor.dtype)


def sum_over_ranks(counts: Tensor, sync: Sync) -> Tensor:
    """Add counts up over all ranks; ``counts`` itself where there are no other ranks."""
    if not synchronises(sync):
        return counts
    total = counts.clone()
    dist.all_reduce(total)
    return total
