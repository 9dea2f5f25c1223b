"""The Triton kernels number and add up regions as every other backend does: interpreted on a CPU, on the card if any.

In the interpreter programs run one after another, so no race can show there: tests/test_kernel_interleavings.py is for
those. The compiled kernels are looked at too: they must build for a GPU that is not here, and the programs that spin
must hold no barrier.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si
from stuffinstance._backends import PREFERRED_ON_GPU, BackendUnavailableError, resolve
from stuffinstance.pooling.backends import BACKENDS as POOLING
from stuffinstance.regions.backends import BACKENDS
from tests import oracles
from tests.label_maps import GALLERY, IGNORE, noise, snake, spiral

if TYPE_CHECKING:
    from tests.triton_accesses import CheckedMemory

pytest.importorskip("triton", minversion="3.4", reason="its interpreter runs these kernels from Triton 3.4 on")

ROOT = Path(__file__).parent.parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# With 4 neighbors where that numbers a map differently.
SMALL = [
    (name, connectivity)
    for name, labels in GALLERY.items()
    for connectivity in (8, 4)
    if labels.numel() <= 700
    and (connectivity == 8 or not torch.equal(*(si.connected_components(labels, connectivity=c) for c in (4, 8))))
]
# Around a warp, a row step and a block of pixels.
EDGES = [*((h, w) for h in (1, 2) for w in (1, 2, 31, 32, 33)), *((2, w) for w in (255, 256, 257, 511, 512, 513))]


@pytest.fixture(autouse=True)
def accesses(monkeypatch: pytest.MonkeyPatch) -> CheckedMemory:
    """No interpreted kernel reads or writes beside its tensors; for a card there is compute-sanitizer."""
    from tests.triton_accesses import check_accesses

    return check_accesses(monkeypatch)


def test_an_address_beside_the_tensors_is_found(accesses: CheckedMemory) -> None:
    from tests.triton_accesses import copy_from

    source, target = torch.arange(6), torch.zeros(4, dtype=torch.int64)
    copy_from[(1,)](source, target, 2)
    assert target.tolist() == [2, 3, 4, 5]
    assert accesses.compared == 8
    for first in (-1, 3):
        with pytest.raises(Exception, match="1 of 4 addresses are outside of all tensors"):
            copy_from[(1,)](source, target, first)


def kernels_built(*of: str) -> dict[str, dict[str, object]]:
    """What the machine code of the kernels holds, compiled in another process for a GPU that need not be here."""
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = [sys.executable, "-m", "tests.triton_kernel_builds", *of]
    finished = subprocess.run(script, env=plain, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return json.loads(finished.stdout)


def assert_as_the_reference(labels: Tensor, **options: object) -> None:
    expected = si.connected_components(labels, backend="skimage", **options)
    actual = si.connected_components(labels.to(DEVICE), backend="triton", **options)
    assert actual.dtype == torch.int32
    assert torch.equal(actual.cpu(), expected)


@pytest.mark.parametrize(("name", "connectivity"), SMALL)
def test_every_small_map_of_the_gallery(name: str, connectivity: int) -> None:
    assert_as_the_reference(GALLERY[name], connectivity=connectivity)


@pytest.mark.parametrize("draw", [snake, spiral])
def test_long_winding_regions(draw: Callable[[int, int], Tensor]) -> None:
    assert_as_the_reference(draw(17, 33))


@pytest.mark.parametrize(("height", "width"), EDGES)
def test_sizes_around_every_block_edge(height: int, width: int) -> None:
    assert_as_the_reference(noise(height, width, (0, 1, IGNORE), seed=width))


def test_more_pixels_than_a_block_and_more_blocks_than_a_warp() -> None:
    assert_as_the_reference(noise(23, 25, (0, 7, 9), seed=1, batch=2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_any_integer_type(dtype: torch.dtype) -> None:
    assert_as_the_reference(noise(9, 13, (0, 1, 100), seed=2).to(dtype), ignore_index=100)


@pytest.mark.parametrize(
    "classes", [(0,), (7, 0), (3,), (), tuple(range(255)), (*range(255), 300)], ids=lambda ids: str(len(ids))
)
def test_only_the_classes_asked_for(classes: tuple[int, ...]) -> None:
    assert_as_the_reference(noise(8, 15, (0, 3, 7, 254, 300, IGNORE), seed=3), classes=classes)


def test_no_id_need_be_ignored() -> None:
    assert_as_the_reference(noise(6, 11, (0, IGNORE), seed=4), ignore_index=None)


def test_layouts_in_memory_do_not_matter() -> None:
    labels = noise(12, 10, (0, 1, 2), seed=5)
    assert_as_the_reference(labels.transpose(1, 2))
    assert_as_the_reference(labels[:, ::2, 1::3])


def test_the_operator_keeps_torchs_rules() -> None:
    labels = noise(5, 7, (0, 1), seed=6).to(DEVICE)
    torch.library.opcheck(torch.ops.stuffinstance.connected_components, (labels, [0, 1], 8, 255, "triton"))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")  # that it does not see everything
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_is_read_back_and_a_graph_replays_with_other_content() -> None:
    labels = noise(90, 160, (0, 5, 11, IGNORE), seed=7, batch=2).cuda()
    si.connected_components(labels, classes=(5, 11), backend="triton")  # compile, and put the class table there
    torch.cuda.set_sync_debug_mode("error")
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            numbers = si.connected_components(labels, classes=(5, 11), backend="triton")
        labels.copy_(labels.flip(-1))
        graph.replay()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = si.connected_components(labels.cpu(), classes=(5, 11), backend="skimage")
    assert torch.equal(numbers.cpu(), expected)


def test_the_kernels_build_for_hopper_and_those_that_spin_hold_no_barrier() -> None:
    built = kernels_built()
    assert len(built) == 8
    assert all(kernel["entry"] for kernel in built.values())
    # Two joins: each of them hooks, and halves four paths.
    assert built["_unions"] == built["_unions, bare"] == {"entry": True, "barriers": 0, "relaxed": 10}
    assert built["_flatten"] == {"entry": True, "barriers": 0, "relaxed": 0}
    assert built["_runs"]["barriers"] == 0  # 32 pixels lie in one warp


def test_it_is_not_chosen_unasked() -> None:
    assert BACKENDS["triton"].devices == ("cuda",)
    labels = noise(4, 4, (0, 1), seed=8)
    assert torch.equal(si.connected_components(labels), si.connected_components(labels, backend="skimage"))


def pooled(features: Tensor, regions: Tensor, count: int) -> Tensor:
    return si.region_mean(features.to(DEVICE), regions.to(DEVICE), count, backend="triton").cpu()


def oracle_rows(features: Tensor, regions: Tensor, count: int) -> Tensor:
    images = zip(features.double().numpy(), regions.numpy(), strict=True)
    return torch.from_numpy(np.stack([oracles.region_means(f, r, count) for f, r in images]))


def assert_as_the_oracle(features: Tensor, regions: Tensor, count: int) -> None:
    rows = pooled(features, regions, count)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.double(), oracle_rows(features, regions, count), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 63), (8, 8), (5, 13), (1, 1023), (32, 32), (25, 41)])
def test_pixels_around_every_edge_of_tile_and_span(size: tuple[int, int]) -> None:
    assert_as_the_oracle(torch.randn(2, 3, *size), torch.randint(6, (2, *size)), 5)


@pytest.mark.parametrize("channels", [1, 63, 64, 65, 130])
def test_channels_around_every_edge(channels: int) -> None:
    assert_as_the_oracle(torch.randn(2, channels, 7, 11), torch.randint(5, (2, 7, 11)), 4)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 112, 128, 129, 300])
def test_regions_around_every_width_of_the_masks(count: int) -> None:
    assert_as_the_oracle(torch.randn(2, 5, 9, 37), torch.randint(count + 1, (2, 9, 37)), count)


def test_single_pixels_come_back() -> None:
    """One pixel a region, from tiny to huge values: a sum is as exact as one value's product."""
    exponents = torch.linspace(-100, 120, 120).round()
    features = (torch.rand(1, 4, 10, 12) + 1) * (2.0**exponents).view(1, 1, 10, 12)
    rows = pooled(features, torch.arange(1, 121).view(1, 10, 12), 120)
    torch.testing.assert_close(rows, features.flatten(2).transpose(1, 2), atol=0, rtol=1e-6)


