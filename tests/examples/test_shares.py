"""Who takes which images: all of them once, in order, and nobody much more than another."""

from __future__ import annotations

from itertools import chain

import pytest

from examples.gta5_to_cityscapes import distributed as shares
from examples.gta5_to_cityscapes.distributed import (
    Share,
    TooFewImagesError,
    all_gather_object,
    any_rank,
    on_rank_zero,
    own_batches,
    own_share,
    rank,
    world_size,
)


@pytest.mark.parametrize(("batch", "ranks", "parts"), [(1, 1, 1), (5, 2, 2), (8, 4, 2), (7, 3, 2), (16, 5, 3)])
def test_part_by_part_and_rank_by_rank_the_images_stay_in_order(batch: int, ranks: int, parts: int) -> None:
    of_ranks = [Share(rank, ranks, parts).places(batch) for rank in range(ranks)]
    assert all(len(places) == parts for places in of_ranks)
    in_order = [place for part in range(parts) for places in of_ranks for place in places[part]]
    assert in_order == list(range(batch))
    sizes = {len(places) for each in of_ranks for places in each}
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def as_rank(monkeypatch: pytest.MonkeyPatch, number: int, of: int) -> None:
    monkeypatch.setattr(shares, "rank", lambda: number)
    monkeypatch.setattr(shares, "world_size", lambda: of)


@pytest.mark.parametrize(("count", "batch", "ranks"), [(3, 1, 2), (10, 4, 2), (2, 1, 4), (0, 3, 2), (12, 3, 4)])
def test_batches_of_a_data_set_are_dealt_out(
    monkeypatch: pytest.MonkeyPatch, count: int, batch: int, ranks: int
) -> None:
    alone = list(own_batches(count, batch))
    assert list(chain(*alone)) == list(range(count))
    dealt, evenly = [], []
    for number in range(ranks):
        as_rank(monkeypatch, number, ranks)
        dealt.append(list(own_batches(count, batch)))
        evenly.append(list(own_batches(count, batch, even=True)))
    # The same batches as alone: what is worked out from a batch does not depend on how many ranks there are.
    assert sorted(chain(*dealt), key=lambda places: places.start) == alone
    assert len({len(each) for each in evenly}) == 1
    assert [[places for places in each if places] for each in evenly] == dealt


def test_a_step_with_too_few_images_says_how_many_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank(monkeypatch, 1, 4)
    assert own_share(2, 8) == Share(1, 4, 2)
    with pytest.raises(
        TooFewImagesError, match=r"at least 8 \(processes: 4, runtime.accumulate_grad_batches: 2\), got 7"
    ):
        own_share(2, 7)


def test_alone_there_is_nobody_to_ask() -> None:
    assert (rank(), world_size()) == (0, 1)
    assert any_rank(True) is True
    assert all_gather_object("own") == ["own"]
    with pytest.raises(KeyError):
        on_rank_zero(lambda: {}["absent"])
