"""``python -m benchmarks loader``: what it times is what the pipeline reads, and wrong pixels stop it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import loader
from benchmarks.measurement import Settings, WrongResult
from examples.gta5_to_cityscapes.data import SegmentationDataset
from examples.gta5_to_cityscapes.data.loader import Batch, BatchStream

QUICK = Settings(torch.device("cpu"), threads=1, quick=True, repeats=3, seconds_per_way=0.01)
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
