"""Distances of descriptors to bank rows: the nearest row is found without gradient, the distance to it has one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from stuffinstance._backends import Backend
from stuffinstance._checks import describe, may_read
from stuffinstance._numerics import autocast_device, unit_length

Between = Callable[[Tensor, Tensor], Tensor]
"""Two tensors (..., D) that broadcast to distances (...)."""

DistanceName = Literal["l1_mean", "l1_squared", "l2", "cosine"]

# A callable distance sees bank slots in blocks, so that no intermediate of (N, S, D) is ever built.
_BLOCK_ELEMENTS = 2**22
_BUFFER_ELEMENTS = 2**21


# Takes the place of the sums below, where it can run.
_COMPILED = Backend("stuffinstance.losses.numba_differences", "summed_differences", ("cpu",), "numba")


@dataclass(frozen=True)
class Distance:
    """Distance of two feature vectors, and a cheaper score that has the same nearest row.

    Attributes:
        between: (..., D) and (..., D) to (...), differentiable.
        ranking: (C, N, D) and (C, S, D) to (C, N, S): smallest where ``between`` is smallest.
    """

    between: Between
    ranking: Callable[[Tensor, Tensor], Tensor]


def _mean_absolute(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean(-1)


def _squared_l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum(-1).square()


def _l2(a: Tensor, b: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(a - b, dim=-1)
    return norm


def _l1_ranking(rows: Tensor, bank: Tensor) -> Tensor:
    if may_read(rows):
        return _summed_differences(rows, bank, square=False)
    return torch.cdist(rows, bank, p=1.0)


def _l2_ranking(rows: Tensor, bank: Tensor) -> Tensor:
    if may_read(rows):
        return _summed_differences(rows, bank, square=True)
    # Not through a matrix product: its cancellation could pick another row than the definition does.
    return torch.cdist(rows, bank, p=2.0, compute_mode="donot_use_mm_for_euclid_dist")


def _summed_differences(rows: Tensor, bank: Tensor, *, square: bool) -> Tensor:
    """Sums over channels of squared or else absolute differences, (C, N, S).

    In torch a few slots at a time in one buffer that stays in the caches. At 11 classes, 10 descriptors, 500 slots and
    2048 channels that takes a third of the time of ``torch.cdist``.
    """
    if rows.dtype in (torch.float32, torch.float64) and _COMPILED.obstacle("rows", rows.device) is None:
        return _COMPILED.run(rows, bank, square=square)
    change = torch.Tensor.square_ if square else torch.Tensor.abs_
    slots = bank.shape[1]
    step = max(1, min(slots, _BUFFER_ELEMENTS // max(1, rows.numel())))
    sums = rows.new_empty(rows.shape[0], rows.shape[1], slots)
    buffer = rows.new_empty(rows.shape[0], rows.shape[1], step, rows.shape[2])
    for start in range(0, slots, step):
        part = bank[:, start : start + step]
        difference = buffer[:, :, : part.shape[1]]
        torch.sub(rows[:, :, None], part[:, None], out=difference)
        torch.sum(change(difference), -1, out=sums[:, :, start : start + step])
    return sums


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return 1 - (unit_length(a, -1) * unit_length(b, -1)).sum(-1)


def _cosine_ranking(rows: Tensor, bank: Tensor) -> Tensor:
    return -torch.bmm(unit_length(rows, -1), unit_length(bank, -1).transpose(1, 2))


DISTANCES: dict[str, Distance] = {
    "l1_mean": Distance(_mean_absolute, _l1_ranking),
    "l1_squared": Distance(_squared_l1, _l1_ranking),
    "l2": Distance(_l2, _l2_ranking),
    "cosine": Distance(_cosine, _cosine_ranking),
}


# What every error about a callable says.
_CALLABLE = (
    "distance must map two tensors (..., D) that broadcast to their distances (...), where smaller must mean nearer "
    "(of a similarity pass 1 - similarity)"
)


def resolve_distance(
    distance: DistanceName | str | Between, feature_dim: int = 8, device: torch.device | str = "cpu"
) -> Distance:
    """Distance by name, or made of a callable, which is tried once on a few small rows.

    Args:
        distance: One of the names, or two tensors (..., D) that broadcast to distances (...).
        feature_dim: D of the rows that a callable is tried on.
        device: Where they lie; those of an ``nn.Module`` lie where its parameters do.

    Raises:
        ValueError: If no distance has that name, or a callable cannot take such rows, returns another shape, or
            puts equal rows further apart than different ones.
        TypeError: If it is neither a name nor a callable of two tensors that returns a floating-point tensor.
    """
    if isinstance(distance, str):
        if distance not in DISTANCES:
            raise ValueError(
                f"distance must be one of {', '.join(DISTANCES)}, or a callable of two tensors (..., D) that returns "
                f"(...), got {distance!r}."
            )
        return DISTANCES[distance]
    if not callable(distance):
        raise TypeError(f"distance must be a name or a callable, got {type(distance).__name__} {distance!r}.")
    if not torch.compiler.is_compiling():
        _try(distance, feature_dim, torch.device(device))
    return Distance(distance, partial(_blockwise_ranking, distance))


@torch.no_grad()
def _try(distance: Between, feature_dim: int, device: torch.device) -> None:
    """Call a distance as matching does: rows against each slot of a bank, and rows against one slot each."""
    tensors = (*distance.parameters(), *distance.buffers()) if isinstance(distance, nn.Module) else ()
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
    if like is not None:
        device = like.device
    dtype = torch.float64 if like is not None and like.dtype == torch.float64 else torch.float32
    table = _trial_rows(feature_dim).to(dtype).to(device)
    # Sizes that differ from each other and from D: a sum over another dimension then has another shape.
    classes, rows, slots = [size for size in (2, 3, 4, 5) if size != feature_dim][:3]
    row, slot = (torch.arange(size, device=device) % table.shape[0] for size in (rows, slots))
    descriptors, bank = table[row].expand(classes, -1, -1), table[slot].expand(classes, -1, -1)
    cuda = [device] if device.type == "cuda" else []
    place = "cpu" if device.type == "meta" else device.type  # autocast does not know meta
    with torch.random.fork_rng(cuda), torch.autocast(place, enabled=False):  # a distance may draw numbers
        apart = _answer(distance, descriptors[:, :, None], bank[:, None])
        _answer(distance, descriptors, descriptors)
    if not may_read(apart, validate_args=True):
        return
    equal = row[:, None] == slot
    nearest = apart.masked_fill(~equal, -torch.inf).amax(2)  # of equal rows the furthest, of different ones the nearest
    other = apart.masked_fill(equal, torch.inf).amin(2)
    wrong = nearest > other + 1e-5 * apart.abs().amax()
    if bool(wrong.any()):
        raise ValueError(
            f"{_CALLABLE}, got {float(nearest[wrong][0]):.4g} for two equal rows and {float(other[wrong][0]):.4g} for "
            "two different ones. Pass lambda a, b: 1 - similarity(a, b)."
        )


def _trial_rows(feature_dim: int) -> Tensor:
    """Up to four different rows of one length that all are probabilities, (N, D): fit for any distance."""
    if feature_dim == 1:
        return torch.tensor([[1.0], [-1.0]], device="cpu")
    row = torch.arange(1, feature_dim + 1, device="cpu", dtype=torch.float32)
    count = min(4, feature_dim)
    return torch.stack([(row / row.sum()).roll(place * feature_dim // count) for place in range(count)])


def _answer(distance: Between, a: Tensor, b: Tensor) -> Tensor:
    """What a distance answers on trial, checked."""
    question = f"calling it with {tuple(a.shape)} and {tuple(b.shape)}"
    try:
        answer = distance(a, b)
    except TypeError as error:
        raise TypeError(f"{_CALLABLE}; {question} failed, got TypeError: {error}.") from error
    except Exception as error:
        raise ValueError(f"{_CALLABLE}; {question} failed, got {type(error).__name__}: {error}.") from error
    if not isinstance(answer, Tensor) or not answer.is_floating_point():
        raise TypeError(f"{_CALLABLE}; {question} must give a floating-point tensor, got {describe(answer)}.")
    wanted = tuple(max(sizes) for sizes in zip(a.shape[:-1], b.shape[:-1], strict=True))
    if answer.shape != wanted:
        raise ValueError(
            f"{_CALLABLE}; {question} must give {wanted}, got {tuple(answer.shape)}. Take the sum or the mean "
            "over the last dimension alone (dim=-1)."
        )
    return answer


def _blockwise_ranking(between: Between, rows: Tensor, bank: Tensor) -> Tensor:
    block = max(1, _BLOCK_ELEMENTS // max(1, rows.numel()))
    parts = [between(rows[:, :, None], part[:, None]) for part in torch.split(bank, block, dim=1)]
    return torch.cat(parts, dim=2)


def nearest_distance(
    rows: Tensor, bank: Tensor, filled: Tensor, distance: Distance, wanted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Nearest-neighbor distance of each descriptor to the rows of its class.

    The gradient flows to the descriptors only, through the one row that was found.

    Args:
        rows: Descriptors grouped by class, (C, N, D).
        bank: Bank rows, (C, S, D).
        filled: (C, S) bool, the slots that hold a row: of each class the first ones, as a ring fills.
        distance: From :func:`resolve_distance`.
        wanted: (C, N) bool, the descriptors that matter; all by default.

    Returns:
        ``(distances, index)``, (C, N) each. For a class without a filled slot, and for a descriptor that is not wanted,
        the distance means nothing: mask it. Memory: two tensors (C, N, S) and two (C, N, D); never (C, N, S, D).
    """
    with torch.autocast(autocast_device(rows), enabled=False):
        exact = torch.promote_types(rows.dtype, bank.dtype)
        rows, bank = rows.to(exact), bank.detach().to(exact)
        with torch.no_grad():
            fixed = rows.detach()  # without a forward-mode gradient either
            if wanted is not None and wanted.numel() and may_read(fixed):
                index = _nearest_of_wanted(fixed, bank, filled, distance, wanted)
            else:
                index = _nearest(fixed, bank, filled, distance)  # (C, N)
        nearest = bank.gather(1, index[:, :, None].expand(-1, -1, bank.shape[2]))
        return distance.between(rows, nearest), index


