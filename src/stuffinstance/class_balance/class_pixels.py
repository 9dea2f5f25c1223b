"""Pixels per class of each image of a data set, kept in a file, and class weights for a loss."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stuffinstance._checks import (
    INTEGER_DTYPES,
    check_choice,
    check_class_ids,
    check_tensor,
    checked_num_classes,
    checked_number,
    checked_whole,
    describe,
    may_read,
    optional_ignore_index,
)

Scheme = Literal["enet", "inverse", "effective"]

_BATCH = 64  # images that a worker sends together
_COMPARED = 8  # images that are counted again before a file is believed
_MOST_WORKERS = 1024


def count_class_pixels(
    dataset: Any,
    num_classes: int,
    *,
    label_key: int | str | None = 1,
    ignore_index: int | None = 255,
    num_workers: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> Tensor:
    """Pixels of each class in each image of a data set, for :class:`RareClassSampler` and :func:`class_weights`.

    Every sample is read once. Pass the data set as it is without random crops or flips, or one of label maps alone,
    which is faster. With ``cache`` the counts are written to a file (whole or not at all) and read from there the next
    time. Before they are used, their number of images, K and ``ignore_index`` are compared, and 8 images spread over
    the data set are counted again; a file that does not fit the data is replaced, with a warning.

    Args:
        dataset: A map-style data set (``len`` and indices); its label maps are integer tensors or arrays (H, W).
        num_classes: K.
        label_key: Where a sample holds its label map: an index, as for ``(image, labels)``, or a key, as for a dict;
            None where the sample is the label map.
        ignore_index: The id of pixels without a class, which are not counted; None where all have one.
        num_workers: Processes that read, as of ``torch.utils.data.DataLoader``; 0 reads in this one.
        cache: A file for the counts, such as one beside the data; None keeps none. One that cannot be written is a
            warning.

    Returns:
        (N, K) int64 on the CPU, in the order of the data set.

    Raises:
        TypeError: If ``dataset`` is not a map-style data set, ``label_key`` does not fit a sample, or another argument
            is not of its type.
        ValueError: If a label map is not an integer one (H, W), an id is not a class, ``ignore_index`` is one, or
            ``cache`` is a folder, a file of another kind, or in a folder that does not exist.

    Example:
        >>> labels = [torch.tensor([[0, 0, 1]]), torch.tensor([[0, 255, 2]])]
        >>> count_class_pixels(labels, 3, label_key=None)
        tensor([[2, 1, 0],
                [1, 0, 1]])
    """
    classes = checked_num_classes(num_classes)
    counted = _CountedImages(dataset, classes, label_key, optional_ignore_index(ignore_index, classes))
    workers = checked_whole("num_workers", num_workers, 0, _MOST_WORKERS)
    if cache is None:
        return counted.read(workers)
    path = _cache_path(cache)
    counts = _cached(path, counted)
    if counts is None:
        counts = counted.read(workers)
        _write(path, counted.ignore_index, counts)
    return counts


class _CountedImages(Dataset[Tensor]):
    """The (K,) class pixels of each sample; at module level, so that it can be sent to a process."""

    def __init__(self, dataset: Any, num_classes: int, label_key: int | str | None, ignore_index: int | None) -> None:
        indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        if not indexed or isinstance(dataset, type | str | bytes | Mapping):
            raise TypeError(
                f"dataset must be a map-style data set, with len(dataset) and dataset[i], got {describe(dataset)}."
            )
        named = label_key is None or isinstance(label_key, str)
        self.label_key = label_key if named else checked_whole("label_key", label_key)
        self.dataset, self.num_classes, self.ignore_index = dataset, num_classes, ignore_index

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        name = f"dataset[{index}]"
        ids = self._label_map(name, self.dataset[index])
        check_class_ids(name, ids, self.num_classes, self.ignore_index)
        ids = ids.to(torch.int64).flatten()
        if self.ignore_index is not None:
            ids = ids[ids != self.ignore_index]
        return torch.bincount(ids, minlength=self.num_classes).cpu()

    def _label_map(self, name: str, sample: Any) -> Tensor:
        try:
            labels = sample if self.label_key is None else sample[self.label_key]
        except (TypeError, LookupError) as error:
            raise TypeError(
                f"label_key must be an index or a key of the data set's samples, got {self.label_key!r} and "
                f"{type(sample).__name__} from {name}. For a data set of label maps alone pass None."
            ) from error
        ids = labels
        if isinstance(labels, np.ndarray) and labels.dtype.kind in "iu":  # of any byte order and strides, or read-only
            ids = torch.from_numpy(np.array(labels, dtype=labels.dtype.newbyteorder("="), order="C"))
        if not isinstance(ids, Tensor) or ids.dtype not in INTEGER_DTYPES or ids.ndim != 2:
            raise ValueError(
                f"{name} must hold an integer label map (H, W) under label_key = {self.label_key!r}, got "
                f"{describe(labels)}. {self._advice(labels)}"
            )
        return ids

    def _advice(self, labels: Any) -> str:
        if isinstance(labels, tuple | list | Mapping):
            return "Pass the index or the key of the label map as label_key, such as label_key=1."
        if isinstance(labels, Tensor) and labels.ndim == 3 and labels.shape[0] == 1:
            return "Let the data set give labels[0]."
        if isinstance(labels, Tensor) and labels.is_floating_point():
            return "Let the data set give labels.long(), or pass the label_key of its label maps."
        if hasattr(labels, "getpixel"):  # of PIL
            return "Let the data set give np.array(labels)."
        return "For a data set of label maps alone pass label_key=None."

    def read(self, workers: int) -> Tensor:
        """(N, K): all of them."""
        counts = torch.empty(len(self), self.num_classes, dtype=torch.int64)
        # A generator of its own: starting a loader draws a number, which would change what is drawn after it.
        loader = DataLoader(self, batch_size=_BATCH, num_workers=workers, generator=torch.Generator())
        for part, batch in zip(torch.split(counts, _BATCH), loader, strict=False):
            part.copy_(batch)
        return counts


def _cache_path(cache: Any) -> Path:
    if not isinstance(cache, str | os.PathLike):
        raise TypeError(f"cache must be the path of a file or None, got {describe(cache)}.")
    path = Path(cache)
    if not path.parent.is_dir():
        raise ValueError(f"cache must be a file in a folder that exists, got {path}. Make {path.parent} first.")
    return path


def _cached(path: Path, counted: _CountedImages) -> Tensor | None:
    """The counts in a file; None without a file, or where they are not of these label maps."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        ignored, counts = held["ignore_index"], torch.tensor(held["class_pixels"], dtype=torch.int64)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"cache must be a file that can be read, got {path} ({error.strerror}).") from error
    except (ValueError, LookupError, TypeError, RuntimeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"cache must be a file that count_class_pixels wrote, or one that does not exist yet, got {path}, which "
            "holds something else. Delete it, or pass another path."
        ) from error
    if counts.shape == (len(counted), counted.num_classes) and ignored == counted.ignore_index:
        compared = np.linspace(0, len(counted) - 1, _COMPARED).astype(int).tolist() if len(counted) else []
        if all(torch.equal(counts[index], counted[index]) for index in compared):
            return counts
    warnings.warn(
        f"cache {path} holds the class pixels of other label maps ({tuple(counts.shape)} with ignore_index = "
        f"{ignored}), or the data set changes its label maps from one reading to the next. They are counted anew.",
        stacklevel=3,
    )
    return None