def test_a_large_region_keeps_its_digits() -> None:
    features = 1000.3 + torch.rand(1, 2, 90, 160) / 100
    assert_as_the_oracle(features, torch.ones(1, 90, 160, dtype=torch.int32), 1)


@pytest.mark.parametrize(("dtype", "value"), [
    *((dtype, torch.nan) for dtype in (torch.float16, torch.bfloat16, torch.float32)),
    *((torch.float32, value) for value in (torch.inf, -torch.inf)),
])  # fmt: skip
def test_what_is_not_finite_stays_in_its_region_and_channel(dtype: torch.dtype, value: float) -> None:
    features, regions = torch.randn(2, 70, 30, 40).to(dtype), torch.randint(5, (2, 30, 40))
    regions[1, 29, 39], regions[0, 0, 0] = 2, 0
    expected = pooled(features, regions, 4)
    features[1, 66, 29, 39] = value
    features[0, 3, 0, 0] = value  # of no region
    rows = pooled(features, regions, 4)
    assert (~rows.isfinite()).nonzero().tolist() == [[1, 1, 66]]
    rows[1, 1, 66] = expected[1, 1, 66]
    assert torch.equal(rows, expected)


def test_gradient_is_that_of_the_other_backend() -> None:
    features, regions = torch.randn(2, 3, 9, 7, device=DEVICE), torch.randint(5, (2, 9, 7), device=DEVICE)
    features.requires_grad_()
    slope = torch.randn(2, 4, 3, device=DEVICE)
    ways = [si.region_mean(features, regions, 4, backend=name) for name in ("triton", "torch")]
    one, other = (torch.autograd.grad(rows, features, slope)[0] for rows in ways)
    assert torch.equal(one, other)


