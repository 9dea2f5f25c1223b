"""Curves over iterations: mIoU with the band of the seeds, and one panel per loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .drawn_figure import Drawn, Line, Theme, add_legend, draw, legend_shape, recipe_lines
from .recipe_names import title
from .results import Evaluation, Experiment, Run

LOSSES = {
    "segmentation": "Segmentation: cross-entropy on labels",
    "adversarial": "Adversarial: how well the target is told apart",
    "discriminator": "Discriminator: chance level is 0.69",
    "stuff": "Stuff matching: distance to the nearest row",
    "instance": "Instance matching: distance to the nearest row",
    "pseudo": "Pseudo-labels: cross-entropy on the target",
    "divergence": "Divergence of labelled pixels from uniform (CRST)",
    "auxiliary_segmentation": "Auxiliary head: cross-entropy on labels",
    "auxiliary_adversarial": "Auxiliary head: how well the target is told apart",
    "auxiliary_discriminator": "Auxiliary discriminator: chance level is 0.69",
    "entropy": "Entropy of the target's output (MinEnt)",
    "max_square": "Maximum squares of the target's output",
    "fine_grained": "Features: how well domain and class are told apart",
    "fine_grained_discriminator": "Discriminator of domain and class (FADA)",
    "anchor_labels": "Anchors: cross-entropy on labels by nearness",
    "confident_labels": "Anchors: cross-entropy on confident labels",
    "anchor_distance_source": "Anchors: distance of source features",
    "anchor_distance_target": "Anchors: distance of target features",
    "mixed": "Class mixing: cross-entropy on mixed pictures",
    "masked": "Masking: cross-entropy where blocks are hidden",
}
MATCHING_LOSSES = ("stuff", "instance")
LABEL_FREE: dict[Literal["entropy", "density"], str] = {
    "entropy": "Entropy of the predictions: lower is more certain",
    "density": "Soft neighbourhood density: higher is denser",
}
BINS = 60  # training losses are noisy; a point of the chart is the mean of what was logged in a sixtieth of the run


@dataclass(frozen=True)
class Curve:
    """Mean over seeds and the lowest and highest seed, at increasing steps."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def over(cls, series: Sequence[dict[int, float]]) -> Curve | None:
        """Join the seeds' series at every step that at least one of them reached."""
        steps = sorted(set().union(*series))
        if not steps:
            return None
        values = [[one[step] for one in series if step in one] for step in steps]
        mean, low, high = ([reduce(v) for v in values] for reduce in (np.mean, np.min, np.max))
        return cls(np.array(steps), np.array(mean), np.array(low), np.array(high))


def miou_curves(experiment: Experiment) -> dict[str, Curve]:
    """mIoU in percent over iterations, per recipe, finished or not; a mean of networks has no iterations."""
    return _over_evaluations(experiment, miou_in_percent)


def label_free_curves(experiment: Experiment, score: Literal["entropy", "density"]) -> dict[str, Curve]:
    """A score that needs no labels over iterations, per recipe; runs of earlier versions have none."""
    return _over_evaluations(experiment, lambda e: getattr(e, score))


def _over_evaluations(experiment: Experiment, value: Callable[[Evaluation], float | None]) -> dict[str, Curve]:
    curves = {recipe: curve_of(experiment.of(recipe), value) for recipe in experiment.recipes}
    return {recipe: curve for recipe, curve in curves.items() if curve}


def curve_of(runs: Sequence[Run], value: Callable[[Evaluation], float | None]) -> Curve | None:
    """A score over iterations, of runs that differ in their seeds; None where it was never taken."""
    return Curve.over(
        [{e.step: found for e in run.evaluations if e.step and (found := value(e)) is not None} for run in runs]
    )


def miou_in_percent(evaluation: Evaluation) -> float | None:
    """None where it was not taken."""
    return None if evaluation.miou is None else 100 * evaluation.miou


def loss_names(experiment: Experiment) -> tuple[str, ...]:
    """The losses that were logged: those of the paper first, then the other systems', then any other."""
    logged = {
        key.removeprefix("loss/")
        for run in experiment.runs
        for line in run.training
        for key in line
        if key.startswith("loss/")
    }
    return (*(name for name in LOSSES if name in logged), *sorted(logged.difference(LOSSES)))


