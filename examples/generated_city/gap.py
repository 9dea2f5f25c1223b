"""How far apart the two renderings are, with and without matching their channel statistics.

A linear classifier has to distinguish the cities by a handful of numbers per image. Given channel means and
deviations it must fall to chance once those are matched; given local texture it must not. Run it with
``python -m examples.generated_city.gap``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from examples.gta5_to_cityscapes.console import escape_unprintable

from .rendering import render_scene
from .statistics import CAMERA_CITY, GAME_CITY

Image = NDArray[np.uint8] | NDArray[np.float64]


def match_channels(image: Image, like: Image) -> NDArray[np.float64]:
    """The image with the channel means and deviations of another."""
    x, y = image.astype(np.float64), like.astype(np.float64)
    scale = y.std(axis=(0, 1)) / x.std(axis=(0, 1)).clip(1e-6)
    return np.asarray((x - x.mean(axis=(0, 1))) * scale + y.mean(axis=(0, 1)))


def channel_statistics(image: Image) -> NDArray[np.float64]:
    """Mean and deviation of each channel (6,)."""
    return np.concatenate([image.mean(axis=(0, 1)), image.std(axis=(0, 1))])


def local_statistics(image: Image) -> NDArray[np.float64]:
    """Energy of brightness and color differences in four bands (12,): what channel statistics leave untouched."""
    values = image.astype(np.float64)
    gray = values.mean(axis=2)
    energies = []
    for plane in (gray, values[:, :, 0] - gray, values[:, :, 2] - gray):
        blurred = [plane, *(cv2.GaussianBlur(plane, (0, 0), sigma) for sigma in (0.6, 1.2, 2.4, 4.8))]
        for fine, coarse in pairwise(blurred):
            energies.append(np.log(np.abs(fine - coarse).mean() + 1e-3))
    return np.array(energies)


def held_out_accuracy(source: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """A linear least-squares classifier trained on even rows and tested on odd ones; 0.5 is chance."""
    x = np.concatenate([source, target])
    y = np.repeat([-1.0, 1.0], [len(source), len(target)])
    x = (x - x.mean(axis=0)) / x.std(axis=0).clip(1e-6)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    weights = np.linalg.solve(x[even].T @ x[even] + 0.1 * np.eye(x.shape[1]), x[even].T @ y[even])
    return float((np.sign(x[odd] @ weights) == y[odd]).mean())


def separability(source: list[NDArray[np.uint8]], target: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Held-out accuracy by channel and by local statistics, as rendered and with channels matched in pairs."""
    matched = [match_channels(s, t) for s, t in zip(source, reversed(target), strict=True)]
    result = {}
    for name, images in (("as rendered", source), ("channels matched", matched)):
        for kind, describe in (("channel statistics", channel_statistics), ("local statistics", local_statistics)):
            rows = np.array([describe(p) for p in images]), np.array([describe(p) for p in target])
            result[f"{kind}, {name}"] = held_out_accuracy(*rows)
    return result


def main(scenes: Annotated[int, typer.Option(min=8, help="Images per city.")] = 120, seed: int = 0) -> None:
    """Print how well two kinds of statistics distinguish the cities."""
    cv2.setNumThreads(1)
    source, target = (
        [render_scene((seed, stats.seed_key, 0, k), stats, (240, 120))[0] for k in range(scenes)]
        for stats in (GAME_CITY, CAMERA_CITY)
    )
    for name, accuracy in separability(source, target).items():
        typer.echo(f"{name:40} {accuracy:6.1%}")


if __name__ == "__main__":
    escape_unprintable()
    typer.run(main)