def test_the_same_bits_in_every_run() -> None:
    features, regions = torch.randn(1, 9, 40, 60), torch.randint(5, (1, 40, 60))
    assert torch.equal(pooled(features, regions, 4), pooled(features, regions, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_operator_of_pooling_keeps_torchs_rules(dtype: torch.dtype) -> None:
    features = torch.randn(2, 3, 5, 7, device=DEVICE).to(dtype).requires_grad_()
    number = torch.randint(4, (2, 35), device=DEVICE)
    torch.library.opcheck(torch.ops.stuffinstance.region_sums, (features, number, 3, "triton"))


def test_no_graph_break() -> None:
    features, regions = torch.randn(2, 3, 5, 7, device=DEVICE), torch.randint(4, (2, 5, 7), device=DEVICE)
    torch.compiler.reset()
    compiled = torch.compile(si.region_mean, fullgraph=True, backend="aot_eager")
    rows = compiled(features, regions, 3, backend="triton")
    assert torch.equal(rows, si.region_mean(features, regions, 3, backend="triton"))


def test_the_kernel_of_pooling_builds_for_hopper_with_tensor_core_products() -> None:
    built = kernels_built("pooling")
    assert set(built) == {"fp32", "bf16", "fp16"}
    assert built["fp32"]["products"] > built["bf16"]["products"]  # split values
    for kernel in built.values():
        assert kernel["entry"]
        assert kernel["products"] > 0
        assert kernel["atomics"] == 0


def test_pooling_is_not_chosen_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert POOLING["triton"].devices == ("cuda",)
    preferred = (*PREFERRED_ON_GPU["region_mean"], "torch")[0]
    assert resolve(POOLING, "auto", "features", torch.device("cuda")) is POOLING[preferred]
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendUnavailableError, match="features are on cpu, it runs on cuda"):
        si.region_mean(torch.randn(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.int64), 1, backend="triton")
