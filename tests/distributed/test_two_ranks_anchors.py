"""Anchors and class centers of two ranks: the same bits on both, and those of one process that saw all images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stuffinstance.banks import CategoryAnchors
from stuffinstance.metrics.class_center_distance import ClassCenterDistance
from tests.distributed.ranks import on_two_ranks
from tests.label_maps import IGNORE

K, D, STEPS = 4, 5, 5


def batch_of(rank: int, step: int) -> tuple[Tensor, Tensor]:
    """Batches of 2 and 3 images of other sizes; now and then a rank has no class, no image or a broken one."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    images = 0 if (rank, step) == (1, 3) else 2 + rank
    height, width = 6 + 2 * rank, 8
    labels = torch.randint(K, (images, height, width), generator=generator)
    if (rank, step) in ((0, 1), (1, 2)):
        labels = torch.full_like(labels, IGNORE)
    features = torch.randn(images, D, height, width, generator=generator)
    if (rank, step) == (1, 4):
        features[0, :, 0] = torch.nan
    return features, labels


def modules(sync: str = "auto") -> tuple[CategoryAnchors, ClassCenterDistance]:
    anchors = CategoryAnchors(K, D, min_pixels=8, max_count=6, sync=sync)  # type: ignore[arg-type]
    return anchors, ClassCenterDistance(K, D, sync=sync)  # type: ignore[arg-type]


def train(ranks: tuple[int, ...], sync: str = "auto") -> dict[str, Tensor]:
    anchors, distance = modules(sync)
    for step in range(STEPS):
        for rank in ranks:
            anchors.update(*batch_of(rank, step))
            distance.update(*batch_of(rank, step))
    first = distance.compute()
    assert torch.equal(first, distance.compute())  # computing must not add the other rank's pixels to the own ones
    return {"anchors": anchors.anchors, "count": anchors.count, "distance": first, "pixels": distance.pixels}


def everything(rank: int) -> dict[str, Any]:
    return {"shared": train((rank,)), "apart": train((rank,), "off")}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_two_ranks(everything, tmp_path_factory.mktemp("ranks"))


def test_both_ranks_hold_the_same_bits(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["shared"] for rank in ranks)
    for name in ("anchors", "count", "distance"):
        assert torch.equal(first[name], second[name])
    assert not torch.equal(first["pixels"], second["pixels"])  # what is summed up in compute() stays apart until then


def test_two_ranks_equal_one_process_with_both_batches(ranks: list[dict[str, Any]]) -> None:
    alone = train((0, 1))
    for name in ("anchors", "count", "distance"):
        torch.testing.assert_close(ranks[0]["shared"][name], alone[name])
    assert alone["count"].tolist() == [6] * K  # the counts stand still, so that the order of the images matters
    assert not torch.allclose(train((1, 0))["anchors"], alone["anchors"])


def test_without_sync_each_rank_keeps_its_own(ranks: list[dict[str, Any]]) -> None:
    for rank in (0, 1):
        for name, value in train((rank,)).items():
            torch.testing.assert_close(ranks[rank]["apart"][name], value)
