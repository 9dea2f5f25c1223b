"""Collectives: rows gathered in rank order and counts summed over ranks; nothing without a process group."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from stuffinstance._checks import check_choice

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Sync = Literal["auto", "off"]


class SharedGroup:
    """A process group as modules hold it: copies of a module share the group, and pickling it is an error."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedGroup:
        """The same group: a second one would need all ranks to create it."""
        return self

    def __reduce__(self) -> NoReturn:
        """Raise: a process group is a connection of this process.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "group must be None for a module that is pickled, got a process group, which belongs to the running "
            "process. Save module.state_dict(), and pass group=... where the module is built again."
        )


def check_sync(sync: str) -> None:
    """Require one of the two ways."""
    check_choice("sync", sync, get_args(Sync), " ('auto' is across ranks where a process group runs)")


def shared_group(group: ProcessGroup | None) -> SharedGroup | None:
    """The group as a module holds it; None for all ranks.

    Raises:
        TypeError: If ``group`` is not a process group.
        ValueError: If this rank is not in the group.
    """
    if group is None:
        return None
    if dist.is_available():
        outside: object = dist.GroupMember.NON_GROUP_MEMBER
        if group is outside or (
            isinstance(group, dist.ProcessGroup) and dist.is_initialized() and dist.get_rank(group) < 0
        ):
            raise ValueError(
                "group must be a process group that this rank is in, got one of other ranks. "
                "Build the module on the group's ranks alone, or pass sync='off' and no group."
            )
        if isinstance(group, dist.ProcessGroup):
            return SharedGroup(group)
    raise TypeError(
        f"group must be a torch.distributed process group or None (all ranks), got {type(group).__name__}. "
        "Pass what torch.distributed.new_group(ranks) returned."
    )


def synchronizes(sync: Sync, group: ProcessGroup | None = None) -> bool:
    """Whether there are other ranks to agree with."""
    return sync == "auto" and dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def gather_rows(tensors: tuple[Tensor, ...], sync: Sync, group: ProcessGroup | None = None) -> tuple[Tensor, ...]:
    """Concatenate along dimension 0 over all ranks, in rank order; ranks may differ in how many rows they bring.

    Every rank of the group must call this equally often, also with no rows; every rank gets the same bits.

    Args:
        tensors: (N, ...) each, N equal within the call and free across ranks.
        sync: ``"auto"`` or ``"off"``.
        group: The ranks; None for all.

    Returns:
        The same tensors with N summed over ranks; the arguments themselves where there are no other ranks.

    Raises:
        RuntimeError: If the group does not serve the tensors' device.
    """
    if not synchronizes(sync, group):
        return tensors
    own = torch.tensor(tensors[0].shape[0], device=tensors[0].device)
    lengths = gather_equal(own, sync, group).tolist()  # the one read of a call
    return tuple(_gather_padded(tensor, lengths, group) for tensor in tensors)


def gather_equal(tensor: Tensor, sync: Sync, group: ProcessGroup | None = None) -> Tensor:
    """Stack tensors of one shape along a new dimension 0 over all ranks, in rank order: (R, ...); nothing is read.

    Every rank of the group must call this equally often.

    Raises:
        RuntimeError: If the group does not serve the tensor's device.
    """
    if not synchronizes(sync, group):
        return tensor[None]
    received = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    _on_group(tensor, lambda: dist.all_gather(received, tensor.contiguous(), group=group))
    return torch.stack(received)


def _gather_padded(tensor: Tensor, lengths: list[int], group: ProcessGroup | None) -> Tensor:
    """all_gather wants equal shapes: pad to the longest, cut afterwards. Booleans travel as bytes."""
    sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
    padded = sent.new_zeros(max(lengths), *sent.shape[1:])
    padded[: sent.shape[0]] = sent
    received = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(received, padded, group=group)
    joined = torch.cat([rows[:length] for rows, length in zip(received, lengths, strict=True)])
    return joined.to(tensor.dtype)


def sum_over_ranks(counts: Tensor, sync: Sync, group: ProcessGroup | None = None) -> Tensor:
    """Add counts up over the ranks of the group (None for all); ``counts`` itself where there are no other ranks.

    Raises:
        RuntimeError: If the group does not serve the device of ``counts``.
    """
    if not synchronizes(sync, group):
        return counts
    total = counts.clone()
    _on_group(total, lambda: dist.all_reduce(total, group=group))
    return total


def _on_group(tensor: Tensor, collective: Callable[[], Any]) -> None:
    """Call a collective; that the group has no backend for the tensor's device is reported with its remedy."""
    if torch.compiler.is_compiling():  # a try block would break the graph
        collective()
        return
    try:
        collective()
    except RuntimeError as error:
        # What torch says of a group without a backend for the device, and what NCCL said of it before there were
        # backends per device.
        if not any(words in str(error) for words in ("No backend type associated", "must be CUDA and dense")):
            raise
        raise RuntimeError(
            f"state to share between ranks must be on a device that the process group serves, got a tensor on "
            f"{tensor.device}, as with the nccl backend and a module on the CPU. Move the module and its inputs with "
            ".to('cuda'), initialize the group with backend='cpu:gloo,cuda:nccl', or pass sync='off' to keep the "
            "state of each rank to itself."
        ) from error
