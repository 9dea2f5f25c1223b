"""Names beside the clusters of a scatter plot: near their own points, over few others, never over each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stuffinstance.drawing.canvas import ink, whole_figure
from stuffinstance.drawing.projection import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DISTANCES = (5.0, 10.0, 17.0, 26.0, 38.0, 55.0, 80.0)  # points, from the named point to the name
_DIRECTIONS = np.linspace(0, 2 * np.pi, 16, endpoint=False)


def name_clusters(ax: Axes, clusters: Sequence[tuple[str, Rows]]) -> None:
    """Write each name near the point at its cluster's middle, a line from one to the other.

    Args:
        ax: Axes that already show the points.
        clusters: Name, and points (n, 2), n at least 1.
    """
    if not clusters:
        return
    figure = whole_figure(ax)
    figure.draw_without_rendering()  # so that it is known where the axes come to lie
    points_per_dot = 72 / figure.dpi
    everything = ax.transData.transform(np.concatenate([points for _, points in clusters])) * points_per_dot
    frame = ax.get_window_extent().get_points() * points_per_dot
    taken: list[Rows] = []
    anchors = [_middle(points) for _, points in clusters]
    for place in sorted(range(len(clusters)), key=lambda k: -float(anchors[k][1])):
        name, _ = clusters[place]
        text = ax.annotate(
            name,
            (float(anchors[place][0]), float(anchors[place][1])),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=ink().text,
            bbox={"boxstyle": "round,pad=0.12", "facecolor": ax.get_facecolor(), "edgecolor": "none", "alpha": 0.72},
            arrowprops={"arrowstyle": "-", "color": ink().soft, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 1},
        )
        half = np.array([0.5 * len(name) * 8 * 0.6, 6.0])
        anchor = ax.transData.transform(anchors[place]) * points_per_dot
        offset = _best_offset(anchor, half, everything, frame, taken)
        text.set_position((float(offset[0]), float(offset[1])))
        taken.append(np.stack([anchor + offset - half, anchor + offset + half]))


def _middle(points: Rows) -> Rows:
    """The point nearest to the median: a name must not stand for an empty place between two groups."""
    median = np.median(points, axis=0)
    return np.asarray(points[np.argmin(((points - median) ** 2).sum(1))])


def _best_offset(anchor: Rows, half: Rows, points: Rows, frame: Rows, taken: Sequence[Rows]) -> Rows:
    """From the anchor to the centre of the name, in points."""
    candidates = [_beside(half, distance, angle) for distance in _DISTANCES for angle in _DIRECTIONS]
    return min(candidates, key=lambda offset: _cost(anchor, offset, half, points, frame, taken))


def _beside(half: Rows, distance: float, angle: float) -> Rows:
    """To the centre of a box whose near side is ``distance`` away."""
    direction = np.array([np.cos(angle), np.sin(angle)])
    return np.asarray(direction * (distance + half))


def _cost(anchor: Rows, offset: Rows, half: Rows, points: Rows, frame: Rows, taken: Sequence[Rows]) -> float:
    """Far from its point is bad, over points worse, out of the frame or over another name worst."""
    low, high = anchor + offset - half, anchor + offset + half
    covered = int(((points > low) & (points < high)).all(1).sum())
    shared = [np.clip(np.minimum(high, other[1]) - np.maximum(low, other[0]), 0, None).prod() for other in taken]
    outside = np.clip(frame[0] - low, 0, None).sum() + np.clip(high - frame[1], 0, None).sum()
    return float(np.hypot(*offset) + 6 * covered + 100 * (outside + sum(shared)))
