"""Region contrast in the pipeline: matching where nothing repels, and which regions count."""

from __future__ import annotations

import pytest
from torch import Tensor

from examples.gta5_to_cityscapes.recipes import RecipeError, compose_recipe

from .made_steps import made_step


def losses_of(name: str, quiet: list[str], *overrides: str) -> dict[str, Tensor]:
    step, context = made_step(compose_recipe(name, "smoke", overrides=[*quiet, *overrides]))
    return step([context])


def settings(*given: str) -> list[str]:
    return [f"region_contrast.{each}" for each in ("agreement=false", *given)]


def test_where_nothing_repels_it_is_matching(quiet: list[str]) -> None:
    sims = losses_of("sim", quiet, "matching.preset=paper", "matching.agreement=false")
    found = losses_of("rcon", quiet, *settings("repel=0", "distance=l1_squared"))
    for kind in ("stuff", "instance"):
        assert sims[kind] > 0
        assert float(found[f"{kind}_contrast"]) == pytest.approx(float(sims[kind]), rel=1e-5)


def test_other_classes_of_both_banks_repel(quiet: list[str]) -> None:
    pulled = losses_of("rcon", quiet, *settings("repel=0"))
    pushed = losses_of("rcon", quiet, *settings())
    assert all(pushed[name] != pulled[name] for name in ("stuff_contrast", "instance_contrast"))


def test_regions_of_which_the_teacher_is_unsure_do_not_count(quiet: list[str]) -> None:
    for least, counts in ((0.0, True), (1.0, False)):
        found = losses_of("rcon", quiet, *settings("labels=teacher", f"min_confidence={least}"))
        assert all(bool(found[name]) == counts for name in ("stuff_contrast", "instance_contrast"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["min_confidence=0.5"], "min_confidence is that of a teacher's labels"),
        (["positives=all", "distance=l2"], "positives=all needs region_contrast.distance=cosine"),
    ],
)
def test_settings_that_do_not_go_together_are_named(given: list[str], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        compose_recipe("rcon", "smoke", overrides=settings(*given))
