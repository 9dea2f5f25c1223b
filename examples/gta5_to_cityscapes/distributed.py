"""Several processes that train one network: how they find each other, agree, and share out images."""

from __future__ import annotations

import gc
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

Answer = TypeVar("Answer")
PATIENCE = timedelta(minutes=30)  # for a rank that hangs; of one that dies the others hear at once
CPU = torch.device("cpu")


class RankLostError(RuntimeError):
    """Another process of the run has ended, or does not answer."""


def world() -> int:
    """How many processes train together; 1 alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world() > 1 else 0


def is_first() -> bool:
    """Whether this is the one that writes files and talks."""
    return rank() == 0


@contextmanager
def joined(patience: timedelta = PATIENCE) -> Iterator[None]:
    """Join the processes that ``torchrun``, or another launcher that sets its variables, has started.

    Without one nothing happens.

    Only the first one's standard output is kept: all of them say the same.

    Args:
        patience: After so long without an answer of another rank a call here raises.

    Raises:
        RankLostError: In place of what the backend raises when another rank is gone or silent.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        yield
        return
    # First imported with a group at hand (DDP does it) it keeps that group for ever, and with it the group's threads.
    # A thread that lets go of a tensor while the interpreter goes down ends the process with SIGABRT, all work done.
    importlib.import_module("torch.distributed.nn")
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=patience)
    ended_well = False
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123  a device, not a path of ours
        if not is_first():
            sys.stdout = nowhere
        try:
            with others_needed():
                yield
            ended_well = True
        except SystemExit as leaving:
            ended_well = not leaving.code
            raise
        finally:
            sys.stdout = sys.__stdout__
            if ended_well:  # else others may be gone, and taking leave of them would take for ever
                gc.collect()  # what has ended but still holds the group
                dist.destroy_process_group()


