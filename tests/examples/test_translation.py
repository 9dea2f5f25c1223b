"""The trained translation: its networks and losses by hand, a training that moves, resumes and is used."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from examples.gta5_to_cityscapes.checkpoint import CheckpointError, digest_of_weights, load_checkpoint, save_checkpoint
from examples.gta5_to_cityscapes.data import DatasetError, SegmentationDataset, open_dataset, read_id_map, read_image
from examples.gta5_to_cityscapes.data.style_transfer import TransferredImages
from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.gta5_to_cityscapes.models import build_network
from examples.gta5_to_cityscapes.models.small import small_network
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolderError
from examples.gta5_to_cityscapes.signals import Stopped
from examples.translation.__main__ import app
from examples.translation.applying import translate, write_translated
from examples.translation.comparing import compare, distances
from examples.translation.images import StepImages
from examples.translation.losses import domain_loss, real_fake_loss, reconstruction_loss, segmentation_consistency
from examples.translation.networks import Discriminator, Generator, Judgement
from examples.translation.settings import Settings
from examples.translation.step import Segment, TranslationStep
from examples.translation.training import train, trained_generator

from .test_checkpoints import assert_same

CPU = torch.device("cpu")
TINY = Settings(steps=6, size=(32, 48), crop=(24, 40), width=4, blocks=1, lr=2e-3)


def opened(streets: Folders, size: tuple[int, int] = TINY.size) -> tuple[SegmentationDataset, SegmentationDataset]:
    source = open_dataset("gta5", streets.source, size=size, labels=False)
    return source, open_dataset("cityscapes", streets.target, size=size, labels=False)


@pytest.fixture(scope="module")
def checkpoint(streets: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A translation of six steps."""
    return train(TINY, *opened(streets), tmp_path_factory.mktemp("translation"), device=CPU)


def moved(generator: torch.nn.Module) -> Generator:
    """A generator whose change is not the identity that training begins with."""
    assert isinstance(generator, Generator)
    torch.nn.init.normal_(generator.delta.weight, std=0.05)
    return generator


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (48, 96)])
def test_a_generator_starts_from_no_change_and_keeps_any_size(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, *size)
    towards = torch.tensor([0, 1, 0])
    generator = Generator(width=4, blocks=1)
    assert torch.equal(generator(images, towards), images)
    after = moved(generator)(images, towards)
    assert after.shape == images.shape
    assert not torch.equal(after, images)


def test_each_image_of_a_batch_goes_its_own_way() -> None:
    torch.manual_seed(0)
    generator = moved(Generator(width=4, blocks=1))
    image = torch.rand(1, 3, 16, 24)
    both = generator(image.expand(2, -1, -1, -1), torch.tensor([0, 1]))
    assert not torch.allclose(both[0], both[1], atol=1e-3)
    for domain in (0, 1):
        torch.testing.assert_close(generator(image, torch.tensor([domain]))[0], both[domain])


def test_the_change_depends_on_the_exposure_of_the_image() -> None:
    torch.manual_seed(0)
    generator = moved(Generator(width=4, blocks=1))
    image = 0.4 * torch.rand(1, 3, 32, 32)
    towards = torch.ones(1, dtype=torch.int64)
    change, brighter = (generator(each, towards) - each for each in (image, image + 0.5))
    assert (change.mean() - brighter.mean()).abs() > 1e-3


