"""Means of regions: values, gradients, number formats and memory layouts."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import stuffinstance as si
from stuffinstance.pooling.backends import numba_sums, torch_sums
from tests import oracles
from tests.label_maps import GALLERY


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made within held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.holders: Counter[int] = Counter()  # tensors by the address of their memory
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in (t for t in tree_leaves(made) if isinstance(t, Tensor)):
            memory = tensor.untyped_storage()
            if memory.data_ptr() in given and memory.data_ptr() not in self.sizes:
                continue  # a view of what was there before
            self.sizes[memory.data_ptr()] = memory.nbytes()
            self.holders[memory.data_ptr()] += 1
            weakref.finalize(tensor, self.release, memory.data_ptr())
        self.peak = max(self.peak, sum(self.sizes.values()))
        return made

    def release(self, address: int) -> None:
        self.holders[address] -= 1
        if not self.holders[address]:
            self.sizes.pop(address, None)


def features_and_map(
    batch: int = 2, dim: int = 5, height: int = 9, width: int = 13, count: int = 6
) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, dim, height, width), torch.randint(count + 1, (batch, height, width))


def oracle_rows(features: Tensor, regions: Tensor, count: int) -> Tensor:
    images = zip(features.double().numpy(), regions.numpy(), strict=True)
    return torch.from_numpy(np.stack([oracles.region_means(f, r, count) for f, r in images]))


@pytest.fixture(params=["numba", "added_sums", "multiplied_sums", "triton"])
def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """Compiled runs, pixels added up, a product as on a GPU, and the Triton kernel, on a card if there is one."""
    if request.param == "numba":
        return partial(si.region_mean, backend="numba")
    if request.param != "triton":
        monkeypatch.setattr(torch_sums, "added_sums", getattr(torch_sums, request.param))
        return partial(si.region_mean, backend="torch")
    pytest.importorskip("triton", minversion="3.4", reason="its interpreter runs these kernels from Triton 3.4 on")
    from tests.triton_accesses import check_accesses

    check_accesses(monkeypatch)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return lambda features, regions, count: si.region_mean(
        features.to(device), regions.to(device), count, backend="triton"
    ).cpu()


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (9, 13), (16, 16)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_means_equal_the_oracles(pool: Callable[..., Tensor], size: tuple[int, int], dtype: torch.dtype) -> None:
    features, regions = features_and_map(3, 4, *size, count=7)
    rows = pool(features, regions.to(dtype), 9)
    assert rows.shape == (3, 9, 4)
    torch.testing.assert_close(rows.double(), oracle_rows(features, regions, 9), atol=1e-6, rtol=1e-6)


def test_regions_may_be_given_as_found() -> None:
    labels = GALLERY["street"]
    features = torch.randn(labels.shape[0], 6, *labels.shape[1:])
    for regions in (si.instance_regions(labels, (13, 5, 11), 4), si.stuff_regions(labels, (0, 2, 10, 9))):
        rows = si.region_mean(features, regions)
        count = regions.valid.shape[1] * regions.valid.shape[2]
        expected = oracle_rows(features, regions.region_map, count)
        torch.testing.assert_close(rows.double(), expected, atol=1e-6, rtol=1e-6)
        assert torch.equal(rows.abs().sum(2) > 0, regions.valid.flatten(1))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_regions_are_counted_in_dtypes_that_torch_has_no_maximum_of(dtype: torch.dtype) -> None:
    features, regions = features_and_map()
    assert torch.equal(si.region_mean(features, regions.to(dtype)), si.region_mean(features, regions))


def test_empty_regions_are_zero_and_have_a_zero_gradient(pool: Callable[..., Tensor]) -> None:
    features = torch.randn(1, 3, 4, 4, requires_grad=True)
    rows = pool(features, torch.zeros(1, 4, 4, dtype=torch.int32), 2)
    assert torch.equal(rows, torch.zeros(1, 2, 3))
    assert pool(features[:0], torch.zeros(0, 4, 4, dtype=torch.int32), 3).shape == (0, 3, 3)
    assert pool(features, torch.zeros(1, 4, 4, dtype=torch.int32), 0).shape == (1, 0, 3)
    (gradient,) = torch.autograd.grad(rows.sum(), features)
    assert torch.equal(gradient, torch.zeros_like(features))


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "expanded", "sliced"])
def test_any_memory_layout(pool: Callable[..., Tensor], layout: str) -> None:
    features, regions = features_and_map(2, 4, 8, 10)
    seen = {
        "channels_last": features.contiguous(memory_format=torch.channels_last),
        "transposed": torch.randn(2, 4, 10, 8).transpose(2, 3),
        "strided": torch.randn(2, 8, 16, 20)[:, ::2, ::2, ::2],
        "expanded": features[:, :1].expand(-1, 4, -1, -1),
        "sliced": torch.randn(3, 5, 9, 11)[1:, 1:, 1:, 1:],
    }[layout]
    torch.testing.assert_close(pool(seen, regions, 6), pool(seen.clone().contiguous(), regions, 6))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(pool: Callable[..., Tensor], dtype: torch.dtype) -> None:
    features = (torch.randn(1, 3, 60, 80) + 1).to(dtype)
    regions = torch.randint(3, (1, 60, 80))
    rows = pool(features, regions, 2)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.double(), oracle_rows(features.float(), regions, 2), atol=1e-6, rtol=1e-5)


def test_double_precision_is_kept(pool: Callable[..., Tensor]) -> None:
    features, regions = features_and_map()
    rows = pool(features.double(), regions, 6)
    assert rows.dtype == torch.float64
    torch.testing.assert_close(rows, oracle_rows(features, regions, 6), atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("add", [numba_sums.region_sums, torch_sums.added_sums, torch_sums.multiplied_sums])
def test_a_large_region_keeps_its_digits_in_every_layout(
    add: Callable[..., Tensor], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    """Features that vary by a hundredth of their size, in two images, beside small regions."""
    features = (1000.3 + 10 * torch.rand(2, 3, 90, 160)).to(dtype).contiguous(memory_format=layout)
    regions = torch.ones(2, 90, 160, dtype=torch.int64)
    regions[:, :9, ::7] = torch.arange(2, 11)[:, None]
    sums = add(features, regions.flatten(1), 12)
    means = sums / torch.nn.functional.one_hot(regions.flatten(1), 13).sum(1)[:, None, 1:].clamp(min=1)
    torch.testing.assert_close(means.transpose(1, 2).double(), oracle_rows(features, regions, 12), atol=0, rtol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", [numba_sums, torch_sums])
def test_blocks_of_channels_and_of_pixels(
    monkeypatch: pytest.MonkeyPatch, backend: ModuleType, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    """Sizes that no block divides, in blocks of one channel or pixel up to a single block."""
    features, regions = features_and_map(3, 7, 9, 13, count=5)
    features = features.to(dtype).contiguous(memory_format=layout)
    expected = oracle_rows(features, regions, 6)
    for values in (1, 117 * 3 * 2, 117 * 3 * 5, 2**19):
        monkeypatch.setattr(backend, "BLOCK_VALUES", values)
        sums = backend.region_sums(features, regions.flatten(1), 6)
        means = sums / torch.nn.functional.one_hot(regions.flatten(1), 7).sum(1)[:, None, 1:].clamp(min=1)
        torch.testing.assert_close(means.transpose(1, 2).double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [30, 8192])
def test_beside_the_result_no_more_memory_than_the_features(
    count: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    features = torch.randn(1, 1024, 64, 128).to(dtype).contiguous(memory_format=layout)
    number = torch.arange(8192).view(1, -1) % count + 1
    with PeakMemory() as memory:
        sums = torch_sums.added_sums(features, number, count)
    beside = memory.peak - sums.untyped_storage().nbytes()
    blocks = 5 * 4 * torch_sums.BLOCK_VALUES  # what is converted, added up and handed over at a time
    assert 0 < beside <= blocks + (4 * features.numel() if layout == torch.channels_last else 0)
    if count == 8192:
        assert torch.equal(sums, features.flatten(2).float())


def test_the_product_takes_three_times_the_features_at_most() -> None:
    """The copy, masks of as many numbers for up to D regions at a time, and the same masks as ground truth values."""
    features, number = torch.randn(1, 256, 32, 64), torch.arange(1, 2049).view(1, -1)
    with PeakMemory() as memory:
        sums = torch_sums.multiplied_sums(features, number, 2048)
    assert memory.peak - sums.untyped_storage().nbytes() <= 3 * features.untyped_storage().nbytes()
    torch.testing.assert_close(sums, features.flatten(2))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_what_is_not_finite_stays_in_its_region_and_channel(
    backend: str, layout: torch.memory_format, dtype: torch.dtype, value: float
) -> None:
    features, regions = features_and_map()
    features = features.to(dtype)
    mean = partial(si.region_mean, backend=backend)
    clean = mean(features, regions, 6)
    features[1, 3, 4, 5] = value
    regions[1, 4, 5] = 2
    clean[1] = mean(features.nan_to_num(0, 0, 0)[1:], regions[1:], 6)[0]
    rows = mean(features.contiguous(memory_format=layout), regions, 6)
    broken = ~rows.isfinite()
    assert broken.nonzero().tolist() == [[1, 1, 3]]
    torch.testing.assert_close(rows[~broken], clean[~broken])


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_the_same_bits_in_every_run(backend: str) -> None:
    features, regions = features_and_map(2, 33, 40, 50)
    for seen in (features, features.contiguous(memory_format=torch.channels_last)):
        first = si.region_mean(seen, regions, backend=backend)
        assert all(torch.equal(si.region_mean(seen, regions, backend=backend), first) for _ in range(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 7, 33])
def test_threads_change_no_bit(
    monkeypatch: pytest.MonkeyPatch, channels: int, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    features, regions = features_and_map(3, channels, 9, 40)
    features = features.to(dtype).contiguous(memory_format=layout).requires_grad_()

    def found() -> tuple[Tensor, Tensor]:
        means = si.region_mean(features, regions, 6, backend="numba")
        return means, torch.autograd.grad(means, features, torch.ones_like(means))[0]

    alone = found()
    monkeypatch.setattr(numba_sums, "_THREADED_VALUES", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert all(torch.equal(one, other) for one, other in zip(alone, found(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [1, 3, 4, 9])
def test_the_compiled_gradient_is_torchs(channels: int, dtype: torch.dtype) -> None:
    features, regions = features_and_map(2, channels, 9, 13)
    features = features.to(dtype).requires_grad_()
    slope = torch.randn(2, 8, channels, dtype=torch.promote_types(dtype, torch.float32))
    one, other = (
        torch.autograd.grad(si.region_mean(features, regions, 8, backend=backend), features, slope)[0]
        for backend in ("numba", "torch")
    )
    assert one.dtype == dtype
    assert torch.equal(one, other)


def test_a_number_that_no_row_has_is_an_error_where_values_are_not_checked() -> None:
    for wrong in (-1, 7):
        with pytest.raises(IndexError, match=r"region numbers must be 0 \(none\) and 1\.\.R"):
            torch.ops.stuffinstance.region_sums(torch.ones(1, 2, 1, 3), torch.tensor([[0, 1, wrong]]), 6, "numba")


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_lies_as_the_features_do(layout: torch.memory_format, backend: str) -> None:
    features, regions = features_and_map(2, 3, 4, 5, count=4)
    features = features.double().contiguous(memory_format=layout).requires_grad_()
    slope = torch.randn(2, 5, 3, dtype=torch.float64)
    mean = partial(si.region_mean, backend=backend)
    (gradient,) = torch.autograd.grad(mean(features, regions, 5), features, slope)
    assert gradient.is_contiguous(memory_format=layout)
    area = torch.nn.functional.one_hot(regions, 6).sum((1, 2)).clamp(min=1)
    table = torch.cat([torch.zeros(2, 1, 3, dtype=torch.float64), slope], 1) / area[:, :, None]
    expected = torch.stack([rows[ids] for rows, ids in zip(table, regions, strict=True)]).permute(0, 3, 1, 2)
    torch.testing.assert_close(gradient, expected)
    assert torch.autograd.gradcheck(lambda f: mean(f, regions, 5), (features,))
    assert torch.autograd.gradgradcheck(lambda f: mean(f, regions, 5).square(), (features,))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_the_operator_keeps_torchs_rules(backend: str, layout: torch.memory_format, dtype: torch.dtype) -> None:
    features, regions = features_and_map()
    features = features.to(dtype).contiguous(memory_format=layout).requires_grad_()
    torch.library.opcheck(torch.ops.stuffinstance.region_sums, (features, regions.flatten(1), 6, backend))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_does_not_reach_the_sums(pool: Callable[..., Tensor], dtype: torch.dtype) -> None:
    features = torch.full((1, 2, 64, 128), 12.0)  # the sum over a region is beyond what fp16 holds
    with torch.autocast("cpu", dtype):
        rows = pool(features.to(dtype), torch.ones(1, 64, 128, dtype=torch.int64), 1)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, torch.full((1, 1, 2), 12.0))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_pixel_spoils_its_own_region_alone(pool: Callable[..., Tensor], value: float) -> None:
    features = torch.ones(1, 1, 2, 3)
    features[0, 0, 0, 0] = value
    regions = torch.tensor([[[1, 1, 2], [2, 3, 0]]])
    rows = pool(features, regions, 3)[0, :, 0]
    assert not rows[0].isfinite()
    assert rows[1:].tolist() == [1.0, 1.0]
    regions[0, 0, 0] = 0
    assert pool(features, regions, 3).isfinite().all()


FEATURES, REGIONS = torch.randn(2, 3, 4, 5), torch.ones(2, 4, 5, dtype=torch.int64)


def test_a_mask_is_one_region() -> None:
    expected = si.region_mean(FEATURES, (REGIONS == 1).long(), 1)
    assert torch.equal(si.region_mean(FEATURES, REGIONS == 1), expected)
    assert si.region_mean(FEATURES, torch.zeros_like(REGIONS, dtype=torch.bool)).shape == (2, 1, FEATURES.shape[1])
