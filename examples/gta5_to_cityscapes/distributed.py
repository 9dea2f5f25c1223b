"""Distributed training: process group, collectives, and the share of a step's images that each rank takes."""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)  # for a rank that hangs; of one that dies the others hear immediately


class RankLostError(RuntimeError):
    """Another process of the run has ended, or does not answer."""


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process."""
    return dist.get_rank() if world_size() > 1 else 0


def is_rank_zero() -> bool:
    """Whether this is the process that writes files and prints."""
    return rank() == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Process group of the processes that ``torchrun`` started, while the block runs; without a launcher none.

    Only rank 0 keeps its standard output.

    Raises:
        RankLostError: If another rank has ended or does not answer.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        yield
        return
    # Imported only after a group exists (an optimizer's first step does it), this module keeps the group and its
    # threads forever. A thread that releases a tensor while the interpreter shuts down ends the process with SIGABRT.
    importlib.import_module("torch.distributed.nn")
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    succeeded = False
    try:
        with lost_ranks_reported(), redirect_stdout(sys.stdout if is_rank_zero() else io.StringIO()):
            yield
        succeeded = True
    except SystemExit as leaving:
        succeeded = not leaving.code
        raise
    finally:
        if succeeded:  # otherwise others may have ended, and destroying the group would wait for them
            dist.destroy_process_group()


@contextmanager
def lost_ranks_reported() -> Iterator[None]:
    """Errors of the backend about other ranks become a :class:`RankLostError`, which says what to do."""
    try:
        yield
    except RuntimeError as error:
        of_backend = isinstance(error, dist.DistError) or "gloo" in str(error)
        if isinstance(error, RankLostError) or world_size() == 1 or not of_backend:
            raise
        raise RankLostError(
            f"rank {rank()} of {world_size()}: another process of this run has ended, or did not answer "
            f"({str(error).splitlines()[0][:200]}). Its own message says why, or what started it; once that is put "
            "right, the same command goes on from the last checkpoint."
        ) from error


def local_device(kind: str) -> torch.device:
    """Device of this rank: its own GPU of the machine's, or the CPU.

    Args:
        kind: ``auto``, ``cpu``, ``cuda`` or one GPU such as ``cuda:1``.

    Raises:
        ValueError: If it is something else, or this machine does not have it.
    """
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cpu" or (kind == "auto" and not present):
        return torch.device("cpu")
    match = re.fullmatch(r"auto|cuda(?::(\d{1,4}))?", kind)
    if match is None:
        raise ValueError(f"expected auto, cpu, cuda or one GPU such as cuda:1, got {kind!r}.")
    if not present:
        raise ValueError("this machine has no CUDA device; use cpu.")
    if match[1] is not None:
        if int(match[1]) >= present:
            raise ValueError(f"expected one of the {present} GPUs of this machine, counted from 0.")
        return torch.device(kind)
    if world_size() == 1:
        return torch.device("cuda")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= present:
        raise ValueError(
            f"expected a GPU for each of the processes of this machine, got process {index} (from 0) and {present} "
            "GPUs. Start torchrun with --nproc-per-node of at most that, or train with --device cpu."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def any_rank(flag: bool) -> bool:
    """Whether ``flag`` is set on any rank."""
    if world_size() == 1:
        return flag
    votes = torch.tensor([int(flag)])
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return bool(votes)


def on_rank_zero(make: Callable[[], T]) -> T:
    """``make()`` called on rank 0 alone; its result, or the exception that it raised, on every rank."""
    if world_size() == 1:
        return make()
    outcome: list[tuple[T | None, Exception | None]] = [(None, None)]
    if is_rank_zero():
        try:
            outcome = [(make(), None)]
        except Exception as error:
            outcome = [(None, error)]
    dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
    result, error = outcome[0]
    if error is not None:
        error.raised_on_rank_zero = not is_rank_zero()  # type: ignore[attr-defined]
        raise error
    return result  # type: ignore[return-value]


def all_gather_object(own: T) -> list[T]:
    """The object of each rank, in rank order."""
    if world_size() == 1:
        return [own]
    objects: list[T | None] = [None] * world_size()
    dist.all_gather_object(objects, own)
    return objects  # type: ignore[return-value]


def all_reduce_sum(own: Tensor) -> Tensor:
    """Sum over ranks, the same bits on each; ``own`` itself in a single process."""
    if world_size() == 1:
        return own
    total = own.clone()
    dist.all_reduce(total)
    return total


class TooFewImagesError(ValueError):
    """A step with fewer images than there are processes and parts."""


@dataclass(frozen=True)
class Share:
    """One rank's share of a step whose images are cut into ``parts``, and each part among ``ranks``.

    Parts follow each other, ranks lie side by side, and within both images keep their order; so what is written part
    by part and in rank order is written in the order of the images, however they are cut.
    """

    rank: int = 0
    ranks: int = 1
    parts: int = 1

    def places(self, batch: int) -> list[range]:
        """This rank's places in a step of ``batch`` images, part by part; sizes differ by one at most."""
        return [list(_cut(part, self.ranks))[self.rank] for part in _cut(range(batch), self.parts)]


def own_share(parts: int, batch: int) -> Share:
    """This rank's share of a step.

    Args:
        parts: Number of parts that each process cuts its images of a step into.
        batch: Images of a step.

    Raises:
        TooFewImagesError: If a process or part would have no image.
    """
    if batch < parts * world_size():
        lower = "lower runtime.accumulate_grad_batches" if parts > 1 else "start fewer processes"
        raise TooFewImagesError(
            f"data.batch is the number of images of a whole step, expected at least {parts * world_size()} "
            f"(processes: {world_size()}, runtime.accumulate_grad_batches: {parts}), got {batch}. Set data.batch to at "
            f"least that, or {lower}."
        )
    return Share(rank(), world_size(), parts)


def _cut(places: range, pieces: int) -> Iterator[range]:
    total = len(places)
    for i in range(pieces):
        yield places[total * i // pieces : total * (i + 1) // pieces]


def own_batches(count: int, batch: int, *, even: bool = False) -> Iterator[range]:
    """Places of a whole data set in batches, which the ranks take in turn.

    Args:
        count: Images in all.
        batch: Images of a batch.
        even: Every rank gets the same number of batches, the last one possibly empty; for collectives in each batch.
    """
    firsts = range(rank() * batch, count, world_size() * batch)
    for first in firsts:
        yield range(first, min(first + batch, count))
    if even and len(firsts) < len(range(0, count, world_size() * batch)):
        yield range(0)


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sum gradients over ranks, the same bits on each; a parameter that no rank has a gradient for keeps none."""
    if world_size() == 1:
        return
    ranks = all_reduce_sum(torch.tensor([float(parameter.grad is not None) for parameter in parameters]))
    pending = []
    for parameter in (parameters[i] for i in ranks.nonzero().flatten().tolist()):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        pending.append(dist.all_reduce(parameter.grad, async_op=True))
    for each in pending:
        each.wait()


@torch.no_grad()
def average_running_statistics(network: nn.Module) -> None:
    """Average batch normalization's running means and variances over ranks, so that all evaluate and save the same.

    For layers that normalize by each rank's own images; ``SyncBatchNorm`` does not need it. Frozen layers are equal on
    all ranks and stay equal to the bit.
    """
    if world_size() == 1:
        return
    for norm in network.modules():
        if isinstance(norm, _BatchNorm) and not isinstance(norm, nn.SyncBatchNorm) and norm.training:
            for own in (norm.running_mean, norm.running_var):
                if own is not None:
                    own.copy_(all_reduce_sum(own) / world_size())
