"""How else the regions of the thing classes can be numbered and their areas counted, each as its library wants it.

A way takes label maps (B, H, W) int64 on the benchmark's device, 255 for pixels without a class, and gives a
:class:`Found` in its library's own terms. Ways of a numpy library on labels of a GPU carry them to the host and the
numbers back: that is what using it there costs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from benchmarks.measurement import NOT_INSTALLED

Numbers = NDArray[np.integer[Any]]
CORNERS_JOIN = np.ones((3, 3), dtype=np.int64)
_KORNIA_STEPS = 100  # its default number of max-pooling steps


@dataclass(frozen=True)
class Found:
    """What a way gives.

    Attributes:
        planes: Numbers, 0 outside. One list entry an image: (H, W) of all classes together, or (C, H, W) of one class
            each; two regions of one plane never share a number.
        areas: Pixels of the regions, in any order and any cut into arrays; zeros stand for numbers that no region has.
            None where the way counts none.
    """

    planes: Sequence[Any]
    areas: Sequence[Any] | None


@dataclass(frozen=True)
class Way:
    """One entry of the table.

    Attributes:
        find: What is timed.
        module: What it needs; where that cannot be imported the way is reported as not installed.
        devices: Where it can work.
        most_pixels: Larger batches are skipped on a CPU: they would take minutes.
        most_regions: Batches of more regions are skipped on every device, for the same reason.
        exact: Whether a wrong result is a mistake of this benchmark rather than a property of the way.
    """

    find: Callable[[Tensor, Sequence[int]], Found]
    module: str
    devices: tuple[str, ...] = ("cpu", "cuda")
    most_pixels: int = 2**62
    most_regions: int = 2**62
    exact: bool = True

    def obstacle(self, labels: Tensor, regions: int) -> str | None:
        """Why it does not run on these labels, or None."""
        if labels.device.type not in self.devices:
            return f"runs on {' and '.join(self.devices)} only"
        if find_spec(self.module) is None:
            return NOT_INSTALLED
        if labels.device.type == "cpu" and labels.numel() > self.most_pixels:
            return f"skipped: more than {self.most_pixels} pixels would take minutes on a CPU"
        if regions > self.most_regions:
            return f"skipped: more than {self.most_regions} regions would take minutes"
        return None


def reference_implementation(labels: Tensor, things: Sequence[int]) -> Found:
    """Each class by scikit-image, each region's area by a comparison with the whole map."""
    from skimage.measure import label

    planes, areas = [], []
    for image in _host_images(labels):
        image_planes, image_areas = [], []
        for k in things:
            numbers = label(image == k, connectivity=2)  # type: ignore[no-untyped-call]
            image_areas += [int((numbers == number).sum()) for number in range(1, int(numbers.max()) + 1)]
            image_planes.append(numbers)
        planes.append(_back(np.stack(image_planes), labels))
        areas.append(np.array(image_areas, dtype=np.int64))
    return Found(planes, areas)


def per_class(labeler: Callable[[NDArray[np.bool_]], tuple[Numbers, Any]]) -> Callable[..., Found]:
    """A library that labels a binary image, called for each class that the image holds."""

    def find(labels: Tensor, things: Sequence[int]) -> Found:
        planes, areas = [], []
        for image in _host_images(labels):
            found = [labeler(mask) for k in things if (mask := image == k).any()]
            planes.append(_back(np.stack([numbers for numbers, _ in found]), labels) if found else np.zeros((0, 1, 1)))
            areas.append(np.concatenate([area for _, area in found]) if found else np.zeros(0))
        return Found(planes, areas)

    return find


def in_one_pass(labeler: Callable[[Numbers], Numbers], *, count_areas: bool = True) -> Callable[..., Found]:
    """A library that labels all values of an image in one pass; other classes become its background by a table."""

    def find(labels: Tensor, things: Sequence[int]) -> Found:
        table = np.zeros(256, dtype=np.uint8)
        table[list(things)] = np.arange(1, len(things) + 1)
        planes, areas = [], []
        for image in _host_images(labels):
            numbers = labeler(table[image])
            planes.append(_back(numbers, labels))
            if count_areas:
                areas.append(np.bincount(numbers.ravel())[1:])
        return Found(planes, areas if count_areas else None)

    return find


def _scikit_image(values: Numbers) -> Numbers:
    from skimage.measure import label

    numbers: Numbers = label(values, background=0, connectivity=2)  # type: ignore[no-untyped-call]
    return numbers


def _scikit_image_class(mask: NDArray[np.bool_]) -> tuple[Numbers, Any]:
    from skimage.measure import label

    numbers: Numbers = label(mask, connectivity=2)  # type: ignore[no-untyped-call]
    return numbers, np.bincount(numbers.ravel())[1:]


def _scipy_class(mask: NDArray[np.bool_]) -> tuple[Numbers, Any]:
    from scipy.ndimage import label

    numbers, _ = label(mask, structure=CORNERS_JOIN)
    return numbers, np.bincount(numbers.ravel())[1:]


def _opencv_class(mask: NDArray[np.bool_]) -> tuple[Numbers, Any]:
    import cv2

    found: tuple[Any, ...] = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    _, numbers, table, _ = found
    return numbers, table[1:, cv2.CC_STAT_AREA]