def _write(path: Path, ignore_index: int | None, counts: Tensor) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        content = json.dumps({"ignore_index": ignore_index, "class_pixels": counts.tolist()})
        beside.write_text(content, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        warnings.warn(f"cache {path} could not be written ({error.strerror}); the next call counts anew.", stacklevel=3)
    finally:
        beside.unlink(missing_ok=True)


def class_weights(counts: Tensor, scheme: Scheme = "enet", *, beta: float = 0.9999) -> Tensor:
    """Weights of the classes for a cross-entropy, from their pixel counts n: rare classes count more.

    .. math:: \\text{enet: } w_c = \\frac{1}{\\ln(1.02 + f_c)}, \\qquad
              \\text{inverse: } w_c = \\frac{1}{K' f_c}, \\qquad
              \\text{effective: } w_c \\propto \\frac{1 - \\beta}{1 - \\beta^{n_c}},\\ \\sum_c w_c = K'

    with :math:`f_c = n_c / \\sum_k n_k` and K' the number of classes that have a pixel. ENet:
    https://arxiv.org/abs/1606.02147. Inverse frequency is scaled so that the mean weight of a pixel is 1. Effective
    number of samples: Cui et al., CVPR 2019, https://arxiv.org/abs/1901.05555, whose ``beta`` is made for numbers of
    objects. With counts of pixels all weights come close to 1: pass the number of images that show each class,
    ``(counts > 0).sum(0)``, or a ``beta`` closer to 1.

    A class without a pixel has weight 0: no pixel of the data has it, and neither an infinite weight nor one that is
    chosen freely enters the scale of the others.

    Args:
        counts: Pixels per class, (K,), or (N, K) of each image, any integer dtype.
        scheme: ``"enet"``, ``"inverse"`` or ``"effective"``.
        beta: For ``"effective"``, above 0 and below 1.

    Returns:
        (K,) float32, on the device of ``counts``, as ``weight`` of ``torch.nn.functional.cross_entropy`` takes it.

    Raises:
        TypeError: If ``counts`` is not a tensor, or ``beta`` is not a number.
        ValueError: If ``counts`` is not (K,) or (N, K) of integers, on a CPU also if one is negative; or if ``scheme``
            or ``beta`` is not possible.

    Example:
        >>> class_weights(torch.tensor([6, 2, 0]), "inverse")
        tensor([0.6667, 2.0000, 0.0000])
    """
    check_choice("scheme", scheme, get_args(Scheme))
    beta = checked_number("beta", beta, "above 0 and below 1", above=0.0, most=math.nextafter(1.0, 0.0))
    check_counts(counts)
    if counts.ndim != 1 and counts.ndim != 2:
        raise ValueError(f"counts must be an integer tensor (K,) or (N, K), got {describe(counts)}.")
    pixels = counts.to(torch.float32)
    pixels = pixels.sum(0) if counts.ndim == 2 else pixels
    present = pixels > 0
    classes = present.sum()
    if scheme == "enet":
        weights = 1 / torch.log(1.02 + pixels / pixels.sum().clamp(min=1))
    elif scheme == "inverse":
        weights = pixels.sum() / (classes * pixels)
    else:
        weights = torch.where(present, (1 - beta) / -torch.expm1(pixels * math.log(beta)), 0)
        weights = weights * (classes / weights.sum())
    return torch.where(present, weights, 0)


def check_counts(counts: Tensor) -> None:
    """Require integers of at least 0; looks only where reading is allowed."""
    check_tensor("counts", "an integer tensor of pixel counts", counts)
    if counts.dtype not in INTEGER_DTYPES:
        raise ValueError(
            f"counts must be an integer tensor of pixel counts, got {describe(counts)}. "
            "Pass what count_class_pixels returned."
        )
    if may_read(counts) and counts.numel() and int(counts.to(torch.int64).min()) < 0:
        raise ValueError(f"counts must be at least 0, got {int(counts.to(torch.int64).min())}.")
