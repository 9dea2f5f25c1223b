"""Every part of every system: what it adds to a step, what it depends on, and that it survives being stopped."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import stuffinstance as si
from examples.gta5_to_cityscapes.checkpoint import load_checkpoint
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.experiments.experiment import carry_out, plan
from examples.gta5_to_cityscapes.methods import Domain
from examples.gta5_to_cityscapes.methods.category_anchors import CategoryAnchoring
from examples.gta5_to_cityscapes.methods.mean_teacher import TargetTeacher
from examples.gta5_to_cityscapes.recipes import RecipeError, compose_recipe, depends_on, parts
from examples.gta5_to_cityscapes.run_dir import RunFolder
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training.loop import train

from .made_steps import made_step

CPU = torch.device("cpu")

LOSSES = {
    "asn": {
        "auxiliary_segmentation",
        "adversarial",
        "auxiliary_adversarial",
        "discriminator",
        "auxiliary_discriminator",
    },
    "advent": {"adversarial", "discriminator"},
    "minent": {"entropy"},
    "maxsq": {"max_square"},
    "tt": set(),
    "rcs": set(),
    "mix": {"mixed"},
    "mask": {"masked"},
    "bcon": {"bank_contrast"},
    "rcon": {"stuff_contrast", "instance_contrast"},
    "sim+mix+mask": {"stuff", "instance", "mixed", "masked"},
    "fada": {"fine_grained", "fine_grained_discriminator"},
    "cag": {"anchor_distance_source", "anchor_distance_target", "anchor_labels", "confident_labels"},
    "distill": {"pseudo"},
    "cbst": {"pseudo"},
    "crst": {"pseudo", "divergence"},
    "iast": {"pseudo"},
    "it+sym": {"pseudo"},
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_part_adds_its_losses_and_nothing_else(name: str, quiet: list[str]) -> None:
    step, context = made_step(compose_recipe(name, "smoke", overrides=quiet), same_size="mix" in name)
    record = step([context])
    assert set(record) == {"segmentation"} | LOSSES[name]
    assert all(math.isfinite(float(value)) for value in record.values())


@pytest.mark.parametrize(("name", "passes"), {"mix": 2, "mask": 2, "mix+mask": 3, "sim+mix": 3}.items())
def test_the_clean_target_passes_the_network_only_where_a_loss_needs_it(
    name: str, passes: int, quiet: list[str]
) -> None:
    step, context = made_step(compose_recipe(name, "smoke", overrides=quiet), same_size=True)
    seen: list[Tensor] = []
    step.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    step([context])
    assert len(seen) == passes
    clean = [torch.equal(images, context.unlabeled.images) for images in seen]
    assert any(clean) == ("sim" in name)


def test_pseudo_labels_may_be_learned_by_symmetric_cross_entropy(quiet: list[str]) -> None:
    values = {}
    for loss in ("cross_entropy", "symmetric"):
        step, context = made_step(compose_recipe("ssl", "smoke", overrides=[*quiet, f"pseudo_labels.loss={loss}"]))
        with torch.no_grad():
            logits = context.unlabeled.at_scale(step.network(context.unlabeled.images).logits)
        values[loss] = float(step([context])["pseudo"])
        labels = context.unlabeled.labels
        alone = {"ce_weight": 1.0, "rce_weight": 0.0} if loss == "cross_entropy" else {}
        assert values[loss] == pytest.approx(float(si.symmetric_cross_entropy(logits, labels, **alone)), rel=1e-5)
    assert values["symmetric"] > 2 * values["cross_entropy"]


def test_mixed_images_have_one_appearance(quiet: list[str]) -> None:
    """Images are mixed as they were before their colors were changed, and the mixed image is changed instead."""
    still = [f"class_mixing.appearance.{change}=0" for change in ("color_jitter", "blur")]
    seen: list[Tensor] = []
    for overrides in (still, []):
        step, context = made_step(compose_recipe("mix", "smoke", overrides=[*quiet, *overrides]), same_size=True)
        context.labeled.plain, context.unlabeled.plain = (
            torch.full((2, 3, 48, 96), 0.25),
            torch.full((2, 3, 48, 96), 0.5),
        )
        step.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        step([context])
    mixed, changed = seen[1], seen[3]
    assert set(mixed.unique().tolist()) == {0.25, 0.5}
    assert len(changed.unique()) > 2
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1


@pytest.mark.parametrize("batch_norm", ["running", "batch"])
def test_a_teacher_normalizes_by_running_statistics_or_the_batch(batch_norm: str, quiet: list[str]) -> None:
    recipe = compose_recipe("mask", "smoke", overrides=[*quiet, f"teacher.batch_norm={batch_norm}"])
    step, context = made_step(recipe)
    (teacher,) = (method for method in step.methods if isinstance(method, TargetTeacher))
    statistics = {name: value.clone() for name, value in teacher.teacher.named_buffers() if "running" in name}
    teacher.before(context)
    alone = made_step(recipe)[1]
    alone.target = Domain(context.unlabeled.images[:1], context.unlabeled.labels[:1])
    together = context.found["teacher"].labels[:1]
    teacher.before(alone)
    assert torch.equal(alone.found["teacher"].labels, together) == (batch_norm == "running")
    assert all(
        torch.equal(value, statistics[name]) for name, value in teacher.teacher.named_buffers() if name in statistics
    )


@pytest.mark.parametrize("name", [name for name, (_, part) in parts().items() if part.kind != "fusion"])
def test_every_part_is_a_group_of_settings(name: str) -> None:
    group, part = parts()[name]
    settings = compose_recipe("it+sym" if part.name == "sym" else part.name, "small").methods[group]
    assert {key: getattr(settings, key) for key in part.changes} == dict(part.changes)


@pytest.mark.parametrize(
    ("name", "start", "labeled_by", "fused_of"),
    [
        ("aa+it+sim", None, (), ()),
        ("fada", "source", (), ()),
        ("it+fada", "it", (), ()),
        ("fada+distill", None, ("fada",), ()),
        ("cag2", "cag", (), ()),
        ("cag", "source", (), ()),
        ("aa+cag", "aa", (), ()),
        ("cbst3", None, ("cbst2",), ()),
        ("it+ssl2", None, ("it+ssl",), ()),
        ("sim+wmix", "sim", (), ()),
        ("wmix+ssl", None, ("wmix",), ()),
        ("sim+iast", None, ("sim",), ()),
        ("aa+it+sym", None, ("aa+it", "aa+tt"), ()),
        ("aa+tt+sym", None, ("aa+it", "aa+tt"), ()),
        ("aa+it+fused", None, (), ("aa+it", "aa+tt")),
        ("aa+tt+sym+fused", None, (), ("aa+it+sym", "aa+tt+sym")),
    ],
)
def test_what_a_recipe_depends_on(
    name: str, start: str | None, labeled_by: tuple[str, ...], fused_of: tuple[str, ...]
) -> None:
    assert depends_on(name) == (start, labeled_by, fused_of)
    recipe = compose_recipe(name, "small")
    assert (recipe.start, recipe.labeled_by, recipe.fused_of) == (start, labeled_by, fused_of)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("aa+aa", "set the same thing"),
        ("aa+asn", "set the same thing"),
        ("ssl+cbst", "set the same thing"),
        ("fada+cag", "fada, cag"),
        ("sym", "need one of it, tt"),
        ("it+tt+sym", "need one of it, tt"),
        ("distill2", "a later round"),
        ("cbst1", "a later round"),
    ],
)
def test_what_does_not_go_together_is_named(name: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        compose_recipe(name)


def test_rounds_grow_the_portion() -> None:
    portions = [compose_recipe(f"cbst{n}" if n > 1 else "cbst").methods["pseudo_labels"].portion for n in (1, 2, 3, 9)]
    assert portions == pytest.approx([0.2, 0.25, 0.3, 0.5])


def test_a_step_on_new_labels_leaves_the_stage_behind() -> None:
    assert "fine_grained" not in compose_recipe("fada+distill").methods
    assert "fine_grained" in compose_recipe("fada").methods


def test_mixing_needs_images_of_one_size() -> None:
    with pytest.raises(RecipeError, match=r"of one size; set augmentation\.crop"):
        compose_recipe("mix", "full")
    assert compose_recipe("mix", "full", overrides=["augmentation.crop=[512,512]", "augmentation.target=geometry"])


def test_plans_put_first_what_others_wait_for(tmp_path: Path) -> None:
    jobs = plan(["aa+tt+sym+fused", "cbst2", "cag"], [0], "smoke", tmp_path)
    names = [job.recipe.name for job in jobs]
    assert set(names) == {
        *("aa+tt+sym+fused", "aa+it+sym", "aa+tt+sym", "aa+it", "aa+tt"),
        *("cbst2", "cbst", "source", "cag"),
    }
    for job in jobs:
        for name in depends_on(job.recipe.name).names:
            assert names.index(name) < names.index(job.recipe.name)
        assert [run.path.parent.name for run in job.needs] == list(depends_on(job.recipe.name).names)


def test_symmetric_adaptation_from_two_models_to_their_mean(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    results = {}
    for job in plan(["tt+sym+fused"], [0], "smoke", tmp_path, overrides=[*quiet, "schedule.max_steps=2"]):
        results[job.recipe.name] = carry_out(job, streets, CPU)
    assert set(results) == {"it", "tt", "it+sym", "tt+sym", "tt+sym+fused"}
    assert 0 <= results["tt+sym+fused"].miou <= 1
    manifests = [
        json.loads((tmp_path / name / "seed0" / "pseudo_labels" / "manifest.json").read_text())
        for name in ("it+sym", "tt+sym")
    ]
    assert manifests[0]["rule"] == "symmetric"
    assert manifests[0] == manifests[1]  # both learn from the same labels
    # A model that learned from style-transferred target images is scored on transferred ones.
    recipe = compose_recipe("tt", "smoke", overrides=quiet)
    plain = open_training_data(compose_recipe("source", "smoke", overrides=quiet), streets).validation[0]
    seen = open_training_data(recipe, streets).validation[0]
    assert torch.equal(seen.labels, plain.labels)
    assert not torch.equal(seen.image, plain.image)


@pytest.mark.parametrize("name", ["distill", "cbst", "iast"])
def test_rules_write_the_labels_that_the_library_gives(
    name: str, streets: Folders, tmp_path: Path, quiet: list[str]
) -> None:
    jobs = plan([name], [0], "smoke", tmp_path, overrides=[*quiet, "schedule.max_steps=2"])
    for job in jobs:
        carry_out(job, streets, CPU)
    found = json.loads((jobs[-1].run.path / "thresholds.json").read_text())
    if name == "distill":
        assert found["kept_total"] == 1.0
    if name == "cbst":
        assert 0 < found["kept_total"] < 1
    if name == "iast":
        assert all(0 < value < 1 for value in found["thresholds"].values())
        # Once more, with one file gone: thresholds moved with each batch, so all is done again, to the same end.
        folder = jobs[-1].run.pseudo_labels
        before = {path.name: path.read_bytes() for path in folder.glob("*.png")}
        next(iter(folder.glob("*.png"))).unlink()
        (jobs[-1].run.path / "result.json").unlink()
        carry_out(jobs[-1], streets, CPU)
        assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == before


def test_the_teacher_and_everything_else_survive_a_stop(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    recipe = compose_recipe(
        "sim+mix+mask", "smoke", overrides=[*quiet, "schedule.max_steps=4", "schedule.decay_steps=4"]
    )
    data = open_training_data(recipe, streets)
    whole = train(recipe, RunFolder(tmp_path / "whole"), data, device=CPU)
    with pytest.raises(Stopped):
        train(recipe, RunFolder(tmp_path / "cut"), data, device=CPU, stop_after=2)
    resumed = train(recipe, RunFolder(tmp_path / "cut"), data, device=CPU)
    assert resumed.weights_sha256 == whole.weights_sha256
    one, other = (load_checkpoint(tmp_path / name / "checkpoints" / "last.pt")["teacher"] for name in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_teacher_follows_after_the_optimizers(quiet: list[str]) -> None:
    step, context = made_step(compose_recipe("mask", "smoke", overrides=[*quiet, "teacher.alpha=0.5"]))
    (teacher,) = (method for method in step.methods if isinstance(method, TargetTeacher))
    name, start = next((n, p.detach().clone()) for n, p in step.network.named_parameters())
    step([context])
    now = dict(step.network.named_parameters())[name].detach()
    followed = dict(teacher.teacher.network.named_parameters())[name].detach()
    assert not torch.equal(now, start)
    assert torch.allclose(followed, (start + now) / 2)  # the copy it began as counts for one


def test_a_stage_begins_with_the_weights_it_depends_on(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    few = [*quiet, "schedule.max_steps=2", "schedule.decay_steps=2", "anchors.min_pixels=1"]
    first, second = plan(["cag"], [0], "smoke", tmp_path, overrides=few)
    carry_out(first, streets, CPU)
    carry_out(second, streets, CPU)
    before, after = (load_checkpoint(job.run.checkpoint) for job in (first, second))
    for key, value in before["network"].items():
        assert torch.equal(after["stage_start"][key], value)
    assert int((after["anchors"]["count"] > 0).sum()) > 1
    identity = json.loads((second.run.path / "data.json").read_text())
    assert len(identity["first_stage_weights"]) == 64


def test_anchors_are_means_of_the_starting_network(streets: Folders, quiet: list[str]) -> None:
    recipe = compose_recipe("cag", "smoke", overrides=[*quiet, "anchors.min_pixels=1"])
    step, _ = made_step(recipe)
    (method,) = (each for each in step.methods if isinstance(each, CategoryAnchoring))
    data = open_training_data(recipe, streets)
    step.prepare(data.labeled)
    expected = si.CategoryAnchors(19, step.network.feature_dim, min_pixels=1)
    step.network.eval()
    for index in range(len(data.labeled)):
        sample = data.labeled[index]
        with torch.no_grad():
            seen = step.network(sample.image[None] / 255)
        expected.update(seen.features, sample.labels[None].long(), seen.logits)
    assert torch.equal(method.anchors.count, expected.count)
    assert torch.allclose(method.anchors.anchors, expected.anchors, atol=1e-5)


def test_a_stage_without_anchors_says_so(streets: Folders, quiet: list[str], caplog: pytest.LogCaptureFixture) -> None:
    step, _ = made_step(compose_recipe("cag", "smoke", overrides=[*quiet, "anchors.min_pixels=100000"]))
    step.prepare(open_training_data(compose_recipe("cag", "smoke", overrides=quiet), streets).labeled)
    assert "0 of 19 classes have one" in caplog.text
