"""Pixels per class and their file, class weights, and rare-class sampling: against plain loops, and at its position."""

from __future__ import annotations

import copy
import math
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, StackDataset

import stuffinstance as si
from tests.label_maps import IGNORE

K = 4


class Streets(Dataset[tuple[Tensor, Tensor]]):
    """Images of several sizes with label maps; class 3 is in none, class 2 in one; counts how often it is read."""

    def __init__(self, count: int = 10) -> None:
        generator = torch.Generator().manual_seed(0)
        self.maps = [torch.randint(2, (5 + i % 3, 7), generator=generator, dtype=torch.uint8) for i in range(count)]
        self.maps[count // 2][0, :3] = 2
        for labels in self.maps:
            labels[-1, -2:] = IGNORE
        self.read = 0

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.read += 1
        return torch.full((3, *self.maps[index].shape), index / 10), self.maps[index]


def counted_by_hand(maps: list[Tensor]) -> list[list[int]]:
    return [[sum(pixel == k for row in labels.tolist() for pixel in row) for k in range(K)] for labels in maps]


# ------------------------------------------------------------------ pixels per class


def test_class_pixels_are_those_of_a_loop_over_pixels() -> None:
    streets = Streets(70)  # more than a worker sends together
    expected = counted_by_hand(streets.maps)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    counts = si.count_class_pixels(streets, K)
    assert counts.tolist() == expected
    assert counts.dtype == torch.int64
    assert torch.equal(before, torch.random.get_rng_state())
    assert si.count_class_pixels(streets, K, num_workers=2).tolist() == expected
    for kind in (np.int16, np.uint16, np.int64):
        arrays = [labels.numpy().astype(kind) for labels in streets.maps]
        assert si.count_class_pixels(arrays, K, label_key=None).tolist() == expected
        named = StackDataset(image=arrays, label=arrays)
        assert si.count_class_pixels(named, K, label_key="label").tolist() == expected
    for stored in (
        lambda a: a[:, ::-1].copy()[:, ::-1],
        lambda a: a.astype(">u2"),
        lambda a: np.frombuffer(a, a.dtype),
    ):
        arrays = [stored(labels.numpy()).reshape(labels.shape) for labels in streets.maps]  # strides, order, read-only
        assert si.count_class_pixels(arrays, K, label_key=None).tolist() == expected
    assert si.count_class_pixels([], K).shape == (0, K)


def test_nothing_is_ignored_without_an_ignored_id() -> None:
    maps = [torch.tensor([[0, 1, 1]])]
    assert si.count_class_pixels(maps, 2, label_key=None, ignore_index=None).tolist() == [[1, 2]]
    with pytest.raises(ValueError, match=r"dataset\[0\] must hold class ids 0\.\.1, got also \[255\]"):
        si.count_class_pixels([torch.tensor([[0, 255]])], 2, label_key=None, ignore_index=None)


@pytest.mark.parametrize(
    ("sample", "advice"),
    [
        (7, "For a data set of label maps alone"),
        (None, "For a data set of label maps alone"),
        (np.ones(3, int), "For a data set of label maps alone"),
        (np.array([["a"]]), "For a data set of label maps alone"),
        (torch.ones(2, 2), "give labels.long()"),
        (torch.ones(1, 2, 2, dtype=torch.long), "give labels[0]"),
        ((torch.ones(3, 2, 2), torch.ones(2, 2)), "label_key=1"),
        (Image.new("L", (2, 2)), "give np.array(labels)"),
    ],
)
def test_a_sample_without_a_label_map_is_an_error(sample: Any, advice: str) -> None:
    with pytest.raises(ValueError, match=r"dataset\[0\] must hold an integer label map \(H, W\)") as error:
        si.count_class_pixels([sample], K, label_key=None)
    assert advice in str(error.value)


def test_a_file_of_counts_is_read_instead_of_the_data(tmp_path: Path) -> None:
    streets, cache = Streets(40), tmp_path / "class_pixels.json"
    counts = si.count_class_pixels(streets, K, cache=cache)
    assert streets.read == 40
    assert torch.equal(si.count_class_pixels(streets, K, cache=str(cache)), counts)
    assert streets.read == 48
    assert [path.name for path in tmp_path.iterdir()] == ["class_pixels.json"]


def test_a_file_that_does_not_fit_the_data_is_replaced(tmp_path: Path) -> None:
    cache = tmp_path / "class_pixels.json"
    si.count_class_pixels(Streets(40), K, cache=cache)
    changed = Streets(40)
    changed.maps[-1][0] = 3
    for other, classes, ignored in ((changed, K, 255), (Streets(39), K, 255), (Streets(), 5, 255), (Streets(), 5, 7)):
        for labels in other.maps:
            labels[labels == 255] = ignored
        with pytest.warns(UserWarning, match=r"cache .* of other label maps .* counted anew"):
            counts = si.count_class_pixels(other, classes, ignore_index=ignored, cache=cache)
        assert torch.equal(counts, si.count_class_pixels(other, classes, ignore_index=ignored))
        assert torch.equal(counts, si.count_class_pixels(other, classes, ignore_index=ignored, cache=cache))


@pytest.mark.parametrize(
    "content", ["", "{", "[1, 2]", "{}", '{"ignore_index": 255, "class_pixels": "road"}', "[" * 9000]
)
def test_a_file_of_another_kind_is_kept_and_an_error(tmp_path: Path, content: str) -> None:
    cache = tmp_path / "labels.json"
    cache.write_text(content)
    with pytest.raises(ValueError, match="cache must be a file that count_class_pixels wrote"):
        si.count_class_pixels(Streets(), K, cache=cache)
    assert cache.read_text() == content
    with pytest.raises(ValueError, match="cache must be a file in a folder that exists"):
        si.count_class_pixels(Streets(), K, cache=tmp_path / "absent" / "counts.json")
    with pytest.raises(ValueError, match=r"cache must be a file that can be read, got .* \(Is a directory\)"):
        si.count_class_pixels(Streets(), K, cache=tmp_path)
    with pytest.raises(TypeError, match="cache must be the path of a file"):
        si.count_class_pixels(Streets(), K, cache=3)  # type: ignore[arg-type]


def test_counts_that_cannot_be_written_are_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.warns(UserWarning, match="could not be written"):
        counts = si.count_class_pixels(Streets(), K, cache=tmp_path / "class_pixels.json")
    assert counts.tolist() == counted_by_hand(Streets().maps)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ class weights


def weights_by_hand(counts: list[int], scheme: str, beta: float) -> list[float]:
    total, present = sum(counts), sum(n > 0 for n in counts)
    if scheme == "enet":
        return [1 / math.log(1.02 + n / total) if n else 0.0 for n in counts]
    if scheme == "inverse":
        return [total / (present * n) if n else 0.0 for n in counts]
    raw = [(1 - beta) / (1 - beta**n) if n else 0.0 for n in counts]
    return [present * w / sum(raw) for w in raw]


@pytest.mark.parametrize("scheme", ["enet", "inverse", "effective"])
@pytest.mark.parametrize("counts", [[5, 0, 1, 40_000], [1], [25_000 * 2_000_000, 3, 0, 77]])
def test_class_weights_equal_the_formula(counts: list[int], scheme: Any) -> None:
    for beta in (0.9999, 0.5):
        weights = si.class_weights(torch.tensor(counts), scheme, beta=beta)
        assert weights.tolist() == pytest.approx(weights_by_hand(counts, scheme, beta), rel=1e-5)
        by_image = torch.stack([torch.tensor(counts), torch.zeros(len(counts), dtype=torch.long)])
        torch.testing.assert_close(si.class_weights(by_image, scheme, beta=beta), weights)


@pytest.mark.parametrize("scheme", ["enet", "inverse", "effective"])
def test_without_a_pixel_all_weights_are_zero(scheme: Any) -> None:
    assert si.class_weights(torch.zeros(3, dtype=torch.int32), scheme).tolist() == [0, 0, 0]


def test_inverse_weights_have_a_mean_of_one_over_pixels() -> None:
    counts = torch.tensor([70, 0, 25, 5])
    assert (counts * si.class_weights(counts, "inverse")).sum().item() / 100 == pytest.approx(1)


# ------------------------------------------------------------------ sampling


def counts_of(images: int = 30) -> Tensor:
    """Shares of 60, 30, 9 and 1 percent; class 3 in every fifth image, with 10 pixels more in each next one."""
    counts = torch.tensor([[6000, 3000, 900, 0]]).repeat(images, 1)
    rare = torch.arange(images)[::5]
    counts[rare, 3] = 400 + 2 * rare
    return counts


def softmax_by_hand(counts: Tensor, temperature: float) -> list[float]:
    totals = [sum(row[k] for row in counts.tolist()) for k in range(counts.shape[1])]
    powers = [math.exp((1 - n / sum(totals)) / temperature) if n else 0.0 for n in totals]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_classes_are_drawn_by_the_softmax_and_images_uniformly(temperature: float) -> None:
    counts, draws = counts_of(), 100_000
    sampler = si.RareClassSampler(counts, temperature, min_pixels=440, num_samples=draws, with_class=True)
    expected = softmax_by_hand(counts, temperature)
    assert sampler.probabilities.tolist() == pytest.approx(expected, rel=1e-5)
    drawn = Counter(sampler)
    assert sum(drawn.values()) == len(sampler) == draws
    for k, p in enumerate(expected):
        images = [i for i in range(len(counts)) if counts[i, k] > 440]
        assert (not images) == (p == 0)
        of_class = {i: n for (i, c), n in drawn.items() if c == k}
        assert set(of_class) <= set(images)
        assert abs(sum(of_class.values()) - p * draws) <= 5 * math.sqrt(p * (1 - p) * draws) + 1e-9
        for i in images:
            q = p / len(images)
            assert abs(of_class.get(i, 0) - q * draws) <= 5 * math.sqrt(q * (1 - q) * draws) + 1e-9


def test_what_no_image_shows_enough_of_is_drawn_where_it_is() -> None:
    counts = torch.tensor([[50, 3, 0], [50, 0, 0], [50, 1, 0]])
    sampler = si.RareClassSampler(counts, 0.5, min_pixels=10, num_samples=1000, with_class=True)
    drawn = Counter(sampler)
    assert set(drawn) == {(0, 0), (1, 0), (2, 0), (0, 1), (2, 1)}
    assert abs(drawn[0, 1] - drawn[2, 1]) < 5 * math.sqrt(1000)
    assert sampler.probabilities[2] == 0
    with pytest.raises(ValueError, match="counts must hold a pixel"):
        si.RareClassSampler(torch.zeros(3, 2, dtype=torch.long))


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    def drawn(seed: int = 0, epoch: int = 0) -> list[Any]:
        sampler = si.RareClassSampler(counts_of(), 0.3, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert drawn() == drawn()
    assert len({tuple(each) for each in (drawn(), drawn(seed=1), drawn(epoch=1), drawn(1, 1))}) == 4
    sampler = si.RareClassSampler(counts_of(), 0.3)
    assert [list(sampler), list(sampler)] == [drawn(), drawn(epoch=1)]
    sampler.set_epoch(1)  # at its end: once more
    assert list(sampler) == drawn(epoch=1)


@pytest.mark.parametrize("position", [0, 1, 17, 29, 30])
def test_a_sampler_goes_on_at_its_position(position: int) -> None:
    sampler, whole = (si.RareClassSampler(counts_of(), 0.3, with_class=True) for _ in range(2))
    sampler.set_epoch(4)
    whole.set_epoch(4)
    draws = [*whole, *whole]
    iterator = iter(sampler)
    assert [next(iterator) for _ in range(position)] == draws[:position]
    saved = pickle.loads(pickle.dumps(sampler.state_dict()))
    other = si.RareClassSampler(counts_of(), 0.3, with_class=True)
    other.load_state_dict(saved)
    if position < 30:
        other.set_epoch(4)  # as a trainer's loop over epochs calls it: still the same epoch
    for each in (other, copy.deepcopy(sampler), sampler):
        rest = [*each, *each] if position < 30 else [*each]
        assert rest[: 60 - position] == draws[position:]


def test_ranks_draw_one_common_stream() -> None:
    counts = counts_of(31)
    alone = list(si.RareClassSampler(counts, 0.3, seed=5, num_samples=33))
    ranks = [si.RareClassSampler(counts, 0.3, seed=5, num_replicas=3, rank=rank) for rank in range(3)]
    assert [len(rank) for rank in ranks] == [11, 11, 11]  # 31 rounded up
    assert [image for step in zip(*ranks, strict=True) for image in step] == alone
    iterator = iter(ranks[1])
    ranks[1].set_epoch(0)
    for _ in range(4):
        next(iterator)
    state = ranks[1].state_dict()
    assert state == {"epoch": 0, "position": 12}
    for fewer, expected in ((1, alone[12:]), (2, alone[12::2])):
        other = si.RareClassSampler(counts, 0.3, seed=5, num_samples=33, num_replicas=fewer, rank=0)
        other.load_state_dict(state)
        assert list(other)[: len(expected)] == expected
    for fewer in (1, 2):  # its epoch has 31 draws, or 32
        other = si.RareClassSampler(counts, 0.3, seed=5, num_replicas=fewer, rank=0)
        other.load_state_dict(ranks[2].state_dict())
        assert len(list(other)) == len(other)
        assert other.epoch == 1


def test_an_epoch_that_is_set_while_it_draws_begins_immediately() -> None:
    sampler, expected = (si.RareClassSampler(counts_of(), 0.3) for _ in range(2))
    expected.set_epoch(3)
    iterator = iter(sampler)
    next(iterator)
    sampler.set_epoch(3)
    assert list(iterator) == list(expected)
    assert sampler.state_dict() == expected.state_dict()


def test_class_mix_gets_the_rare_class_more_often() -> None:
    streets = Streets(9)
    streets.maps = [labels[:5] for labels in streets.maps]  # of one size
    sampler = si.RareClassSampler(si.count_class_pixels(streets, K), min_pixels=0, seed=1)
    shown: list[int] = []
    for draws in (sampler, None):
        torch.manual_seed(0)
        pasted = 0
        for images, labels in DataLoader(streets, batch_size=3, sampler=draws):
            mixed = si.class_mix(images, labels, images, torch.zeros_like(labels))
            pasted += int((mixed.labels == 2).any((1, 2)).sum())
        shown.append(pasted)
    assert shown[0] > 3
    assert shown[1] <= 1