def _cc3d(values: Numbers) -> Numbers:
    import cc3d

    numbers: Numbers = cc3d.connected_components(values, connectivity=8)
    return numbers


def _kornia(labeler: Callable[[Tensor], Tensor]) -> Callable[..., Found]:
    def find(labels: Tensor, things: Sequence[int]) -> Found:
        masks = torch.stack([labels == k for k in things], 1)  # (B, C, H, W): every class of every image in one call
        numbers = labeler(masks.flatten(0, 1)[:, None].float()).view(masks.shape)
        # The numbers are distinct over the whole call, so one count serves all images.
        areas = torch.bincount(numbers.flatten())[1:]
        return Found(list(numbers), [areas])

    return find


def _kornia_pooling(masks: Tensor) -> Tensor:
    from kornia.contrib import connected_components

    return connected_components(masks, num_iterations=_KORNIA_STEPS)


def _kornia_union_find(masks: Tensor) -> Tensor:
    # Older releases of kornia lack it, which only the import shows.
    from kornia.contrib import connected_components_union_find

    numbers: Tensor = connected_components_union_find(masks)
    return numbers


def _cupy(labels: Tensor, things: Sequence[int]) -> Found:
    import cupy
    from cupyx.scipy.ndimage import label

    planes, areas = [], []
    for image in labels:
        values = cupy.from_dlpack(image)
        found = [label(values == k, structure=cupy.ones((3, 3), dtype=cupy.int32))[0] for k in things]
        planes.append(torch.stack([from_dlpack(numbers) for numbers in found]))
        areas.append(torch.cat([from_dlpack(cupy.bincount(numbers.ravel())[1:]) for numbers in found]))
    return Found(planes, areas)


def _cucim(labels: Tensor, things: Sequence[int]) -> Found:
    import cupy
    from cucim.skimage.measure import label

    planes, areas = [], []
    for image in _things_from_one(labels, tuple(things)):
        numbers = label(cupy.from_dlpack(image), background=0, connectivity=2)
        planes.append(from_dlpack(numbers))
        areas.append(from_dlpack(cupy.bincount(numbers.ravel())[1:]))
    return Found(planes, areas)


def _colorcc(areas: bool, given: bool = False) -> Callable[..., Found]:
    """``given``: its RGB images are made before the clock starts, as they are where images and not labels come in."""

    def find(labels: Tensor, things: Sequence[int]) -> Found:
        from colorcc import label

        images = (_kept_colors if given else _colors)(labels, tuple(things))
        planes = [label(image, ignore=(0, 0, 0))[0] for image in images]
        return Found(planes, [torch.bincount(plane.flatten())[1:] for plane in planes] if areas else None)

    return find


def _things_from_one(labels: Tensor, things: tuple[int, ...]) -> Tensor:
    """(B, H, W) uint8: 1, 2, ... for the classes, 0 for the rest."""
    table = torch.zeros(256, dtype=torch.uint8, device=labels.device)
    table[list(things)] = torch.arange(1, len(things) + 1, dtype=torch.uint8, device=labels.device)
    return table[labels]


def _colors(labels: Tensor, things: tuple[int, ...]) -> Tensor:
    """RGB images (B, H, W, 3) uint8 of a color for each class, black for the rest."""
    return _things_from_one(labels, things)[..., None].repeat(1, 1, 1, 3)


_kept_colors = lru_cache(maxsize=1)(_colors)  # by the tensor itself, whose content stays


def _host_images(labels: Tensor) -> Iterator[NDArray[np.int64]]:
    yield from labels.cpu().numpy()


def _back(numbers: Numbers, labels: Tensor) -> Any:
    if labels.device.type == "cpu":
        return numbers
    return torch.from_numpy(numbers.astype(np.int32, copy=False)).to(labels.device)


WAYS: dict[str, Way] = {
    "reference implementation": Way(reference_implementation, "skimage", most_regions=20_000),
    "scikit-image per class, areas": Way(per_class(_scikit_image_class), "skimage"),
    "scikit-image one pass": Way(in_one_pass(_scikit_image), "skimage"),
    "scipy per class": Way(per_class(_scipy_class), "scipy"),
    "opencv per class": Way(per_class(_opencv_class), "cv2"),
    "cc3d one pass": Way(in_one_pass(_cc3d), "cc3d"),
    "cc3d one pass, no areas": Way(in_one_pass(_cc3d, count_areas=False), "cc3d"),
    "kornia max-pooling": Way(_kornia(_kornia_pooling), "kornia", most_pixels=2**19, exact=False),
    "kornia union-find": Way(_kornia(_kornia_union_find), "kornia", most_pixels=2**21),
    "cupy per class": Way(_cupy, "cupy", devices=("cuda",)),
    "cucim": Way(_cucim, "cucim", devices=("cuda",)),
    "colorcc": Way(_colorcc(areas=True), "colorcc", devices=("cuda",)),
    "colorcc, RGB given, no areas": Way(_colorcc(areas=False, given=True), "colorcc", devices=("cuda",)),
}