@pytest.mark.parametrize(
    ("images", "towards", "message"),
    [
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), "images must be floating"),
        (torch.zeros(1, 4, 16, 16), torch.zeros(1, dtype=torch.int64), r"images must be floating point RGB"),
        (torch.zeros(2, 3, 16, 16), torch.zeros(1, dtype=torch.int64), r"one domain for each of 2 images \(B,\)"),
        (torch.zeros(1, 3, 16, 16), torch.zeros(1), "towards must be int64"),
    ],
)
def test_wrong_input_of_the_generator(images: torch.Tensor, towards: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Generator(4, 1)(images, towards)


def test_a_patch_sees_40_pixels() -> None:
    image = torch.rand(1, 3, 96, 96, requires_grad=True)
    judged = Discriminator(width=4)(image)
    assert judged.real.shape == (1, 2, 12, 12)
    assert judged.domain.shape == (1, 1, 12, 12)
    (gradient,) = torch.autograd.grad(judged.real[0, 0, 6, 6], image)
    seen = gradient[0].abs().sum(0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [40, 40]


def test_losses_by_hand() -> None:
    # Two images of one patch each; the first is or pretends to be source, the second target.
    real = torch.tensor([[0.5, 9.0], [7.0, -1.0]])[:, :, None, None]
    judged = Judgement(real, torch.tensor([-1.0, 2.0])[:, None, None, None])
    domain = torch.tensor([0, 1])
    assert real_fake_loss(judged, domain, real=True).item() == pytest.approx((0.5**2 + 2**2) / 2)
    assert real_fake_loss(judged, domain, real=False).item() == pytest.approx((0.5**2 + 1**2) / 2)
    expected = (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(-2.0))) / 2
    assert domain_loss(judged, domain).item() == pytest.approx(expected)
    assert reconstruction_loss(torch.zeros(2), torch.tensor([1.0, -3.0])).item() == 2.0


def test_segmentation_consistency_is_the_divergence_of_predictions() -> None:
    torch.manual_seed(0)
    before, after = torch.randn(2, 4, 3, 5, dtype=torch.float64), torch.randn(2, 4, 3, 5, dtype=torch.float64)
    before.requires_grad_()
    after.requires_grad_()
    p, q = before.softmax(1), after.softmax(1)
    expected = torch.stack([
        sum(p[b, c, i, j] * (p[b, c, i, j] / q[b, c, i, j]).log() for c in range(4))
        for b in range(2) for i in range(3) for j in range(5)
    ]).mean()  # fmt: skip
    loss = segmentation_consistency(before, after)
    torch.testing.assert_close(loss, expected)
    assert segmentation_consistency(before, before).item() == pytest.approx(0, abs=1e-12)
    loss.backward()
    assert before.grad is None
    torch.testing.assert_close(after.grad, (q - p).detach() / 30)


def test_a_step_teaches_each_network_by_its_own_losses_alone() -> None:
    torch.manual_seed(0)
    segment: Segment = torch.nn.Conv2d(3, 5, 1).requires_grad_(False)
    settings = Settings(steps=4, width=4, blocks=1, identity=1.0, segmentation="given")
    step = TranslationStep(settings, segment)
    moved(step.generator)
    source, target = torch.rand(2, 3, 24, 32), torch.rand(2, 3, 24, 32)
    losses = step(source, target, 2)
    names = ["discriminator_real_fake", "discriminator_domain", "real_fake", "domain", "reconstruction"]
    assert list(losses) == [*names, "identity", "consistency"]
    assert all(torch.isfinite(value) and not value.requires_grad for value in losses.values())
    assert step.optimizers["generator"].param_groups[0]["lr"] == settings.lr
    step(source, target, 3)
    assert step.optimizers["discriminator"].param_groups[0]["lr"] == settings.lr / 2
    gathered = [each.grad.clone() for each in step.discriminator.parameters() if each.grad is not None]
    made = step.generator(torch.cat([source, target]), torch.tensor([1, 1, 0, 0]))
    step._teach_generator(torch.cat([source, target]), torch.tensor([0, 0, 1, 1]), made, torch.zeros_like(made))
    for before, after in zip(gathered, step.discriminator.parameters(), strict=True):
        assert after.grad is not None
        assert torch.equal(before, after.grad)
        assert after.requires_grad


def test_images_follow_from_seed_and_step_alone(streets: Folders) -> None:
    source, _ = opened(streets)
    settings = Settings(size=TINY.size, crop=(24, 40), batch=2)
    images = StepImages(source, settings, 0)
    drawn = [images.draw(step) for step in range(3)]
    torch.rand(5)
    assert torch.equal(StepImages(source, settings, 0).draw(2), drawn[2])
    assert not torch.equal(StepImages(source, settings, 1).draw(2), drawn[2])
    assert drawn[0].shape == (2, 3, 24, 40)
    assert 0 <= drawn[0].min() < drawn[0].max() <= 1
    whole = StepImages(source, Settings(size=TINY.size, crop=None, batch=2), 0)
    seen = {int(255 * 255 * each.sum()) for step in range(3) for each in whole.draw(step)}
    assert len(seen) == len(source) == 6  # an epoch shows each once


def test_training_moves_images_towards_the_other_domain(streets: Folders, tmp_path: Path) -> None:
    """The streets' target is the source with less green and blue; sixty steps find that without a pair."""
    settings = Settings(steps=60, size=(32, 64), crop=(24, 48), batch=2, width=8, blocks=1, lr=3e-3, average=0.9)
    source, target = opened(streets, settings.size)
    file = train(settings, source, target, tmp_path, device=CPU)
    _, generator = trained_generator(file, CPU)
    warm, cold = (torch.stack([each[i].image for i in range(4)]).float() / 255 for each in (target, source))

    def distance(images: torch.Tensor, like: torch.Tensor) -> float:
        return float((images.mean((0, 2, 3)) - like.mean((0, 2, 3))).abs().sum())

    with torch.no_grad():
        warmed, cooled = generator(cold, torch.ones(4).long()), generator(warm, torch.zeros(4).long())
    assert distance(warmed, warm) < 0.5 * distance(cold, warm)
    assert distance(cooled, cold) < 0.5 * distance(warm, cold)


def test_resuming_equals_never_having_stopped(streets: Folders, tmp_path: Path, checkpoint: Path) -> None:
    parts = tmp_path / "parts"
    for stop in (2, 5):
        with pytest.raises(Stopped, match=f"stopped at step {stop} of 6"):
            train(TINY, *opened(streets), parts, device=CPU, stop_after=stop)
        torch.manual_seed(99)
    second = load_checkpoint(train(TINY, *opened(streets), parts, device=CPU))
    first = load_checkpoint(checkpoint)
    for each in (first, second):
        each.pop("seconds")
    assert_same(first, second, "checkpoint")
    lines = [json.loads(line) for line in (parts / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 5, 6]
    assert not list(parts.glob("*.part"))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    streets: Folders, tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for stop in (2, 3, 5):
        with pytest.raises(Stopped):
            train(TINY, *opened(streets), tmp_path, device=CPU, stop_after=stop)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["last.pt", "step000003.pt"]
    content = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(content[: len(content) // 2])
    second = load_checkpoint(train(TINY, *opened(streets), tmp_path, device=CPU))
    assert "going on from the one before, of step 3" in caplog.text
    assert (tmp_path / "last.pt.damaged").is_file()
    first = load_checkpoint(checkpoint)
    for each in (first, second):
        each.pop("seconds")
    assert_same(first, second, "checkpoint")
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"could not read any: last\.pt .*; step000003\.pt"):
        train(TINY, *opened(streets), tmp_path, device=CPU)


def test_a_folder_of_other_settings_is_rejected(streets: Folders, checkpoint: Path, tmp_path: Path) -> None:
    source, target = opened(streets)
    other = Settings.from_plain(TINY.as_plain() | {"seed": 1})
    with pytest.raises(RunFolderError, match="seed: 0 -> 1"):
        train(other, source, target, checkpoint.parent, device=CPU)
    source.exclude(["00001"])
    with pytest.raises(RunFolderError, match=r"data\.source\.images: 1 of 6 images are gone, such as 00001"):
        train(TINY, source, target, checkpoint.parent, device=CPU)
    with pytest.raises(ValueError, match="give both, or neither"):
        train(TINY, source, target, tmp_path, device=CPU, segment=small_network(19))
    save_checkpoint(tmp_path / "other.pt", {"network": {}})
    with pytest.raises(CheckpointError, match="expected one of a translation"):
        trained_generator(tmp_path / "other.pt", CPU)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"seed": -1}, "seed must be"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"lr": float("inf")}, "lr must be above 0 and finite"),
        ({"reconstruction": float("inf")}, "reconstruction is the weight"),
        ({"steps": 2**31}, r"steps must be at least 1 and below 2\^31"),
        ({"seed": 2**40}, "seed must be"),
        ({"size": (100_000, 100_000), "crop": None}, "size must be .* at most 67108864 pixels"),
        ({"average": 1.5}, "average must be between"),
        ({"identity": -1.0}, "identity is the weight of a loss, or of noise"),
        ({"size": (8, 64)}, r"size and crop must be \(height, width\)"),
        ({"crop": (128, 64)}, r"crop \(128, 64\) must fit into size \(120, 240\)"),
    ],
)
def test_settings_that_cannot_be_right(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)  # type: ignore[arg-type]


