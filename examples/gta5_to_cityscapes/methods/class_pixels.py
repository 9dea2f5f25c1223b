"""Pixels of each class in the labeled images, counted once a run for all methods that ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import stuffinstance as si

from ..distributed import all_gather_object, rank, world_size

if TYPE_CHECKING:
    from ..data.loader import LabeledSamples

Scheme = Literal["enet", "inverse", "effective"]


class ClassPixels(nn.Module):
    """Pixels of each class in each labeled image, (N, K), as a checkpoint keeps them; None before they are counted.

    Attributes:
        counts: (N, K) int64 or None.
        scheme: How the segmentation losses weigh classes by them; None weighs all pixels alike.
    """

    counts: Tensor | None = None
    scheme: Scheme | None = None

    def __init__(self, space: si.LabelSpace, device: torch.device) -> None:
        super().__init__()
        self.space, self.device = space, device
        self._weights: Tensor | None = None

    def count(self, labeled: LabeledSamples) -> None:
        """Count the label maps, each rank its share of them; what is counted or restored already stays."""
        if self.counts is not None:
            return
        own = si.count_class_pixels(
            _LabelMaps(labeled, range(rank(), len(labeled), world_size())),
            self.space.num_classes,
            label_key=None,
            ignore_index=self.space.ignore_index,
        )
        self.counts = torch.zeros(len(labeled), self.space.num_classes, dtype=torch.int64)
        for first, part in enumerate(all_gather_object(own)):
            self.counts[first :: world_size()] = part

    @property
    def weights(self) -> Tensor | None:
        """Class weights (K,) float32 by the scheme, None without one; an error before the pixels are counted."""
        if self.scheme is not None and self._weights is None:
            if self.counts is None:
                raise RuntimeError("the pixels of the classes have not been counted yet")
            # The effective number of samples is one of images: of pixels all classes have about as many.
            counts = (self.counts > 0).sum(0) if self.scheme == "effective" else self.counts
            self._weights = si.class_weights(counts, self.scheme).to(self.device)
        return self._weights

    def get_extra_state(self) -> Tensor | None:
        """The counts: how many images there are is only known once they are counted."""
        return self.counts

    def set_extra_state(self, state: Tensor | None) -> None:
        """Take up what :meth:`get_extra_state` gave."""
        self.counts, self._weights = state, None


class _LabelMaps(Dataset[Tensor]):
    """The label maps of some images, without the images."""

    def __init__(self, labeled: LabeledSamples, places: range) -> None:
        self.labeled, self.places = labeled, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        return self.labeled.label_map(self.places[index])
