"""Every backend gives the oracle's numbers, bit for bit, on every map of the gallery."""

from __future__ import annotations

import functools
import importlib
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si
from stuffinstance.regions.backends import numba_runs
from stuffinstance.regions.class_lookup import class_positions, find_runs, searched_positions
from tests import oracles
from tests.label_maps import GALLERY, IGNORE, INTEGER_DTYPES, blocks, noise, street, with_extremes

BACKENDS = ("reference", "torch", "skimage", "numba")


def expected_numbers(
    labels: Tensor,
    connectivity: int = 8,
    classes: tuple[int, ...] | None = None,
    ignore: int | None = IGNORE,
) -> Tensor:
    numbers = np.zeros(tuple(labels.shape), dtype=np.int32)
    for image, out in zip(labels.numpy(), numbers, strict=True):
        out[:] = oracles.components(image, connectivity, classes, ignore)
    return torch.from_numpy(numbers)


@functools.cache
def gallery_numbers(name: str, connectivity: int) -> Tensor:
    return expected_numbers(GALLERY[name], connectivity)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("name", GALLERY)
def test_numbers_equal_the_oracles(name: str, connectivity: int, backend: str) -> None:
    numbers = si.connected_components(GALLERY[name], connectivity=connectivity, backend=backend)
    assert numbers.dtype == torch.int32
    assert torch.equal(numbers, gallery_numbers(name, connectivity))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(30))
def test_numbers_equal_the_oracles_on_random_maps(seed: int, backend: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    height, width, batch = (int(torch.randint(1, n, (), generator=generator)) for n in (20, 24, 4))
    ids = ((0, 1, IGNORE), (3, IGNORE), tuple(range(5)))[seed % 3]
    connectivity = (4, 8)[seed // 3 % 2]
    draw = blocks if seed % 2 else noise
    labels = draw(height, width, ids, seed, batch=batch)
    numbers = si.connected_components(labels, connectivity=connectivity, backend=backend)
    assert torch.equal(numbers, expected_numbers(labels, connectivity))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("classes", [(0,), (13, 5), (5, 13, 11, 200), (), tuple(range(19))])
def test_only_the_classes_asked_for_are_numbered(classes: tuple[int, ...], backend: str) -> None:
    labels = GALLERY["street"]
    numbers = si.connected_components(labels, classes=classes, backend=backend)
    assert torch.equal(numbers, expected_numbers(labels, 8, classes))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("ids", "ignore"), [
    ((0, 1, 2), 0),
    ((0, 1, 255), 1),
    ((0, 1, 255), -1),
    ((-7, -1, 0, 3), -1),
    ((-7, -1, 0, 3), 255),
    ((2**31 - 1, 0, -(2**31), 5), 5),
    ((2**40, 2**40 + 1, 2**40 + 2**32, -(2**62)), 2**40 + 1),
])  # fmt: skip
def test_any_ids_and_any_ignored_id(ids: tuple[int, ...], ignore: int, backend: str) -> None:
    labels = blocks(13, 17, ids, seed=3, batch=2)
    numbers = si.connected_components(labels, ignore_index=ignore, backend=backend)
    assert torch.equal(numbers, expected_numbers(labels, ignore=ignore))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_any_integer_type(dtype: torch.dtype, backend: str) -> None:
    ignore = -1 if dtype == torch.int8 else 255  # int8 has no 255
    labels = blocks(14, 19, (0, 1, 100, ignore), seed=4)
    numbers = si.connected_components(labels.to(dtype), ignore_index=ignore, backend=backend)
    assert torch.equal(numbers, expected_numbers(labels, ignore=ignore))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_the_ends_of_an_integer_type_are_ids_like_others(dtype: torch.dtype, backend: str) -> None:
    labels = with_extremes(dtype)
    numbers = si.connected_components(labels, classes=(1, 2), ignore_index=None, backend=backend)
    assert torch.equal(numbers, expected_numbers(labels, classes=(1, 2), ignore=None))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_byte_is_a_class_where_none_is_ignored(backend: str) -> None:
    """Moving ids by one must not wrap around in eight bits."""
    labels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    numbers = si.connected_components(labels, ignore_index=-1, backend=backend)
    assert torch.equal(numbers.flatten(), torch.arange(1, 257, dtype=torch.int32))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ignore", [0, 1, 7])
@pytest.mark.parametrize("batch", [1, 3])
def test_bytes_that_a_library_could_take_as_they_are(batch: int, ignore: int, backend: str) -> None:
    labels = blocks(11, 15, (0, 1, 7), seed=5, batch=batch)
    numbers = si.connected_components(labels.to(torch.uint8), ignore_index=ignore, backend=backend)
    assert torch.equal(numbers, expected_numbers(labels, ignore=ignore))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [255, 256, 300, 66_000])