def test_translated_source_is_a_data_set_and_a_style_transfer(
    streets: Folders, checkpoint: Path, tmp_path: Path
) -> None:
    settings, generator = trained_generator(checkpoint, CPU)
    source = open_dataset("gta5", streets.source, size=settings.size)
    out = tmp_path / "translated"
    folder = write_translated(settings, generator, [source], "target", out)
    by_itself = open_dataset("gta5", out)
    beside = TransferredImages(source, folder)
    assert by_itself.names == beside.names == source.names
    expected = translate(generator, read_image(source.files[2].image, settings.size)[0], "target")
    for index in range(len(source)):
        assert torch.equal(by_itself[index].labels, source[index].labels)
        assert torch.equal(by_itself[index].image, beside[index].image)
        assert by_itself[index].image.shape == (3, *settings.size)
    np.testing.assert_array_equal(by_itself[2].image.permute(1, 2, 0).numpy(), expected)
    assert not np.array_equal(expected, source[2].image.permute(1, 2, 0).numpy())


def test_labels_of_the_right_size_are_copied(streets: Folders, tmp_path: Path) -> None:
    settings = Settings(size=(48, 96), crop=None, width=4, blocks=1)
    source = open_dataset("gta5", streets.source, size=settings.size)
    write_translated(settings, Generator(4, 1), [source], "target", tmp_path / "out")
    for entry in source.files:
        assert entry.labels is not None
        assert (tmp_path / "out/labels" / entry.labels.name).read_bytes() == entry.labels.read_bytes()
        unchanged = read_image(tmp_path / "out/images" / entry.image.name)[0]  # by a generator that starts from none
        np.testing.assert_array_equal(unchanged, read_image(entry.image)[0])


