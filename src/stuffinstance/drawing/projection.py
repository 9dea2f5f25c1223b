"""Bank rows to points of a plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


def principal_axes(classes: Sequence[Rows]) -> tuple[list[Rows], tuple[float, float]]:
    """Rows (n, D) of each class on the two axes of largest variance, every class weighing the same.

    Returns:
        Points (n, 2) of each class, and the shares of the variance that the two axes hold. Where no two rows differ,
        all points are 0 and so are the shares.
    """
    filled = [rows for rows in classes if len(rows)]
    if not filled:
        return [np.zeros((0, 2)) for _ in classes], (0.0, 0.0)
    centre = np.mean([rows.mean(0) for rows in filled], axis=0)
    weighted = np.concatenate([(rows - centre) / np.sqrt(len(rows)) for rows in filled])
    _, scale, axes = np.linalg.svd(weighted, full_matrices=False)
    axes = np.pad(axes, ((0, max(0, 2 - len(axes))), (0, 0)))[:2]
    shares = np.pad(scale**2, (0, 2))[:2] / max(float((scale**2).sum()), 1e-12)
    return [(rows - centre) @ axes.T for rows in classes], (float(shares[0]), float(shares[1]))
