"""The Triton kernels number regions as every other backend does: interpreted on a CPU, on the card where there is one.

In the interpreter programs run one after another, so no race can show there; the compiled kernels are looked at too:
they must build for a GPU that is not here, and the programs that spin must hold no barrier.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import stuffinstance as si
from stuffinstance.regions.backends import BACKENDS
from tests.label_maps import GALLERY, IGNORE, noise, snake, spiral

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


@pytest.mark.parametrize("classes", [(0,), (7, 0), (3,), ()])
def test_only_the_classes_asked_for(classes: tuple[int, ...]) -> None:
    assert_as_the_reference(noise(8, 15, (0, 3, 7, IGNORE), seed=3), classes=classes)


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
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = [sys.executable, "-m", "tests.triton_kernel_builds"]
    finished = subprocess.run(script, env=plain, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr[-2000:]
    built = json.loads(finished.stdout)
    assert len(built) == 6
    assert all(kernel["entry"] for kernel in built.values())
    assert built["_unions"] == {"entry": True, "barriers": 0, "relaxed": 3}
    assert built["_flatten"]["barriers"] == 0


def test_it_is_not_chosen_unasked() -> None:
    assert BACKENDS["triton"].devices == ("cuda",)
    labels = noise(4, 4, (0, 1), seed=8)
    assert torch.equal(si.connected_components(labels), si.connected_components(labels, backend="skimage"))