def test_applying_goes_on_and_rejects_what_is_not_its_own(streets: Folders, checkpoint: Path, tmp_path: Path) -> None:
    settings, generator = trained_generator(checkpoint, CPU)
    source = open_dataset("gta5", streets.source, size=settings.size)
    out = tmp_path / "translated"
    write_translated(settings, generator, [source], "target", out)
    lost, kept = out / "images/00002.png", out / "images/00003.png"
    content, written = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    write_translated(settings, generator, [source], "target", out)
    assert lost.read_bytes() == content
    assert kept.stat().st_mtime_ns == written
    with pytest.raises(RunFolderError, match='towards: "target" -> "source"'):
        write_translated(settings, generator, [source], "source", out)
    with pytest.raises(RunFolderError, match="generator_sha256"):
        write_translated(settings, Generator(4, 1), [source], "target", out)
    with pytest.raises(RunFolderError, match="it holds other files"):
        write_translated(settings, generator, [source], "target", streets.source)
    with pytest.raises(DatasetError, match="6 names come again"):
        write_translated(settings, generator, [source, source], "target", tmp_path / "twice")


def test_distances_to_itself_and_to_another() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 200, (24, 32, 3), np.uint8) for _ in range(80)]
    first, same, brighter = images[:40], images[40:], [(each + 40).astype(np.uint8) for each in images[40:]]
    assert distances(first, same)["channels"].accuracy < 0.8
    assert distances(first, same)["channels"].shift < 0.6
    assert distances(first, brighter)["channels"].accuracy == 1.0
    assert distances(first, brighter)["channels"].shift > 5
    assert distances(first, brighter)["brightness texture"].shift < 0.6
    gray = [each.mean(2, keepdims=True).astype(np.uint8).repeat(3, 2) for each in same]
    assert distances(gray, first)["color texture"].shift > 5
    rows = compare(brighter[:20], same[:20], first)
    assert rows["reference itself"]["channels"].shift < 0.6
    assert rows["translated"]["channels"].shift < 0.6 < 5 < rows["as they are"]["channels"].shift
    assert rows["colors matched"]["channels"].shift < 1
    with pytest.raises(ValueError, match="equally many"):
        distances(first, same[:3])
    with pytest.raises(ValueError, match="must be n, n and 2n images, got 40, 40 and 40"):
        compare(first, same, first)


