"""The parts of the benchmarks that compare, count, judge, draw and load; wrong results and pixels stop them."""

from __future__ import annotations

import doctest
import re
from types import ModuleType

import numpy as np
import pytest
import torch

import stuffinstance as si
from benchmarks import components, growth, label_maps, loader, plots, pooling, step, targets, thresholds
from benchmarks.measurement import Floor, Measurement, Settings, Timing, WrongResult
from benchmarks.reference_implementation import ReferenceImplementation
from benchmarks.targets import MISSED_BECAUSE, TARGETS, verdicts
from examples.gta5_to_cityscapes.data import SegmentationDataset
from examples.gta5_to_cityscapes.data.loader import Batch, BatchStream
from stuffinstance.regions.backends import BACKENDS as COMPONENTS

CPU = torch.device("cpu")
QUICK = Settings(CPU, threads=1, quick=True, repeats=3, seconds_per_way=0.01)


def streets(seed: int, height: int, width: int) -> torch.Tensor:
    """Train ids (1, H, W) of blocks: several regions of most classes, some ignored."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 20, (1, height // 4, width // 4), generator=generator)
    blocks[blocks == 19] = 255
    return blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)


def test_the_reference_way_and_the_library_stay_together_over_several_steps() -> None:
    sim = si.StuffInstanceMatching(si.CITYSCAPES, 8, capacity=3, max_instances=2)
    released = ReferenceImplementation.with_banks_of(sim)
    matched = 0
    for seed in range(8):
        labels = streets(seed, 64, 96)
        source, target = torch.randn(1, 8, 32, 48), torch.randn(1, 8, 24, 40, requires_grad=True)
        predicted = labels[:, ::2, ::2]
        source_logits = torch.nn.functional.one_hot(predicted.clamp(max=18), 19).permute(0, 3, 1, 2).float()
        source_logits += 0.4 * torch.randn(source_logits.shape)
        target_logits = torch.nn.functional.one_hot(streets(seed + 50, 24, 40).clamp(max=18), 19).permute(0, 3, 1, 2)
        sim.update(source, labels, source_logits)
        released.update(source, labels, source_logits)
        assert sim.stuff_bank.written.tolist() == list(released.stuff_written.values())
        assert sim.instance_bank.written.tolist() == list(released.instance_written.values())
        for bank, rows in ((sim.stuff_bank, released.stuff_rows), (sim.instance_bank, released.instance_rows)):
            torch.testing.assert_close(torch.stack(list(rows.values())), bank.features, rtol=1e-5, atol=1e-6)
        ours, theirs = sim(target, target_logits.float()), released(target, target_logits.float())
        torch.testing.assert_close(tuple(theirs), tuple(ours), rtol=1e-5, atol=1e-6)
        if theirs.stuff.requires_grad and theirs.instance.requires_grad:
            matched += 1
            slopes = [torch.autograd.grad(losses.stuff + losses.instance, target)[0] for losses in (theirs, ours)]
            torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-8)
    assert matched >= 2


def street_step(feature_dim: int = 16) -> tuple[si.StuffInstanceMatching, step.StepInputs]:
    inputs = step.city_inputs((32, 64), (32, 48), feature_dim, CPU)
    return step.warm_matching(si.CITYSCAPES, feature_dim, CPU, capacity=5), inputs


def test_a_step_that_differs_is_rejected_before_it_is_timed() -> None:
    sim, inputs = street_step()
    step.check_same_step(sim, ReferenceImplementation.with_banks_of(sim), inputs)
    released = ReferenceImplementation.with_banks_of(sim)
    sim.stuff_bank.features[0, 0, 0] += 1
    with pytest.raises(
        WrongResult, match=r"stuff (loss|bank): the library differs from the reference implementation by"
    ):
        step.check_same_step(sim, released, inputs)


def test_a_step_that_matches_nothing_proves_nothing() -> None:
    _, inputs = street_step()
    cold = si.StuffInstanceMatching(si.CITYSCAPES, 16)
    with pytest.raises(WrongResult, match="the losses are 0 and 0: no comparison"):
        step.check_same_step(cold, ReferenceImplementation.with_banks_of(cold), inputs)


def test_values_that_are_read_are_counted_inside_operators_too() -> None:
    values = torch.arange(5)

    @torch.library.custom_op("benchmark_parts_test::reads_twice", mutates_args=())
    def reads_twice(values: torch.Tensor) -> torch.Tensor:
        return values * int(values.sum()) * int(values.max())

    def call() -> None:
        reads_twice(values)
        values.nonzero()

    assert step.memory_and_launches(call, CPU)["value_reads"] == 3
    assert step.memory_and_launches(values.sum, CPU)["value_reads"] == 0


@pytest.mark.parametrize("name", pooling.pooling_ways(CPU))
def test_every_way_of_pooling_gives_means_and_gradients(name: str) -> None:
    pool = pooling.pooling_ways(CPU)[name]
    features = torch.tensor([[[[1.0, 3.0, 5.0]], [[2.0, 4.0, 9.0]]]], requires_grad=True)
    slopes = torch.tensor([[[2.0, 4.0], [0.0, 0.0], [1.0, 3.0]]])
    case = pooling.PoolingCase(features, torch.tensor([[[1, 1, 3]]], dtype=torch.int32), 3, slopes)
    assert case.forward(pool)[0].tolist() == [[2.0, 3.0], [0.0, 0.0], [5.0, 9.0]]
    assert case.backward(pool)[0].tolist() == [[[1.0, 1.0, 1.0]], [[2.0, 2.0, 3.0]]]


@pytest.mark.parametrize("name", ["stuffinstance", "torch broken"])
def test_a_way_of_pooling_that_is_wrong_stops_the_run(name: str) -> None:
    case = pooling.city_case(12, 20, 4, CPU)
    assert pooling.check_pooling(case, {name: si.region_mean})[name]["largest_error"] <= 1e-5
    with pytest.raises(WrongResult, match=f"{name}: means are off by"):
        pooling.check_pooling(case, {name: lambda *arguments: si.region_mean(*arguments) * 1.002})


def test_pooling_is_measured_with_its_floor() -> None:
    found = pooling.run(QUICK)
    cases = {m.case for m in found}
    assert {case.split(",")[0] for case in cases} == {"means", "means and gradient", "matching"}
    assert all(m.timing is not None and m.floor is not None and m.floor.ms > 0 for m in found)
    assert {m.way for m in found} >= {"stuffinstance", pooling.MASKED_PASSES, *pooling.TORCH_WAYS}


def test_the_step_is_measured_with_its_floor_and_the_networks() -> None:
    found = step.run(QUICK)
    assert all(one.measured is None for one in verdicts(found, CPU))  # a quick run is too small to be judged
    by_way = {m.way: m for m in found if m.case.startswith("city")}
    ours, released, network = (by_way[way] for way in (step.OURS, step.REFERENCE, step.NETWORK_STEP))
    assert ours.floor is not None
    assert 0 < ours.floor.ms < ours.timing.median_ms < network.timing.median_ms
    assert released.extra["value_reads"] > ours.extra["value_reads"]
    for name in step.NETWORKS:
        found_ways = {m.way: m for m in found if m.case.startswith(name)}
        fast, plain = found_ways[step.OURS], found_ways[step.PLAIN]
        assert 0 < fast.extra["percent_of_a_training_step"] < 100
        assert 0 < plain.extra["percent_of_a_training_step"] < 100
    assert COMPONENTS["numba"].installed
    assert ours.extra["source_regions"] > 5


def test_every_axis_grows() -> None:
    found = growth.run(QUICK)
    for axis in growth.AXES:
        points = [m for m in found if m.extra["axis"] == axis and m.way == growth.STEP]
        assert len({m.extra["value"] for m in points}) == 2
    for count in growth.AXES["regions in the map"][1]:
        assert int(si.connected_components(growth.with_regions(count).labels).max()) == count
        assert all(m.floor is not None for m in points)


def measured(benchmark: str, case: str, way: str, ms: float, floor: float = 1.0, **extra: int) -> Measurement:
    return Measurement(benchmark, case, way, Timing(ms, ms, ms, 3), Floor("what", floor), dict(extra))


def run_of(own: float, graph: float = 0.05) -> list[Measurement]:
    """A run in which ours takes ``own`` milliseconds everywhere and all else is fixed."""
    found = []
    for case in ("city 1x1024x2048", "city 1x90x160", "city 1x64x128"):
        found += [
            measured("components", case, "reference implementation", 100.0),
            measured("components", case, "cc3d one pass", 12.0),
            measured("components", case, "cc3d one pass, no areas", 2.0),
            measured("components", case, "scipy per class", 80.0),
            measured("components", case, "stuffinstance instance_regions", own / 4),
            measured("components", case, "stuffinstance triton, areas", own),
            measured("components", case, "stuffinstance triton, CUDA graph", graph),
        ]
    found += [
        measured("step", targets.PUBLISHED, "stuffinstance", own, 5.0, host_reads=int(own > 10)),
        measured("step", targets.PUBLISHED, "reference implementation", 400.0),
        measured("step", targets.PUBLISHED, "DeepLabV2 ResNet-101", 1000.0),
        measured("thresholds", "19x512x1024", "stuffinstance", own, 6.0),
    ]
    return found


def test_a_run_is_judged_by_every_target() -> None:
    values = {one.target: one for one in verdicts(run_of(10.0), CPU)}
    assert list(values) == list(TARGETS)
    assert values["components, large, released"].measured == 40
    assert values["components, large, libraries"].measured == pytest.approx(10 / 4 / 12)
    assert values["step, released"].measured == 40
    assert values["step, floor"].measured == 2
    assert values["thresholds"].verdict == "MISSED"
    assert values["step, network"].verdict == "unmeasured"  # asked for on the GPU alone
    assert [one.target for one in values.values() if one.verdict == "MISSED"] == ["thresholds"]
    on_gpu = {one.target: one for one in verdicts(run_of(2.0), torch.device("cuda"))}
    assert on_gpu["step, network"].measured == pytest.approx(0.2)
    assert on_gpu["components, small, graph"].measured == pytest.approx(50)
    assert on_gpu["step, reads"].measured == 0
    assert on_gpu["components, large, libraries"].measured == pytest.approx(2 / 12)
    assert {one.target for one in on_gpu.values() if one.verdict == "met"} == {
        name for name, target in TARGETS.items() if target.gpu is not None
    }
    reasons = {("step, floor", "cpu"): "the cache is cold"}
    slow = {one.target: one for one in verdicts(run_of(90.0, 0.07), CPU, reasons)}
    assert all(slow[name].verdict == "MISSED" for name, target in TARGETS.items() if target.bound("cpu") is not None)
    assert slow["step, floor"].reason == "the cache is cold"


def test_what_was_not_run_is_unmeasured() -> None:
    assert {one.verdict for one in verdicts([], CPU)} == {"unmeasured"}
    only_step = [m for m in run_of(1.0) if m.benchmark == "step"]
    assert {one.target for one in verdicts(only_step, CPU) if one.verdict == "met"} == {"step, released", "step, floor"}


def test_targets_name_what_the_benchmarks_measure() -> None:
    """A renamed way or case would leave a target unmeasured silently."""
    *cases, maps = (
        tuple(map(int, re.findall(r"\d+", case)))
        for case in (targets.LARGE, targets.SMALL, targets.SMALLEST, targets.MAPS)
    )
    assert {(1, *size) for size in components._SIZES} >= set(cases)
    assert maps[0] == thresholds.CLASSES
    streets = components.compare("city", label_maps.city_labels(1, 45, 80), QUICK)
    timed = {m.way for m in streets if m.timing is not None}
    assert {targets.OWN_COMPONENTS["cpu"], targets.REFERENCE} < timed
    assert any(m.way == targets.OURS and m.timing and m.floor for m in thresholds.run(QUICK))


def test_reasons_belong_to_targets() -> None:
    assert {name for name, _ in MISSED_BECAUSE} <= set(TARGETS)


@pytest.mark.parametrize("module", [growth, plots, step, targets])
def test_examples_in_docstrings_run(module: ModuleType) -> None:
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted > 0
    assert result.failed == 0


SIZES = loader.Sizes((64, 40), (48, 32)), loader.Sizes((72, 36), (36, 18))


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> tuple[SegmentationDataset, SegmentationDataset]:
    return loader.draw_domains(tmp_path_factory.mktemp("loader"), *SIZES)


def test_images_have_the_sizes_that_are_asked_for(domains: tuple[SegmentationDataset, SegmentationDataset]) -> None:
    for dataset, sizes in zip(domains, SIZES, strict=True):
        assert len(dataset) == loader.IMAGES
        assert dataset[0].image.shape == (3, *sizes.wanted[::-1])
        assert loader.read_image(dataset.files[0].image)[0].shape == (*sizes.stored[::-1], 3)
    assert set(domains[0][0].labels.unique().tolist()) > {255}
    assert set(domains[1][0].labels.unique().tolist()) == {255}  # a recipe that adapts reads none of the target


def test_every_stage_and_number_of_workers_is_timed(
    domains: tuple[SegmentationDataset, SegmentationDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "draw_domains", lambda *_: domains)
    found = loader.run(QUICK)
    ways = {case: {one.way: one for one in found if one.case == case} for case in {one.case for one in found}}
    assert set(ways) == {"GTA5 192x96 to 128x64", "Cityscapes 192x96 to 96x48", "a step, one image of each"}
    streams = {f"stuffinstance, workers={workers}" for workers in (0, 1, 2)}
    parts = {"one image", "decode", "decode by OpenCV, not used", "resize", "to a tensor"}
    labels = {"decode labels", "resize labels"}
    assert set(ways["GTA5 192x96 to 128x64"]) == streams | parts | labels
    assert set(ways["Cityscapes 192x96 to 96x48"]) == streams | parts
    assert set(ways["a step, one image of each"]) == streams
    for one in found:
        assert one.timing is not None
    step = ways["a step, one image of each"]["stuffinstance, workers=2"]
    assert step.timing is not None
    assert step.extra["steps_per_second"] == pytest.approx(1e3 / step.timing.median_ms)


def test_a_decoder_of_other_pixels_stops_the_run(
    domains: tuple[SegmentationDataset, SegmentationDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "decode_by_opencv", lambda path: loader.read_image(path)[0] ^ np.uint8(1))
    with pytest.raises(WrongResult, match=r"decode other pixels from 00001\.png"):
        loader.stages("game", domains[0], QUICK)


def test_a_stream_of_other_pixels_stops_the_run(
    domains: tuple[SegmentationDataset, SegmentationDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mirrored(BatchStream):
        def __next__(self) -> list[Batch]:
            return [batch._replace(images=batch.images.flip(-1)) for batch in super().__next__()]

    monkeypatch.setattr(loader, "BatchStream", Mirrored)
    with pytest.raises(WrongResult, match="is not the data set's"):
        loader.streams("game", domains[:1], QUICK)


def test_calls_go_through_their_arguments_in_turn() -> None:
    given: list[object] = []
    call = loader.over(given.append, "ab")
    for _ in range(3):
        call()
    assert given == ["a", "b", "a"]