def loss_curves(experiment: Experiment, loss: str) -> dict[str, Curve]:
    """One loss per recipe, averaged in bins of steps. A loss that never leaves 0 was not in use."""
    furthest = max(run.last_step for run in experiment.runs)
    width = max(1, -(-furthest // BINS))
    curves = {}
    for recipe in experiment.recipes:
        series = [_binned(run, f"loss/{loss}", width) for run in experiment.of(recipe)]
        curve = Curve.over([one for one in series if any(one.values())])
        if curve:
            curves[recipe] = curve
    return curves


def never_matched(experiment: Experiment) -> tuple[str, ...]:
    """Why recipes with matching have no line in a chart of its losses: one sentence a loss that stayed 0."""
    sentences = []
    for loss in MATCHING_LOSSES:
        kind, key = LOSSES[loss].partition(":")[0], f"loss/{loss}"
        without = [
            title(recipe)
            for recipe in experiment.recipes
            if "sim" in recipe.split("+")
            and (values := [line[key] for run in experiment.of(recipe) for line in run.training if key in line])
            and not any(values)
        ]
        if without:
            sentences.append(
                f"{kind} has no line for “{'” and “'.join(without)}”: nothing was matched there. With the "
                "default preset nothing is until a bank is full."
            )
    return tuple(sentences)


def _binned(run: Run, key: str, width: int) -> dict[int, float]:
    """Means by the first step of their bin; a last bin cut short joins the one before it."""
    last_whole = max(0, (run.last_step + 1) // width - 1)
    bins: dict[int, list[float]] = {}
    for line in run.training:
        if key in line:
            bins.setdefault(min(int(line["step"]) // width, last_whole) * width, []).append(line[key])
    return {step: float(np.mean(values)) for step, values in bins.items()}


def draw_miou_curves(experiment: Experiment) -> Drawn | None:
    """One line per recipe; ``None`` when nothing was evaluated yet."""
    curves = miou_curves(experiment)
    if not curves:
        return None

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        paint_curves(axes, curves, recipe_lines(experiment.recipes, theme), markers=True)
        axes.set(xlabel="iterations", ylabel="mIoU, %")
        axes.set_ylim(bottom=0)
        add_legend(figure, axes, "outside upper left", 6, handlelength=2.2)

    ends = ", ".join(f"{title(name)} {curve.mean[-1]:.1f}" for name, curve in curves.items())
    size = (7, 3.6 + legend_shape([title(name) for name in curves], 7, 6)[1])
    return draw("miou_curves", f"Line chart of mIoU over iterations. At the end: {ends} percent.", size, paint)


def draw_label_free_curves(experiment: Experiment) -> tuple[Drawn, ...]:
    """One small chart per score that needs no labels."""
    panels = []
    for score, heading in LABEL_FREE.items():
        if curves := label_free_curves(experiment, score):
            panels.append(_panel(score, heading, f"{score} of the predictions", curves, experiment))
    return tuple(panels)


def draw_loss_curves(experiment: Experiment) -> tuple[Drawn, ...]:
    """One small chart per loss, so that a narrow screen can stack them."""
    panels = []
    for loss in loss_names(experiment):
        curves = loss_curves(experiment, loss)
        if curves:
            panels.append(_panel(f"loss_{loss}", LOSSES.get(loss, loss), f"{loss} loss", curves, experiment))
    return tuple(panels)


def _panel(name: str, heading: str, what: str, curves: dict[str, Curve], experiment: Experiment) -> Drawn:
    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        paint_curves(axes, curves, recipe_lines(experiment.recipes, theme), markers=False)
        axes.set_title(heading)
        axes.set_xlabel("iterations")
        axes.set_ylim(bottom=min(0.0, *(float(curve.low.min()) for curve in curves.values())))
        add_legend(figure, axes, "outside lower left", 3, fontsize=7.5, columnspacing=1.2, handlelength=1.6)

    ends = ", ".join(f"{title(name)} ends at {curve.mean[-1]:.3g}" for name, curve in curves.items())
    size = (4.6, 2.7 + legend_shape([title(name) for name in curves], 4.6, 3, 7.5)[1])
    return draw(name, f"Line chart of the {what} over iterations: {ends}.", size, paint)


def paint_curves(axes: Axes, curves: Mapping[str, Curve], lines: Mapping[str, Line], *, markers: bool) -> None:
    """One line per recipe, and the band of its seeds."""
    for recipe, curve in curves.items():
        line = lines[recipe]
        axes.fill_between(curve.steps, curve.low, curve.high, color=line.color, alpha=0.18, linewidth=0)
        axes.plot(
            curve.steps,
            curve.mean,
            line.dash,
            color=line.color,
            linewidth=1.7,
            marker=line.marker if markers else None,
            markersize=4,
            label=title(recipe),
        )
