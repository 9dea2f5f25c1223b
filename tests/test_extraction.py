"""The largest regions per class: which, in what order, and where they lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si
from stuffinstance.regions import cpu_table as by_runs
from stuffinstance.regions import device_table as by_pixels
from stuffinstance.regions.backends import BACKENDS as TABLE
from tests import oracles
from tests.label_maps import GALLERY, IGNORE, INTEGER_DTYPES, blocks, noise, with_extremes

BACKENDS = ("reference", "torch", "skimage", "numba")
THINGS = (5, 6, 7, 11, 12, 13, 18)


def check_against_oracle(labels: Tensor, classes: tuple[int, ...], most: int, **options: object) -> None:
    regions = si.instance_regions(labels, classes, most, **options)
    batch, slots = labels.shape[0], len(classes)
    assert regions.region_map.shape == labels.shape
    assert regions.region_map.dtype == regions.ids.dtype == torch.int32
    assert regions.area.dtype == torch.int64
    assert regions.valid.dtype == torch.bool
    for table in (regions.ids, regions.area, regions.valid):
        assert table.shape == (batch, slots, most)
    rule = {k: v for k, v in options.items() if k == "connectivity"}
    ignore = options.get("ignore_index", IGNORE)
    for b in range(batch):
        expected_map = np.zeros(labels.shape[1:], dtype=np.int32)
        found = oracles.largest_regions(labels[b].numpy(), classes, most, ignore=ignore, **rule)
        for slot, of_class in enumerate(found):
            for rank, region in enumerate(of_class):
                expected_map[region.mask] = 1 + slot * most + rank
            padding = [0] * (most - len(of_class))
            assert regions.ids[b, slot].tolist() == [r.number for r in of_class] + padding
            assert regions.area[b, slot].tolist() == [r.area for r in of_class] + padding
            assert regions.valid[b, slot].tolist() == [True] * len(of_class) + [False] * len(padding)
        np.testing.assert_array_equal(regions.region_map[b].numpy(), expected_map)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("name", GALLERY)
def test_regions_equal_the_oracles(name: str, connectivity: int) -> None:
    classes = (0, 1, 13, 5, 2, 6, 3)
    check_against_oracle(GALLERY[name], classes, 3, connectivity=connectivity)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("most", [1, 2, 10, 300])
def test_regions_equal_the_oracles_for_any_number_of_them(most: int, backend: str) -> None:
    check_against_oracle(GALLERY["street"], THINGS, most, backend=backend)
    check_against_oracle(noise(9, 12, (5, 13, 0), 1, batch=2), THINGS, most, backend=backend)


@pytest.mark.parametrize("seed", range(20))
def test_regions_equal_the_oracles_on_random_maps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 18, 2))
    labels = blocks(height, width, (0, 5, 13, 6, IGNORE), seed, batch=int(rng.integers(1, 4)), cell=2)
    classes = tuple(rng.permutation([5, 6, 13, 18]).tolist()[: int(rng.integers(1, 5))])
    check_against_oracle(labels, classes, int(rng.integers(1, 5)))


def test_equal_areas_come_in_raster_order() -> None:
    labels = torch.tensor([[[5, 0, 5, 0, 5], [0, 0, 0, 0, 5], [5, 0, 5, 0, 0]]])
    regions = si.instance_regions(labels, (5,), 3)
    assert regions.ids.tolist() == [[[3, 1, 2]]]
    assert regions.area.tolist() == [[[2, 1, 1]]]


def test_touching_regions_of_two_classes_stay_apart() -> None:
    labels = torch.tensor([[[5, 6], [6, 5]]])
    regions = si.instance_regions(labels, (6, 5), 2)
    assert regions.area.tolist() == [[[2, 0], [2, 0]]]
    assert regions.region_map.tolist() == [[[3, 1], [1, 3]]]
    assert si.instance_regions(labels, (6, 5), 2, connectivity=4).area.tolist() == [[[1, 1], [1, 1]]]


def test_an_id_is_not_both_asked_for_and_ignored() -> None:
    labels = torch.tensor([[[255, 5, 0]]])
    with pytest.raises(ValueError, match=r"ignore_index must not be one of classes = \(5, 255\), got 255"):
        si.instance_regions(labels, (5, 255), 2)
    assert si.instance_regions(labels, (5, 255), 2, ignore_index=None).area.tolist() == [[[1, 0], [1, 0]]]
    check_against_oracle(labels, (5,), 2, ignore_index=0)


def test_a_mask_has_one_class_and_a_background() -> None:
    mask = torch.tensor([[[False, True, True, False, True]]])
    regions = si.instance_regions(mask, (1,), max_regions=2)
    assert regions.region_map.tolist() == [[[0, 1, 1, 0, 2]]]
    assert regions.area.tolist() == [[[2, 1]]]
    assert si.stuff_regions(mask, (1,)).area.tolist() == [[[3]]]
    for find in (si.stuff_regions, si.instance_regions):
        with pytest.raises(ValueError, match=r"classes must be \(1,\) where labels are a bool mask"):
            find(mask, (0,))


@pytest.mark.parametrize("dtype", [dtype for dtype in INTEGER_DTYPES if dtype != torch.int8])
def test_any_integer_type(dtype: torch.dtype) -> None:
    labels = GALLERY["street"]
    for find in (lambda ids: si.instance_regions(ids, THINGS, 4), lambda ids: si.stuff_regions(ids, THINGS)):
        for one, other in zip(find(labels.to(dtype)), find(labels), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_the_ends_of_an_integer_type_are_ids_like_others(dtype: torch.dtype, backend: str) -> None:
    check_against_oracle(with_extremes(dtype), (1, 2), 3, ignore_index=None, backend=backend)


@pytest.mark.parametrize("ids", [(-7, -1, 3), (2**31 - 1, 0, -(2**31)), (2**40, 2**40 + 2**32, -(2**62))])
def test_any_ids_and_any_ignored_id(ids: tuple[int, ...]) -> None:
    labels = blocks(13, 17, ids, seed=3, batch=2)
    check_against_oracle(labels, ids, 3, ignore_index=255)
    for ignore in ids:
        check_against_oracle(labels, tuple(k for k in ids if k != ignore), 3, ignore_index=ignore)
    assert si.stuff_regions(labels, ids).area[:, :, 0].tolist() == [
        [int((image == k).sum()) for k in ids] for image in labels
    ]


def test_more_classes_than_fit_in_one_byte() -> None:
    check_against_oracle(torch.arange(299, -1, -1).view(2, 10, 15) // 2 * 2, tuple(range(300)), 2, ignore_index=None)


@pytest.mark.parametrize("classes", [(0, 1, 13, 5, 2, 6, 3), (5,), ()])
@pytest.mark.parametrize("name", [name for name in GALLERY if GALLERY[name].numel()])
def test_every_form_of_the_tables_gives_the_same(name: str, classes: tuple[int, ...]) -> None:
    """By runs, compiled or in numpy, and the form that reads nothing back, taken on a CPU."""
    labels = GALLERY[name]
    stuff = si.stuff_regions(labels, classes)
    for form in (by_pixels, by_runs):
        region_map, area = form.class_areas(labels, classes)
        assert torch.equal(region_map, stuff.region_map)
        assert torch.equal(area[:, :, None], stuff.area)
    for most in (1, 3, 500):
        things = si.instance_regions(labels, classes, most)
        components = si.connected_components(labels, classes=classes)
        found = by_pixels.largest_regions(labels, components, classes, most)
        for one, other in zip(found, things[:3], strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize(("stuff", "things"), [((0, 2, 5), (7, 6, 13)), ((), THINGS), ((9, 0), ()), ((), ())])
@pytest.mark.parametrize("name", GALLERY)
def test_stuff_and_instances_together_equal_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, name: str, stuff: tuple[int, ...], things: tuple[int, ...], connectivity: int
) -> None:
    labels = GALLERY[name].long()
    first = si.stuff_regions(labels, stuff)
    second = si.instance_regions(labels, things, 3, connectivity=connectivity, ignore_index=None)
    joined = torch.where(second.region_map > 0, second.region_map + first.num_rows, first.region_map)
    expected = joined, first.area, second.area
    components = si.connected_components(labels, classes=things, connectivity=connectivity, ignore_index=None)
    operator = torch.ops.stuffinstance.stuff_and_instance_regions
    compiled = operator(labels, list(stuff), list(things), 3, connectivity)
    monkeypatch.setitem(TABLE, "numba", TABLE["skimage"])
    for found in (
        compiled,
        operator(labels, list(stuff), list(things), 3, connectivity),
        by_pixels.stuff_and_largest_regions(labels, components, stuff, things, 3),
    ):
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def test_stuff_and_instances_together_keep_torchs_rules() -> None:
    for labels in (GALLERY["street"].long(), torch.zeros(0, 4, 5, dtype=torch.int64)):
        torch.library.opcheck(torch.ops.stuffinstance.stuff_and_instance_regions, (labels, [0, 2], [7, 6], 3, 8))


def test_strided_labels_keep_torchs_rules() -> None:
    labels = torch.randint(0, 19, (2, 12, 24))[:, ::2, ::3].transpose(1, 2)
    torch.library.opcheck(torch.ops.stuffinstance.class_positions, (labels, [3, 1, 7]))
    assert torch.equal(
        si.stuff_regions(labels, (3, 1)).region_map, si.stuff_regions(labels.contiguous(), (3, 1)).region_map
    )


def test_no_classes_give_no_regions() -> None:
    regions = si.instance_regions(GALLERY["street"], (), 4)
    assert regions.area.shape == (2, 0, 4)
    assert not regions.region_map.any()


def test_stuff_is_one_region_per_class() -> None:
    labels, classes = GALLERY["street"], (10, 2, 0, 9)
    regions = si.stuff_regions(labels, classes)
    assert regions.area.shape == (2, 4, 1)
    for b, image in enumerate(labels):
        for slot, k in enumerate(classes):
            assert int(regions.area[b, slot, 0]) == int((image == k).sum())
            assert bool(regions.valid[b, slot, 0]) == bool((image == k).any())
            assert torch.equal(regions.region_map[b] == slot + 1, image == k)
    assert torch.equal(regions.region_map > 0, sum(labels == k for k in classes) > 0)


@pytest.mark.parametrize("name", ["street", "all-ignored", "one-pixel", "empty-batch"])
def test_the_operators_keep_torchs_rules(name: str) -> None:
    labels, things = GALLERY[name], list(THINGS)
    torch.library.opcheck(torch.ops.stuffinstance.instance_regions.default, (labels, things, 3, 8, IGNORE, "auto"))
    torch.library.opcheck(torch.ops.stuffinstance.class_areas.default, (labels, things))