@contextmanager
def others_needed() -> Iterator[None]:
    """What a backend raises in the block about other ranks says what to do."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, RankLostError) or not _is_about_others(error):
            raise
        raise RankLostError(
            f"rank {rank()} of {world()}: another process of this run has ended, or did not answer "
            f"({str(error).splitlines()[0][:200]}). Its own message says why, or what started it; once that is put "
            "right, the same command goes on from the last checkpoint."
        ) from error


def _is_about_others(error: RuntimeError) -> bool:
    return world() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))


def local_device(kind: str) -> torch.device:
    """The device of this rank: its own GPU of those of its machine, or the CPU that all share.

    Args:
        kind: ``auto``, ``cpu``, ``cuda`` or one GPU such as ``cuda:1``.

    Raises:
        ValueError: If it is something else, or this machine does not have it.
    """
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    match = re.fullmatch(r"cpu|cuda(?::(\d{1,4}))?", kind)
    if match is None:
        raise ValueError(f"expected auto, cpu, cuda or one GPU such as cuda:1, got {kind!r}.")
    if kind == "cpu":
        return torch.device(kind)
    if not torch.cuda.is_available():
        raise ValueError("this machine has no CUDA device; use cpu.")
    if match[1] is not None and int(match[1]) >= torch.cuda.device_count():
        raise ValueError(f"expected one of the {torch.cuda.device_count()} GPUs of this machine, counted from 0.")
    if kind != "cuda" or world() == 1:
        return torch.device(kind)
    index, present = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= present:
        raise ValueError(
            f"expected a GPU for each of the processes of this machine, got process {index} (from 0) and {present} "
            "GPUs. Start torchrun with --nproc-per-node of at most that, or train with --device cpu."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def any_rank(flag: bool) -> bool:
    """Whether it is so on any rank."""
    if world() == 1:
        return flag
    votes = torch.tensor([int(flag)])
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return bool(votes)


def from_first(make: Callable[[], Answer]) -> Answer:
    """What ``make`` gives on the first rank, or raises there, on every rank; the others do not call it."""
    if world() == 1:
        return make()
    said: list[tuple[Answer | None, Exception | None]] = [(None, None)]
    if is_first():
        try:
            said = [(make(), None)]
        except Exception as error:
            said = [(None, error)]
    dist.broadcast_object_list(said, src=0, device=CPU)
    answer, error = said[0]
    if error is not None:
        error.said_by_first = not is_first()  # type: ignore[attr-defined]
        raise error
    return answer  # type: ignore[return-value]


def of_all_ranks(own: Answer) -> list[Answer]:
    """What each rank brings, in rank order."""
    if world() == 1:
        return [own]
    brought: list[Answer | None] = [None] * world()
    dist.all_gather_object(brought, own)
    return brought  # type: ignore[return-value]


def sum_of_ranks(own: Tensor) -> Tensor:
    """The sum over ranks, the same bits on each; ``own`` itself where there are no others."""
    if world() == 1:
        return own
    total = own.clone()
    dist.all_reduce(total)
    return total


class TooFewImagesError(ValueError):
    """A step with fewer images than processes and parts to share them out to."""


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
    """The share of this process.

    Args:
        parts: In how many parts each process goes through a step.
        batch: Images of a step.

    Raises:
        TooFewImagesError: If not everyone can have one.
    """
    if batch < parts * world():
        raise TooFewImagesError(
            f"data.batch is the number of images of a whole step, expected at least {parts * world()} "
            f"(processes: {world()}, runtime.accumulate_grad_batches: {parts}), got {batch}. Set data.batch to at least that, "
            f"or {'lower runtime.accumulate_grad_batches' if parts > 1 else 'start fewer processes'}."
        )
    return Share(rank(), world(), parts)


def _cut(places: range, pieces: int) -> Iterator[range]:
    total = len(places)
    for i in range(pieces):
        yield places[total * i // pieces : total * (i + 1) // pieces]


def own_batches(count: int, batch: int, *, even: bool = False) -> Iterator[range]:
    """Places of a whole data set, in batches that are dealt out to the ranks in turn.

    Args:
        count: Images in all.
        batch: Images at once.
        even: Every rank gets equally many batches, at the end perhaps an empty one; for what waits for the others at
            each.
    """
    firsts = range(rank() * batch, count, world() * batch)
    for first in firsts:
        yield range(first, min(first + batch, count))
    if even and len(firsts) < len(range(0, count, world() * batch)):
        yield range(0)


Losses = Callable[[], "Tensor | None"]


class Replicas:
    """``DistributedDataParallel`` around everything that a step trains.

    It reduces gradients in the backward pass of what went through its own forward, and leaves them alone in all others,
    where they add up on each rank. A step has several backward passes, over several networks; so only the losses of its
    last one are computed in there.

    Attributes:
        factor: What every loss is multiplied by: gradients come back averaged over ranks, and are wanted summed.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.factor = float(world())
        self._together = None
        if world() > 1:
            # Some parameters have all their gradient before the last pass and are not in it.
            self._together = DistributedDataParallel(_Together(parameters), find_unused_parameters=True)

    def last(self, losses: Losses) -> Tensor | None:
        """``losses()``, for the backward pass that ends the step; without a loss one that is always 0, if need be."""
        return losses() if self._together is None else self._together(losses)


class _Together(nn.Module):
    """Holds parameters, and computes whatever it is given; buffers are no business of its own."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.trained = nn.ParameterList(each for each in parameters if each.requires_grad)

    def forward(self, losses: Losses) -> Tensor:
        total = losses()
        return total if total is not None else 0.0 * self.trained[0].sum()


class RunningStatistics:
    """Running means and variances of batch normalization, averaged over ranks after each step.

    For layers that normalize by each rank's own images, so that what is evaluated and saved is the same on all ranks;
    ``SyncBatchNorm`` does not need it.
    """

    def __init__(self, network: nn.Module) -> None:
        self.norms = [
            module
            for module in network.modules()
            if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        ]

    @torch.no_grad()
    def average(self) -> None:
        """One collective for all layers; frozen ones are equal on all ranks and stay equal to the bit."""
        moved = [norm for norm in self.norms if norm.training] if world() > 1 else []
        kept = [each for norm in moved for each in (norm.running_mean, norm.running_var) if each is not None]
        if not kept:
            return
        mean = sum_of_ranks(torch.cat(kept)) / world()
        torch._foreach_copy_(kept, list(mean.split([len(each) for each in kept])))
