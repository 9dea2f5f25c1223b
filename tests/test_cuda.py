"""What only a GPU can show: nothing waits for the device, races change nothing, graphs replay, results equal a CPU's.

What is called here is tested on a CPU elsewhere; here it must hold on the card too. Skipped without a card.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import stuffinstance as si
from stuffinstance.regions.backends import BACKENDS
from tests.label_maps import GALLERY, IGNORE, blocks, noise, street
from tests.test_sim import batch, make

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS:UserWarning"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning"),  # that it does not see everything
]

DEVICE = torch.device("cuda")
THINGS = (5, 6, 7, 11, 12, 13, 18)


@pytest.fixture(autouse=True)
def as_users_run_it() -> None:
    """Deterministic algorithms ask for settings of cuBLAS and take other ways: what is promised is promised without."""
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def triton_unasked() -> Iterator[None]:
    """Let ``backend="auto"`` choose Triton on a GPU, whatever the table prefers."""
    pytest.importorskip("triton")
    listed = dict(BACKENDS)
    BACKENDS.clear()
    BACKENDS.update({"triton": listed["triton"], **listed})
    yield
    BACKENDS.clear()
    BACKENDS.update(listed)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Make whatever waits for the device an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def components(labels: Tensor, **options: object) -> Tensor:
    return si.connected_components(labels, backend="triton", **options)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("name", GALLERY)
def test_triton_numbers_the_gallery_as_scikit_image_does(name: str, connectivity: int) -> None:
    pytest.importorskip("triton")
    expected = si.connected_components(GALLERY[name], connectivity=connectivity, backend="skimage")
    assert torch.equal(components(GALLERY[name].to(DEVICE), connectivity=connectivity).cpu(), expected)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name", ["street", "blocks", "noise-19", "spiral", "all-ignored", "empty-batch", "one-pixel"])
def test_regions_equal_those_of_a_cpu(name: str, backend: str) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    labels = GALLERY[name]
    things = si.instance_regions(labels.to(DEVICE), THINGS, 3, backend=backend)
    for one, other in zip(things, si.instance_regions(labels, THINGS, 3), strict=True):
        assert torch.equal(one.cpu(), other)
    stuff = si.stuff_regions(labels.to(DEVICE), (0, 2, 10))
    for one, other in zip(stuff, si.stuff_regions(labels, (0, 2, 10)), strict=True):
        assert torch.equal(one.cpu(), other)


@pytest.mark.usefixtures("triton_unasked")
@pytest.mark.parametrize("preset", ["paper", "code"])
def test_a_step_of_matching_never_waits_and_equals_that_of_a_cpu(preset: str) -> None:
    head = torch.nn.Linear(6, 5)
    on_cpu, on_gpu = make(preset, classifier=head), make(preset, classifier=copy.deepcopy(head).to(DEVICE)).to(DEVICE)
    results = []
    for sim, device in ((on_cpu, torch.device("cpu")), (on_gpu, DEVICE)):
        sources = [[part.to(device) for part in batch(seed)] for seed in range(7)]
        features, pseudo, logits = (part.to(device) for part in batch(50))
        pseudo = torch.where(pseudo == 2, pseudo, IGNORE)
        for source in sources[:-1]:  # kernels are compiled, tables copied
            sim.update(*source)
        sum(sim(features.clone().requires_grad_(), logits, pseudo)).backward()
        features.requires_grad_()
        if device.type == "cpu":
            sim.update(*sources[-1])
            losses = sim(features, logits, pseudo)
            (losses.stuff + losses.instance).backward()
        else:
            with no_waiting():
                sim.update(*sources[-1])
                losses = sim(features, logits, pseudo)
                (losses.stuff + losses.instance).backward()
        assert features.grad is not None
        state = {name: value.cpu() for name, value in sim.state_dict().items()}
        results.append((state, losses.stuff.cpu(), losses.instance.cpu(), features.grad.cpu()))
    torch.testing.assert_close(results[1], results[0])
    assert results[0][1] + results[0][2] > 0


@pytest.mark.parametrize("labels", [noise(90, 160, (0, 5, 11, IGNORE), 1, batch=2), street(90, 160, 2, batch=2)])
def test_a_thousand_runs_are_identical(labels: Tensor) -> None:
    pytest.importorskip("triton")
    labels = labels.to(DEVICE)
    first = components(labels)
    changed = torch.zeros((), dtype=torch.int64, device=DEVICE)
    for _ in range(1000):
        changed += (components(labels) != first).any()
    assert int(changed) == 0
    assert torch.equal(first.cpu(), si.connected_components(labels.cpu(), backend="skimage"))


def test_two_streams_do_not_disturb_each_other() -> None:
    pytest.importorskip("triton")
    maps = [noise(90, 160, (0, 5, 11, IGNORE), 3, batch=2), street(90, 160, 4, batch=2)]
    expected = [si.connected_components(labels, backend="skimage") for labels in maps]
    on_device = [labels.to(DEVICE) for labels in maps]
    components(on_device[0])
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    found: list[list[Tensor]] = [[], []]
    for _ in range(50):
        for stream, labels, results in zip(streams, on_device, found, strict=True):
            with torch.cuda.stream(stream):
                results.append(components(labels))
    torch.cuda.synchronize()
    for results, numbers in zip(found, expected, strict=True):
        assert all(torch.equal(result.cpu(), numbers) for result in results)


def test_a_captured_graph_replays_with_other_content() -> None:
    pytest.importorskip("triton")
    contents = [street(45, 80, seed, batch=2) for seed in (5, 6)] + [noise(45, 80, (5, 13, IGNORE), 7, batch=2)]
    labels, features = contents[0].to(DEVICE), torch.randn(2, 8, 45, 80, device=DEVICE)

    def pooled() -> tuple[si.Regions, Tensor]:
        regions = si.instance_regions(labels, THINGS, 3, backend="triton")
        return regions, si.region_mean(features, regions)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        pooled()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # an operation that waits fails the capture
        regions, rows = pooled()
    for content in contents[::-1]:
        labels.copy_(content)
        graph.replay()
        expected = si.instance_regions(content, THINGS, 3)
        for one, other in zip(regions, expected, strict=True):
            assert torch.equal(one.cpu(), other)
        torch.testing.assert_close(rows.cpu(), si.region_mean(features.cpu(), expected), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")  # the profiler's own
@pytest.mark.parametrize("images", [1, 2, 7, 32])
def test_components_are_six_launches_for_any_batch(images: int) -> None:
    pytest.importorskip("triton")
    labels = noise(33, 70, (0, 5, IGNORE), 8, batch=images).to(DEVICE)
    components(labels, classes=(0, 5))
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        components(labels, classes=(0, 5))
        torch.cuda.synchronize()
    launched = [event.name for event in recorded.events() if event.device_type == DeviceType.CUDA]
    assert 0 < len(launched) <= 6, launched


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_region_means_and_their_gradients_equal_those_of_a_cpu(dtype: torch.dtype) -> None:
    labels = blocks(31, 45, (0, 5, 13, IGNORE), 9, batch=2)
    regions = si.instance_regions(labels, THINGS, 4)
    features = torch.randn(2, 19, 31, 45, dtype=torch.float64).to(dtype)
    results = []
    for device in (torch.device("cpu"), DEVICE):
        leaf = features.to(device).requires_grad_()
        rows = si.region_mean(leaf, si.Regions(*(table.to(device) for table in regions)))
        slope = torch.linspace(-1, 1, rows.numel(), dtype=rows.dtype).view(rows.shape)
        (gradient,) = torch.autograd.grad(rows, leaf, slope.to(device))
        results.append((rows.detach().cpu(), gradient.cpu()))
    (rows, gradient), (other_rows, other_gradient) = results
    torch.testing.assert_close(other_rows, rows, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(other_gradient, gradient)
    assert rows.any()


def test_thresholds_equal_those_of_a_cpu_and_counting_never_waits() -> None:
    maps = [(3 * torch.randn(2, 5, 21, 33)).softmax(1) for _ in range(3)]
    on_cpu, on_gpu = si.ClassBalancedThreshold(5), si.ClassBalancedThreshold(5).to(DEVICE)
    carried = [probabilities.to(DEVICE) for probabilities in maps]
    on_gpu.update(carried[0])
    on_gpu.reset()
    with no_waiting():
        for probabilities in carried:
            on_gpu.update(probabilities)
        thresholds = on_gpu.compute()
        labels = on_gpu.pseudo_labels(carried[0], thresholds)
    for probabilities in maps:
        on_cpu.update(probabilities)
    assert torch.equal(on_gpu.counts().cpu(), on_cpu.counts())
    assert torch.equal(thresholds.cpu(), on_cpu.compute())
    assert torch.equal(labels.cpu(), on_cpu.pseudo_labels(maps[0]))