def test_commands_from_training_to_the_sheet(streets: Folders, tmp_path: Path) -> None:
    source, target = ["--source", str(streets.source)], ["--target", str(streets.target)]

    def run(*words: object) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    small = ["--steps", 2, "--size", 32, 48, "--crop", 32, 40, "--width", 4, "--blocks", 1, "--device", "cpu"]
    run("train", *source, *target, "--out", tmp_path / "run", *small)
    checkpoint = ["--checkpoint", tmp_path / "run/last.pt", "--device", "cpu"]
    run("apply", *checkpoint, *source, "--towards", "target", "--out", tmp_path / "there")
    run("apply", *checkpoint, *target, "--towards", "source", "--out", tmp_path / "back", "--splits", "val")
    there, back = (sorted(each.stem for each in (tmp_path / name / "images").iterdir()) for name in ("there", "back"))
    assert there == open_dataset("gta5", streets.source).names
    assert back == open_dataset("cityscapes", streets.target, split="val").names
    assert not (tmp_path / "back/labels").exists()
    assert read_id_map(tmp_path / "there/labels/00001.png").shape == (32, 48)
    sheet = ["--sheet", tmp_path / "sheet.png", "--rows", 2, "--images", 4]
    printed = run("compare", "--translated", tmp_path / "there", *source, *target, *sheet)
    assert "distance to the target, 3 images" in printed
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.size == (3 * 50 - 2, 2 * 34 - 2)


def test_a_checkpoint_of_the_pipeline_keeps_the_segmentation(streets: Folders, tmp_path: Path) -> None:
    recipe = compose_recipe("source", "smoke", overrides=["network.options.width=8", "network.options.feature_dim=8"])
    network = build_network(recipe.network.name, recipe.label_space.num_classes, **recipe.network.options)
    saved = {"recipe": recipe.model_dump(mode="json"), "network": network.state_dict(), "step": 0}
    save_checkpoint(tmp_path / "pipeline.pt", saved)
    words = ["train", "--source", streets.source, "--target", streets.target, "--out", tmp_path / "run", "--steps", 1]
    words += ["--size", 32, 64, "--crop", 24, 32, "--width", 4, "--blocks", 1, "--device", "cpu"]
    words += ["--from-checkpoint", tmp_path / "pipeline.pt"]
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (line,) = (json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert line["loss/consistency"] == pytest.approx(0, abs=1e-6)  # the first generator changes nothing
    kept = load_checkpoint(tmp_path / "run/last.pt")["translation"]["segmentation"]
    assert kept == digest_of_weights(network.state_dict())


def test_commands_name_what_is_wrong(streets: Folders, tmp_path: Path) -> None:
    source = ["--source", str(streets.source)]
    rejected = CliRunner().invoke(app, ["apply", "--checkpoint", "x", *source, "--towards", "source", "--out", "y"])
    assert rejected.exit_code == 2
    assert "--target with --towards source" in " ".join(rejected.output.replace("│", " ").split())
    both = [*source, "--target", str(streets.target), "--out", str(tmp_path)]
    rejected = CliRunner().invoke(app, ["train", *both, "--steps", "0"])
    assert rejected.exit_code == 2
    assert "steps must be at least 1" in " ".join(rejected.output.replace("│", " ").split())


def test_other_content_of_an_image_is_rejected_or_applied_again(
    streets: Folders, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(streets.source.parent, tmp_path / "data")
    own = Folders(tmp_path / "data" / "gta5", tmp_path / "data" / "cityscapes")
    begun = tmp_path / "begun"
    with pytest.raises(Stopped):
        train(TINY, *opened(own), begun, device=CPU, stop_after=2)
    settings, generator = trained_generator(checkpoint, CPU)
    source, out = open_dataset("gta5", own.source, size=settings.size), tmp_path / "translated"
    write_translated(settings, generator, [source], "target", out)
    changed, kept = out / "images/00002.png", out / "images/00003.png"
    before, written = changed.read_bytes(), kept.stat().st_mtime_ns
    shutil.copy(own.source / "images/00004.png", own.source / "images/00002.png")
    shutil.copy(own.source / "labels/00004.png", own.source / "labels/00002.png")
    write_translated(settings, generator, [source], "target", out)
    assert changed.read_bytes() == (out / "images/00004.png").read_bytes() != before
    assert (out / "labels/00002.png").read_bytes() == (out / "labels/00004.png").read_bytes()
    assert kept.stat().st_mtime_ns == written
    with pytest.raises(RunFolderError, match=r"data\.source\.images: 1 of 6 images have changed, such as 00002"):
        train(TINY, *opened(own), begun, device=CPU)
    shutil.copy(streets.source / "images/00002.png", own.source / "images/00002.png")
    train(TINY, *opened(own), begun, device=CPU)
