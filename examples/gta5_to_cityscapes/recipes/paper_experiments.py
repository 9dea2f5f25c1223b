"""The experiments of the SIM paper (CVPR 2020): which runs each is made of, and what was published beside them.

A sweep's values are given as published. In another preset, or with another value of that setting, they are the same
multiples of what the setting then is: a network that sees a hundredth of the images has a smaller bank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..config import LayoutConfig
from .parts import RecipeError
from .recipe import ABLATION, preset_named

PAPER_GTA5 = dict(zip(ABLATION, (36.6, 41.4, 44.9, 46.2, 49.2, 65.1), strict=True))
PAPER_SYNTHIA_13 = dict(zip(ABLATION, (38.6, 45.9, 46.0, 47.1, 52.1, 71.7), strict=True))
TESTS_OF_A_CURVE = 40  # every 5000 of 200 000 iterations


@dataclass(frozen=True)
class Sweep:
    """One setting at several values.

    Attributes:
        group: Of the setting.
        setting: Its name in the group.
        symbol: As the paper calls it.
        default: The paper's choice.
        published: mIoU in percent by value.
        note: What to know of its values.
    """

    group: str
    setting: str
    symbol: str
    default: float
    published: Mapping[float, float]
    note: str = ""


@dataclass(frozen=True)
class Variant:
    """One row of an experiment: a recipe, with settings of its own where the experiment varies one.

    Attributes:
        recipe: What is trained.
        folder: Of its runs within the experiment's folder; "" where the recipe's name identifies it.
        overrides: Its own settings.
        published: mIoU in percent, None where the paper prints none.
        value: Of the setting that is varied, None without a sweep.
        published_value: The paper's value in its place.
        default: Whether that is the paper's choice.
    """

    recipe: str
    folder: str = ""
    overrides: tuple[str, ...] = ()
    published: float | None = None
    value: float | None = None
    published_value: float | None = None
    default: bool = False


@dataclass(frozen=True)
class PaperExperiment:
    """A table or figure of the paper.

    Attributes:
        name: As the command takes it.
        printed: As the paper calls it.
        question: What it answers.
        published: mIoU in percent by recipe, None where the paper prints none.
        sweep: What is varied; the recipes then are one.
        curve: Whether the scores along training are the result.
        source: Layout of the source.
        classes: What is scored.
    """

    name: str
    printed: str
    question: str
    published: Mapping[str, float | None]
    sweep: Sweep | None = None
    curve: bool = False
    source: Literal["gta5", "synthia"] = "gta5"
    classes: str = "all"

    @property
    def layouts(self) -> LayoutConfig:
        """How the folders of its data are laid out."""
        return LayoutConfig(source=self.source)

    @property
    def data(self) -> str:
        """From where to where."""
        return f"{'SYNTHIA' if self.source == 'synthia' else 'GTA5'} → Cityscapes"

    def settings(self, preset: str, overrides: Sequence[str] = ()) -> list[str]:
        """What all its runs set: ``overrides``, and before them how often a curve is tested."""
        if not self.curve:
            return list(overrides)
        steps = preset_named(preset, overrides).schedule.max_steps
        return [f"schedule.evaluate_every={math.ceil(steps / TESTS_OF_A_CURVE)}", *overrides]

    def variants(self, preset: str, overrides: Sequence[str] = ()) -> tuple[Variant, ...]:
        """Its rows, in the paper's order."""
        if self.sweep is None:
            return tuple(Variant(recipe, published=miou) for recipe, miou in self.published.items())
        (recipe,) = self.published
        rows = tuple(_swept(self.sweep, recipe, published, preset, overrides) for published in self.sweep.published)
        if len({row.folder for row in rows}) < len(rows):
            raise RecipeError(
                f"{self.name} varies {self.sweep.group}.{self.sweep.setting}, whose values must differ, got "
                f"{', '.join(f'{row.value:g}' for row in rows)}: multiples of what the setting is. Set it larger."
            )
        return rows


def _swept(sweep: Sweep, recipe: str, published: float, preset: str, overrides: Sequence[str]) -> Variant:
    own = getattr(preset_named(preset, overrides).methods[sweep.group], sweep.setting)
    value = own * published / sweep.default
    value = max(1, round(value)) if isinstance(own, int) else float(f"{value:.6g}")  # 0.01 · 0.05 / 0.01 is 0.05
    return Variant(
        recipe,
        folder=f"{sweep.setting}-{value:g}",
        overrides=(f"{sweep.group}.{sweep.setting}={value:g}",),
        published=sweep.published[published],
        value=value,
        published_value=published,
        default=published == sweep.default,
    )


_WEIGHTS = Sweep("matching", "weight", "λ_ci", 0.01, {0.1: 43.4, 0.05: 44.2, 0.01: 46.2, 0.005: 45.4, 0.001: 45.5})
_CAPACITIES = Sweep(
    "matching",
    "capacity",
    "w",
    50,
    {10: 45.2, 50: 46.2, 200: 46.1, 800: 45.3, 1600: 45.0},
    note="A class is matched only once its bank has been filled (preset code): the larger w, the later, and in a short "
    "training rare classes never.",
)

PAPER_EXPERIMENTS: dict[str, PaperExperiment] = {
    each.name: each
    for each in (
        PaperExperiment("table2", "Table 2", "What does each part add?", PAPER_GTA5),
        PaperExperiment(
            "table3",
            "Table 3",
            "How much should the matching losses count?",
            {"aa+it+sim": PAPER_GTA5["aa+it+sim"]},
            sweep=_WEIGHTS,
        ),
        PaperExperiment(
            "table4",
            "Table 4",
            "How many rows of a class should its bank hold?",
            {"aa+it+sim": PAPER_GTA5["aa+it+sim"]},
            sweep=_CAPACITIES,
        ),
        PaperExperiment(
            "table6",
            "Table 6",
            "What does each part add, from another source?",
            PAPER_SYNTHIA_13,
            source="synthia",
            classes="13",
        ),
        PaperExperiment(
            "figure2",
            "Figure 2",
            "Does matching keep a long adversarial training from losing what it won?",
            {"aa": PAPER_GTA5["aa"], "aa+sim": None},
            curve=True,
        ),
    )
}
