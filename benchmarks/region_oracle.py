"""The regions of a label map by a graph search that knows nothing of labeling: what every timed way must find."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components as graph_components
from torch import Tensor

import stuffinstance as si
from benchmarks.labeling_ways import Found


@dataclass(frozen=True)
class Expected:
    """The 8-connected regions of one image.

    Attributes:
        numbers: (H, W) int32, 0 outside, then 1, 2, ... in raster order of each region's first pixel.
        first: (N,) int64, the first pixels.
        area: (N,) int64, the pixels of each.
        category: (N,) int64, the class of each.
    """

    numbers: NDArray[np.int32]
    first: NDArray[np.int64]
    area: NDArray[np.int64]
    category: NDArray[np.int64]


def expected_regions(labels: NDArray[np.int64], classes: Sequence[int]) -> Expected:
    """Pixels are nodes, neighbors of one class are joined, regions are the graph's components."""
    height, width = labels.shape
    wanted = np.isin(labels, list(classes))
    node = np.arange(height * width).reshape(height, width)
    ends = []
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = np.s_[: height - down, max(0, -across) : width - max(0, across)]
        there = np.s_[down:, max(0, across) : width + min(0, across)]
        joined = (labels[here] == labels[there]) & wanted[here]
        ends.append(np.stack([node[here][joined], node[there][joined]]))
    start, stop = np.concatenate(ends, axis=1)
    graph = coo_array((np.ones(len(start), dtype=np.uint8), (start, stop)), shape=(labels.size, labels.size))
    count, component = graph_components(graph, directed=False)
    first = np.empty(count, dtype=np.int64)
    first[component[::-1]] = node.ravel()[::-1]  # the last write stays: each component's first pixel
    first = np.sort(first[wanted.ravel()[first]])
    number = np.zeros(count, dtype=np.int32)
    number[component[first]] = np.arange(1, len(first) + 1)
    numbers = number[component]
    area = np.bincount(numbers, minlength=len(first) + 1)[1:]
    return Expected(numbers.reshape(height, width), first, area, labels.ravel()[first])


def fault(found: Found, expected: Sequence[Expected]) -> str | None:
    """What is wrong with the regions that a way found, or None."""
    if len(found.planes) != len(expected):
        return f"{len(found.planes)} images where there are {len(expected)}"
    for number, (planes, one) in enumerate(zip(found.planes, expected, strict=True)):
        wrong = _fault_of_image(_one_map(planes, one.numbers.shape), one)
        if wrong is not None:
            return f"image {number}: {wrong}"
    if found.areas is not None:
        areas = np.concatenate([_host(part) for part in found.areas])
        if not np.array_equal(np.sort(areas[areas > 0]), np.sort(np.concatenate([one.area for one in expected]))):
            return "areas differ"
    return None


def fault_of_numbers(numbers: Tensor, expected: Sequence[Expected]) -> str | None:
    """What is wrong with numbers that promise raster order, (B, H, W), or None."""
    right = np.stack([one.numbers for one in expected])
    differ = int((numbers.cpu().numpy() != right).sum())
    return f"{differ} pixels have another number" if differ else None


def fault_of_largest(regions: si.Regions, classes: Sequence[int], expected: Sequence[Expected]) -> str | None:
    """What is wrong with the largest regions of each class, or None."""
    for image, one in enumerate(expected):
        for place, k in enumerate(classes):
            own = np.flatnonzero(one.category == k)
            own = own[np.argsort(-one.area[own], kind="stable")][: regions.area.shape[2]]
            area, ids = regions.area[image, place], regions.ids[image, place]
            if area[area > 0].tolist() != one.area[own].tolist() or ids[ids > 0].tolist() != (own + 1).tolist():
                return f"image {image}: the largest regions of class {k} differ"
            rows = 1 + place * regions.area.shape[2] + torch.arange(len(own))
            counted = torch.isin(regions.region_map[image].cpu(), rows.to(torch.int32)).numpy()
            if not np.array_equal(counted, np.isin(one.numbers, own + 1)):
                return f"image {image}: the map of class {k} differs"
    return None


def _fault_of_image(keys: NDArray[np.int64], one: Expected) -> str | None:
    inside = one.numbers > 0
    if not np.array_equal(keys > 0, inside):
        return "other pixels belong to a region"
    representative = keys.ravel()[one.first]
    split = int((keys[inside] != representative[one.numbers[inside] - 1]).sum())
    if split:
        return f"{len(np.unique(keys[inside]))} regions where there are {len(one.first)}"
    merged = len(one.first) - len(np.unique(representative))
    return f"{merged} regions are merged with another" if merged else None


def _one_map(planes: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Planes of one class each as one map in which no two regions share a number."""
    numbers = _host(planes).astype(np.int64, copy=False)
    if numbers.ndim == 2:
        return numbers
    if numbers.shape[0] == 0:
        return np.zeros(shape, dtype=np.int64)
    apart = int(numbers.max()) + 1
    merged = np.zeros(shape, dtype=np.int64)
    for place, plane in enumerate(numbers):
        merged = np.where(plane > 0, plane + place * apart, merged)
    return merged


def _host(values: Any) -> NDArray[Any]:
    return values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