def test_more_classes_than_fit_in_one_byte_or_two(count: int, backend: str) -> None:
    labels = (torch.arange(12 * 13) * (count // 150) % count).view(1, 12, 13)
    classes = tuple(range(count))
    for chosen in (None, classes, classes[::-1]):
        numbers = si.connected_components(labels, classes=chosen, ignore_index=None, backend=backend)
        assert torch.equal(numbers, expected_numbers(labels, ignore=-1))


@pytest.mark.parametrize(
    "classes", [(), (0, 5), (5, 0, 65_535), (65_536, 5), (-1, 5), (2**62, 0), (-(2**63), 2**63 - 1)]
)
def test_positions_of_the_rarest_ids(classes: tuple[int, ...]) -> None:
    ids = [0, 1, 5, 6, -1, -2, 2**8, 2**16 - 1, 2**16, 2**32, 2**32 + 5, 2**62, 2**63 - 1, -(2**63), 5, 5, 0]
    labels = torch.tensor(ids)[None, None]
    expected = [classes.index(i) if i in classes else -1 for i in ids]
    for look_up in (class_positions, searched_positions):
        assert look_up(labels, classes).flatten().tolist() == expected
        assert look_up(labels[:, :, :0], classes).shape == (1, 1, 0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (4, 7), (13, 30)])
@pytest.mark.parametrize("values", [1, 2, 40])
def test_runs_are_as_long_as_the_values_stay_the_same(shape: tuple[int, int], values: int) -> None:
    rows = np.random.default_rng(values).integers(0, values, shape).astype(np.uint8)
    expected = []
    for y, row in enumerate(rows.tolist()):
        for value, group in itertools.groupby(enumerate(row), key=lambda item: item[1]):
            places = [x for x, _ in group]
            expected.append((y * shape[1] + places[0], len(places), value))
    assert list(zip(*(column.tolist() for column in find_runs(rows)), strict=True)) == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("view", ["transposed", "strided", "flipped", "expanded"])
def test_labels_need_not_be_contiguous(view: str, backend: str) -> None:
    labels = GALLERY["blocks"]
    seen = {
        "transposed": labels.transpose(1, 2),
        "strided": labels[::2, 1::2, ::3],
        "flipped": labels.flip(2),
        "expanded": labels[:1].expand(3, -1, -1),
    }[view]
    kept = seen.clone()
    assert torch.equal(si.connected_components(seen, backend=backend), expected_numbers(seen.contiguous()))
    assert torch.equal(seen, kept)
    numbers = si.connected_components(seen[:1].to(torch.uint8), ignore_index=0, backend=backend)
    assert torch.equal(numbers, expected_numbers(seen[:1].contiguous(), ignore=0))
    assert numbers.is_contiguous()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_images_without_pixels_have_no_regions(size: tuple[int, int], backend: str) -> None:
    labels = torch.zeros((2, *size), dtype=torch.int64)
    assert si.connected_components(labels, backend=backend).shape == labels.shape


def test_fast_backends_agree_on_a_real_size() -> None:
    labels = torch.cat([street(90, 160, 9, batch=2), blocks(90, 160, (0, 1, 13, IGNORE), 10)])
    one, other, third = (si.connected_components(labels, backend=backend) for backend in ("torch", "skimage", "numba"))
    assert torch.equal(one, other)
    assert torch.equal(one, third)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("threads", [2, 3, 50])
@pytest.mark.parametrize("name", GALLERY)
def test_threads_share_an_image_in_strips(
    monkeypatch: pytest.MonkeyPatch, name: str, threads: int, connectivity: int
) -> None:
    monkeypatch.setattr(numba_runs, "_THREADED_PIXELS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for image in GALLERY[name]:
        numbers = si.connected_components(image[None], connectivity=connectivity, backend="numba")
        assert torch.equal(numbers, expected_numbers(image[None], connectivity))
    numbers = si.connected_components(GALLERY[name], connectivity=connectivity, backend="numba")
    assert torch.equal(numbers, gallery_numbers(name, connectivity))


LABELS = torch.zeros(1, 4, 4, dtype=torch.int64)


def test_an_unusable_backend_is_an_error_not_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(si.BackendUnavailableError, match=r"triton.*labels are on cpu"):
        si.connected_components(LABELS, backend="triton")


def test_the_regions_of_a_mask_are_those_of_its_true_pixels() -> None:
    """0 and 1 as a label map are two classes; a mask has a background (README of scikit-image's ``label``)."""
    mask = torch.tensor([[[False, True, True, False, True]]])
    expected = torch.tensor([[[0, 1, 1, 0, 2]]], dtype=torch.int32)
    for options in ({}, {"classes": (1,)}, {"ignore_index": None}, {"backend": "torch"}, {"backend": "reference"}):
        assert torch.equal(si.connected_components(mask, **options), expected)
    assert torch.equal(si.connected_components(mask.transpose(1, 2)), expected.transpose(1, 2))
    assert si.connected_components(mask, classes=()).sum() == 0
    assert si.connected_components(mask.to("meta")).shape == mask.shape


@pytest.mark.parametrize("backend", ["torch", "skimage", "numba"])
@pytest.mark.parametrize("classes", [None, [0, 13]])
def test_the_operator_keeps_torchs_rules(backend: str, classes: list[int] | None) -> None:
    operator = torch.ops.stuffinstance.connected_components.default
    torch.library.opcheck(operator, (GALLERY["street"][:, ::3, ::3].contiguous(), classes, 8, IGNORE, backend))


def test_more_pixels_than_int32_counts_are_an_error_also_of_all_samples_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("stuffinstance.regions.connected_components")  # its name is the function's too
    monkeypatch.setattr(module, "_INT32_PIXELS", 3 * 13 * 17)
    labels = blocks(13, 17, (0, 1), seed=0, batch=3)
    calls = [
        si.connected_components,
        lambda ids: si.stuff_regions(ids, (0, 1)),
        lambda ids: si.instance_regions(ids, (0, 1)),
    ]
    for call in calls:
        call(labels[:2])
        with pytest.raises(ValueError, match="labels must hold fewer than 2"):
            call(labels)
        with pytest.raises(ValueError, match="labels must hold fewer than 2"):
            torch.func.vmap(lambda ids, call=call: tuple(call(ids[None])))(labels)


def test_more_rows_than_int32_counts_are_an_error() -> None:
    with pytest.raises(ValueError, match="max_regions must leave fewer than 2"):
        si.instance_regions(blocks(5, 6, (0, 1), seed=0), range(2**15), 2**16, ignore_index=None)
