"""Scores are counted over the whole data set, for the classes asked for, at the size asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import Tensor, nn

import stuffinstance as si
from examples.gta5_to_cityscapes.cli.options import factors
from examples.gta5_to_cityscapes.data import DatasetError, Sample
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.models import NetworkOutput
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.report.results import read_experiment
from examples.gta5_to_cityscapes.report.tables import score_curve
from examples.gta5_to_cityscapes.run_dir import RunFolder
from examples.gta5_to_cityscapes.training.evaluation import Scores, evaluate
from examples.gta5_to_cityscapes.training.loop import train

CPU = torch.device("cpu")
SPACE = si.LabelSpace(names=("sky", "road", "car"), stuff=(0, 1), things=(2,))


class Painted(nn.Module):
    """Predicts the class that an image's red channel names."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> NetworkOutput:
        assert not self.training
        self.sizes.append(tuple(images.shape))
        ids = (images[:, 0] * 255).round().long()
        return NetworkOutput(images, nn.functional.one_hot(ids, 3).movedim(-1, 1).float())


class Listed:
    """A data set of given (prediction, ground truth) maps."""

    def __init__(self, maps: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.maps = maps
        self.names = [str(i) for i in range(len(maps))]

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> Sample:
        prediction, ground_truth = self.maps[index]
        return Sample(prediction.to(torch.uint8).expand(3, -1, -1).clone(), ground_truth.to(torch.uint8), str(index))


def random_maps(count: int = 5) -> Listed:
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for i in range(count):
        prediction = torch.randint(0, 3, (6, 8), generator=generator)
        ground_truth = torch.randint(0, 3, (6, 8), generator=generator)
        ground_truth[: i + 1] = 255  # each image has another number of labeled pixels
        pairs.append((prediction, ground_truth))
    return Listed(pairs)


def worked_out(maps: Listed) -> list[float]:
    prediction = torch.cat([p.flatten() for p, _ in maps.maps])
    ground_truth = torch.cat([t.flatten() for _, t in maps.maps])
    prediction, ground_truth = prediction[ground_truth != 255], ground_truth[ground_truth != 255]
    return [
        float(((prediction == k) & (ground_truth == k)).sum() / ((prediction == k) | (ground_truth == k)).sum())
        for k in range(3)
    ]


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_whole_data_set_score_does_not_depend_on_the_batch(batch: int) -> None:
    maps = random_maps()
    scores = evaluate([Painted().train()], [maps], SPACE, SPACE.names, CPU, batch=batch)
    expected = worked_out(maps)
    assert list(scores.iou.values()) == pytest.approx(expected)
    assert scores.miou == pytest.approx(sum(expected) / 3)


def test_a_named_subset_still_counts_every_mistake() -> None:
    maps = random_maps()
    expected = worked_out(maps)
    scores = evaluate([Painted()], [maps], SPACE, ("car", "sky"), CPU)
    assert scores.iou == pytest.approx({"car": expected[2], "sky": expected[0]})
    assert scores.miou == pytest.approx((expected[0] + expected[2]) / 2)


def test_a_class_that_never_occurs_has_no_score() -> None:
    road = torch.ones(4, 4)
    scores = evaluate([Painted()], [Listed([(road, road)])], SPACE, SPACE.names, CPU)
    assert scores.iou == {"sky": None, "road": 1.0, "car": None}
    assert scores.miou == 1
    with pytest.raises(DatasetError, match=r"at least one scored class \(car\)"):
        evaluate([Painted()], [Listed([(road, road)])], SPACE, ("car",), CPU)


def test_labels_keep_their_size_while_images_are_shown_smaller(tmp_path: Path) -> None:
    prediction = torch.zeros(8, 16)
    prediction[:, 8:] = 1
    network = Painted()
    network.train()
    maps = Listed([(prediction, prediction)] * 3)
    captured: list[tuple[int, int]] = []
    scores = evaluate(
        [network],
        [maps],
        SPACE,
        SPACE.names,
        CPU,
        image_size=(4, 8),
        previews=tmp_path / "previews",
        preview_count=2,
        tick=lambda done, total: captured.append((done, total)),
    )
    assert network.training
    assert network.sizes == [(1, 3, 4, 8)] * 3
    assert scores.miou > 0.8  # one column may fall on either side
    assert captured == [(1, 3), (2, 3), (3, 3)]
    assert sorted(path.name for path in (tmp_path / "previews").iterdir()) == ["0.npz", "1.npz"]
    with np.load(tmp_path / "previews" / "1.npz") as preview:
        assert preview["image"].shape == (8, 16, 3)
        assert preview["prediction"].shape == (8, 16)


# ------------------------------------------------------------------ without labels


class Uneven(nn.Module):
    """Logits that grow from left to right and depend on the image's size, at half of it."""

    def forward(self, images: Tensor) -> NetworkOutput:
        small = nn.functional.avg_pool2d(images, 2, ceil_mode=True)
        ramp = torch.linspace(0, 3, small.shape[-1]).expand(small.shape[0], 1, *small.shape[-2:])
        logits = torch.cat([200 * small[:, :1], ramp, small.shape[-2] * 100 * small[:, 1:2] / 4], 1)
        return NetworkOutput(images, logits)


class Even(Uneven):
    """The same without the ramp: a mirrored image gives the mirrored logits."""

    def forward(self, images: Tensor) -> NetworkOutput:
        features, logits = super().forward(images)[:2]
        return NetworkOutput(features, logits.index_fill(1, torch.tensor([1]), 1.0))


def shown(network: nn.Module, maps: Listed, index: int, size: tuple[int, int], *, mirrored: bool = False) -> Tensor:
    """Probabilities (K, H, W) at the labels' size of one view of an image, step by step."""
    sample = maps[index]
    image = np.asarray(sample.image.permute(1, 2, 0))
    if size != image.shape[:2]:
        image = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    if mirrored:
        image = image[:, ::-1]
    images = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        logits = network.eval()(images).logits
    logits = nn.functional.interpolate(logits, sample.labels.shape, mode="bilinear", align_corners=True)
    return (logits.flip(-1) if mirrored else logits).softmax(1)[0]


def expected_scores(maps: Listed, probabilities: Sequence[Tensor]) -> tuple[float, float, float]:
    """mIoU, entropy and density of one map of probabilities per image."""
    score, entropy, density = si.MeanIoU(3), si.PredictionEntropy(3), si.SoftNeighborhoodDensity()
    for (_, ground_truth), each in zip(maps.maps, probabilities, strict=True):
        score.update(each.argmax(0)[None], ground_truth.long()[None])
        entropy.update(each[None])
        density.update(each[None])
    return score.compute().mean, entropy.compute(), density.compute()


def as_numbers(scores: Scores) -> tuple[float, float, float]:
    return scores.miou, scores.entropy, scores.density


@pytest.mark.parametrize("batch", [1, 3])
def test_entropy_and_density_are_those_of_the_scored_probabilities(batch: int) -> None:
    maps = random_maps()
    scores = evaluate([Uneven()], [maps], SPACE, SPACE.names, CPU, batch=batch)
    expected = expected_scores(maps, [shown(Uneven(), maps, i, (6, 8)) for i in range(len(maps))])
    assert as_numbers(scores) == pytest.approx(expected, rel=1e-6)
    unlabeled = Listed(
        [(prediction, torch.where(ground_truth == 255, 0, 255)) for prediction, ground_truth in maps.maps]
    )
    again = evaluate([Uneven()], [unlabeled], SPACE, SPACE.names, CPU, batch=batch)
    assert (again.entropy, again.density) == (scores.entropy, scores.density)
    assert again.miou != scores.miou


def test_by_default_the_network_sees_each_image_once_and_its_logits_decide() -> None:
    """Logits so far apart that their probabilities are both 1: the larger logit is still the prediction."""

    class Certain(nn.Module):
        def forward(self, images: Tensor) -> NetworkOutput:
            first = torch.full_like(images[:, :1], 100.0)
            return NetworkOutput(images, torch.cat([first, first.nextafter(first * 2), first - 90], 1))

    road = torch.ones(4, 4)
    maps = Listed([(road, road)])
    assert evaluate([Certain()], [maps], SPACE, SPACE.names, CPU).miou == 1
    network = Painted()
    plain = evaluate([network], [random_maps()], SPACE, SPACE.names, CPU)
    assert network.sizes == [(1, 3, 6, 8)] * 5
    assert plain == evaluate([Painted()], [random_maps()], SPACE, SPACE.names, CPU, flip=False, scales=(1.0,))


def test_a_mirrored_view_changes_what_is_not_symmetric_and_nothing_else() -> None:
    maps = random_maps()
    plain, flipped = (
        [evaluate([network], [maps], SPACE, SPACE.names, CPU, flip=flip) for network in (Even(), Uneven())]
        for flip in (False, True)
    )
    assert as_numbers(flipped[0]) == pytest.approx(as_numbers(plain[0]), rel=1e-6)
    assert flipped[1].entropy != pytest.approx(plain[1].entropy, rel=1e-3)
    means = [
        (shown(Uneven(), maps, i, (6, 8)) + shown(Uneven(), maps, i, (6, 8), mirrored=True)) / 2
        for i in range(len(maps))
    ]
    assert as_numbers(flipped[1]) == pytest.approx(expected_scores(maps, means), rel=1e-6)


@pytest.mark.parametrize("image_size", [None, (4, 10)])
@pytest.mark.parametrize("batch", [1, 2])
def test_scales_are_the_mean_of_the_probabilities_of_all_sizes(image_size: tuple[int, int] | None, batch: int) -> None:
    maps, scales = random_maps(), (0.5, 1.0, 1.3)
    height, width = image_size or (6, 8)
    means = []
    for i in range(len(maps)):
        views = [
            shown(Uneven(), maps, i, (round(scale * height), round(scale * width)), mirrored=mirrored)
            for scale in scales
            for mirrored in (False, True)
        ]
        means.append(torch.stack(views).mean(0))
    network = Painted()
    evaluate([network], [maps], SPACE, SPACE.names, CPU, image_size=image_size, scales=scales)
    assert {size[2:] for size in network.sizes} == {(round(s * height), round(s * width)) for s in scales}
    scores = evaluate(
        [Uneven()], [maps], SPACE, SPACE.names, CPU,
        image_size=image_size, flip=True, scales=scales, batch=batch,
    )  # fmt: skip
    assert as_numbers(scores) == pytest.approx(expected_scores(maps, means), rel=1e-5)


def test_several_networks_and_views_count_alike() -> None:
    maps = random_maps()
    scores = evaluate([Uneven(), Even()], [maps, maps], SPACE, SPACE.names, CPU, scales=(1.0, 1.5))
    means = [
        torch.stack([shown(net, maps, i, size) for net in (Uneven(), Even()) for size in ((6, 8), (9, 12))]).mean(0)
        for i in range(len(maps))
    ]
    assert as_numbers(scores) == pytest.approx(expected_scores(maps, means), rel=1e-6)


def test_evaluations_of_a_run_log_what_needs_no_labels(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    settings = [*quiet, "schedule.max_steps=2", "schedule.evaluate_every=1"]
    saved = {}
    for name, views in (("plain", []), ("views", ["evaluation.flip=true", "evaluation.scales=[0.5, 1]"])):
        recipe = compose_recipe("source", "smoke", overrides=[*settings, *views])
        run = RunFolder(tmp_path / name / "source" / "seed0")
        result = train(recipe, run, open_training_data(recipe, streets), device=CPU)
        lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
        found = [(line["entropy"], line["density"]) for line in lines if line["kind"] == "evaluation"]
        assert len(found) == 2
        assert all(0 < entropy < 1 and 0 < density < math.log(99) for entropy, density in found)
        assert (result.entropy, result.density) == found[-1]
        assert run.result() == result
        saved[name] = result
    assert saved["plain"].weights_sha256 == saved["views"].weights_sha256  # scored in another way, trained in the same
    assert saved["plain"].entropy != saved["views"].entropy
    curve = score_curve(read_experiment(tmp_path / "plain").of("source"), "entropy")
    assert (curve.index.tolist(), curve.loc[2].tolist()) == ([1, 2], [saved["plain"].entropy])


def test_factors_are_read_or_rejected() -> None:
    assert factors("0.75, 1,1.25", (48, 96)) == (0.75, 1.0, 1.25)
    for text in ("", "1;2", "0,1", "-1", "inf", "nan"):
        with pytest.raises(typer.BadParameter, match="--scales expects numbers"):
            factors(text, (48, 96))
