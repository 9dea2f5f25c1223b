"""Runs of one experiment: which there are, and which wait for others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..recipes import Recipe, canonical, compose_recipe, stands_on
from ..recipes.settings import Layouts
from ..records.run_folder import RunFolder
from ..training.recipe_network import check_network


@dataclass(frozen=True)
class Job:
    """One run, and the runs whose checkpoints it needs, by the name of their recipes."""

    recipe: Recipe
    run: RunFolder
    needs: tuple[RunFolder, ...] = ()
    variant: str = ""  # tells runs of one recipe and seed with other settings apart

    @property
    def name(self) -> str:
        """As events name it."""
        return f"{self.variant} {self.recipe.title}".lstrip()

    @property
    def cost(self) -> float:
        """Work of a run relative to training on labelled pictures alone; only for the time that is left."""
        recipe = self.recipe
        if recipe.fused_of:
            return 0.1
        second_pass = 1.2 if recipe.needs_target else 0.0
        extra = {
            "matching": 0.3,
            "restyle": 0.1,
            "fine_grained": 0.8,
            "anchors": 0.7,
            "class_mixing": 1.5,
            "masked_consistency": 1.2,
        }
        return 1.0 + second_pass + sum(cost for group, cost in extra.items() if getattr(recipe, group) is not None)


def plan(
    names: Sequence[str],
    seeds: Sequence[int],
    size: str,
    experiment: Path,
    *,
    layouts: Layouts | None = None,
    classes: str = "all",
    overrides: Sequence[str] = (),
) -> list[Job]:
    """Every recipe with every seed, and the runs that they stand on.

    Their order keeps a pair of workers busy: what others wait for goes first.

    Args:
        names: Names of recipes.
        seeds: Seeds of each.
        size: As in :func:`~..recipes.compose_recipe`, like all that follows ``experiment``.
        experiment: The folder of all their runs, ``<recipe>/seed<k>/``.
        layouts: How the data sets are laid out.
        classes: What is scored.
        overrides: Settings of the size.

    Raises:
        RecipeError: If a recipe cannot be.
    """

    def composed(names: Sequence[str]) -> list[Recipe]:
        return [
            compose_recipe(name, size, seed=seed, layouts=layouts, classes=classes, overrides=overrides)
            for seed in seeds
            for name in names
        ]

    wanted: dict[str, None] = {}  # in an order in which what is needed comes first
    for name in names:
        for needed in (*_needed(name), canonical(name)):
            wanted.setdefault(needed)
    # Their order keeps a pair of workers busy: what others wait for goes first.
    depth = {name: max((_height(other, name) for other in wanted), default=0) for name in wanted}
    recipes = sorted(composed(list(wanted)), key=lambda recipe: (-depth[recipe.name], not stands_on(recipe.name).names))
    for recipe in recipes:
        check_network(recipe)
    return [
        Job(
            recipe,
            RunFolder(experiment / recipe.name / f"seed{recipe.seed}"),
            tuple(RunFolder(experiment / name / f"seed{recipe.seed}") for name in stands_on(recipe.name).names),
        )
        for recipe in recipes
    ]


def _needed(name: str) -> list[str]:
    """Everything that a recipe stands on, the deepest first."""
    found: dict[str, None] = {}
    for direct in stands_on(name).names:
        for each in (*_needed(direct), direct):
            found.setdefault(each)
    return list(found)


def _height(name: str, above: str) -> int:
    """How many runs lie between ``name`` and the run ``above`` it stands on; 0 where it does not stand on it."""
    below = stands_on(name).names
    return 1 if above in below else max((1 + h for each in below if (h := _height(each, above))), default=0)
