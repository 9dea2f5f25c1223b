"""The Triton kernel adds regions up as the formula says: interpreted on a CPU, on the card where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si
from stuffinstance._backends import BackendUnavailableError, resolve
from stuffinstance.pooling.backends import BACKENDS
from tests import oracles

pytest.importorskip("triton", minversion="3.4", reason="its interpreter runs these kernels from Triton 3.4 on")

ROOT = Path(__file__).parent.parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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
def test_the_operator_keeps_torchs_rules(dtype: torch.dtype) -> None:
    features = torch.randn(2, 3, 5, 7, device=DEVICE).to(dtype).requires_grad_()
    number = torch.randint(4, (2, 35), device=DEVICE)
    torch.library.opcheck(torch.ops.stuffinstance.region_sums, (features, number, 3, "triton"))


def test_no_graph_break() -> None:
    features, regions = torch.randn(2, 3, 5, 7, device=DEVICE), torch.randint(4, (2, 5, 7), device=DEVICE)
    torch.compiler.reset()
    compiled = torch.compile(si.region_mean, fullgraph=True, backend="aot_eager")
    rows = compiled(features, regions, 3, backend="triton")
    assert torch.equal(rows, si.region_mean(features, regions, 3, backend="triton"))


def test_the_kernel_builds_for_hopper_with_tensor_core_products() -> None:
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = [sys.executable, "-m", "tests.triton_kernel_builds", "pooling"]
    finished = subprocess.run(script, env=plain, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr[-2000:]
    built = json.loads(finished.stdout)
    assert set(built) == {"fp32", "bf16", "fp16"}
    assert built["fp32"]["products"] > built["bf16"]["products"]  # split values
    for kernel in built.values():
        assert kernel["entry"]
        assert kernel["products"] > 0
        assert kernel["atomics"] == 0


def test_it_is_not_chosen_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BACKENDS["triton"].devices == ("cuda",)
    assert resolve(BACKENDS, "auto", "features", torch.device("cuda")) is BACKENDS["torch"]
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendUnavailableError, match="features are on cpu, it runs on cuda"):
        si.region_mean(torch.randn(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.int64), 1, backend="triton")