def nearest_distances(rows: Tensor, bank: Tensor, filled: Tensor, distance: Distance, count: int) -> Tensor:
    """Distances of each descriptor to the ``count`` nearest rows of its class, nearest first.

    Args:
        rows: Descriptors grouped by class, (C, N, D).
        bank: Bank rows, (C, S, D).
        filled: (C, S) bool, the slots that hold a row.
        distance: From :func:`resolve_distance`.
        count: How many, at most S.

    Returns:
        (C, N, count); beyond the filled slots they mean nothing: mask them. Memory: two tensors (C, N, S) and two
        (C, N, count, D).
    """
    with torch.autocast(autocast_device(rows), enabled=False):
        exact = torch.promote_types(rows.dtype, bank.dtype)
        rows, bank = rows.to(exact), bank.detach().to(exact)
        with torch.no_grad():
            scores = distance.ranking(rows.detach(), bank).masked_fill(~filled[:, None, :], torch.inf)
            index = scores.topk(count, largest=False).indices  # (C, N, count)
        nearest = bank.gather(1, index.flatten(1)[:, :, None].expand(-1, -1, bank.shape[2]))
        return distance.between(rows[:, :, None], nearest.reshape(*index.shape, bank.shape[2]))


def _nearest(rows: Tensor, bank: Tensor, filled: Tensor, distance: Distance) -> Tensor:
    return distance.ranking(rows, bank).masked_fill(~filled[:, None, :], torch.inf).argmin(-1)


def _nearest_of_wanted(rows: Tensor, bank: Tensor, filled: Tensor, distance: Distance, wanted: Tensor) -> Tensor:
    """The same where reading is free, which saves most of the work: few classes have a region, and few have many.

    The bank is only sliced, from the first class that has one to the last and to the last filled slot, since copying
    rows out of it would cost more than it saves.
    """
    index = torch.zeros(wanted.shape, dtype=torch.int64, device=rows.device)
    counts = wanted.sum(1)
    occurring = counts.nonzero()[:, 0]
    if occurring.numel() == 0:
        return index
    classes = slice(int(occurring[0]), int(occurring[-1]) + 1)
    slots = max(1, int(filled[classes].sum(1).max()))
    first = wanted[classes].to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
    packed = rows[classes].gather(1, first[:, :, None].expand(-1, -1, rows.shape[2]))
    found = _nearest(packed, bank[classes, :slots], filled[classes, :slots], distance)
    index[classes] = index[classes].scatter(1, first, found)
    return index
