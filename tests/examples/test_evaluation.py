"""Scores are counted over the whole data set, for the classes asked for, at the size asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stuffinstance as si
from examples.gta5_to_cityscapes.data import DatasetError, Sample
from examples.gta5_to_cityscapes.networks import NetworkOutput
from examples.gta5_to_cityscapes.training.evaluation import evaluate

CPU = torch.device("cpu")
SPACE = si.LabelSpace(names=("sky", "road", "car"), stuff=(0, 1), things=(2,))


class Painted(nn.Module):
    """Predicts the class that a picture's red channel names."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> NetworkOutput:
        assert not self.training
        self.sizes.append(tuple(images.shape))
        ids = (images[:, 0] * 255).round().long()
        return NetworkOutput(images, nn.functional.one_hot(ids, 3).movedim(-1, 1).float())


class Listed:
    """A data set of given (prediction, truth) maps."""

    def __init__(self, maps: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.maps = maps
        self.names = [str(i) for i in range(len(maps))]

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> Sample:
        prediction, truth = self.maps[index]
        return Sample(prediction.to(torch.uint8).expand(3, -1, -1).clone(), truth.to(torch.uint8), str(index))


def random_maps(count: int = 5) -> Listed:
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for i in range(count):
        prediction = torch.randint(0, 3, (6, 8), generator=generator)
        truth = torch.randint(0, 3, (6, 8), generator=generator)
        truth[: i + 1] = 255  # each picture has another number of labelled pixels
        pairs.append((prediction, truth))
    return Listed(pairs)


def worked_out(maps: Listed) -> list[float]:
    prediction = torch.cat([p.flatten() for p, _ in maps.maps])
    truth = torch.cat([t.flatten() for _, t in maps.maps])
    prediction, truth = prediction[truth != 255], truth[truth != 255]
    return [
        float(((prediction == k) & (truth == k)).sum() / ((prediction == k) | (truth == k)).sum()) for k in range(3)
    ]


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_whole_data_set_score_does_not_depend_on_the_batch(batch: int) -> None:
    maps = random_maps()
    scores = evaluate([Painted().train()], [maps], SPACE, SPACE.names, CPU, batch=batch)
    expected = worked_out(maps)
    assert list(scores.iou.values()) == pytest.approx(expected)
    assert scores.miou == pytest.approx(sum(expected) / 3)


def test_a_named_subset_still_counts_every_mistake() -> None:
    maps = random_maps()
    expected = worked_out(maps)
    scores = evaluate([Painted()], [maps], SPACE, ("car", "sky"), CPU)
    assert scores.iou == pytest.approx({"car": expected[2], "sky": expected[0]})
    assert scores.miou == pytest.approx((expected[0] + expected[2]) / 2)


def test_a_class_that_never_occurs_has_no_score() -> None:
    road = torch.ones(4, 4)
    scores = evaluate([Painted()], [Listed([(road, road)])], SPACE, SPACE.names, CPU)
    assert scores.iou == {"sky": None, "road": 1.0, "car": None}
    assert scores.miou == 1
    with pytest.raises(DatasetError, match=r"at least one scored class \(car\)"):
        evaluate([Painted()], [Listed([(road, road)])], SPACE, ("car",), CPU)


def test_labels_keep_their_size_while_pictures_are_shown_smaller(tmp_path: Path) -> None:
    prediction = torch.zeros(8, 16)
    prediction[:, 8:] = 1
    network = Painted()
    network.train()
    maps = Listed([(prediction, prediction)] * 3)
    told: list[tuple[int, int]] = []
    scores = evaluate(
        [network],
        [maps],
        SPACE,
        SPACE.names,
        CPU,
        picture_size=(4, 8),
        previews=tmp_path / "previews",
        preview_count=2,
        tick=lambda done, total: told.append((done, total)),
    )
    assert network.training
    assert network.sizes == [(1, 3, 4, 8)] * 3
    assert scores.miou > 0.8  # one column may fall on either side
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert sorted(path.name for path in (tmp_path / "previews").iterdir()) == ["0.npz", "1.npz"]
    with np.load(tmp_path / "previews" / "1.npz") as preview:
        assert preview["image"].shape == (8, 16, 3)
        assert preview["prediction"].shape == (8, 16)
