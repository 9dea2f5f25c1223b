"""Feature distance losses to a frozen extractor: to the start weights on things (DAFormer), to a foundation model."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stuffinstance._checks import (
    check_class_ids,
    check_has_pixels,
    check_label_map,
    check_maps,
    check_same_batch,
    checked_classes,
    checked_fraction,
    checked_ignore_index,
    checked_num_classes,
    checked_number,
    checked_positive,
)
from stuffinstance._numerics import as_float, autocast_device, cleared
from stuffinstance._warnings import TRAIN_FEATURES, warn_without_gradient
from stuffinstance.label_maps import _majority_labels
from stuffinstance.losses.adversarial import check_weights_take
from stuffinstance.losses.distances import DISTANCES
from stuffinstance.losses.reduction import Reduction, checked_reduction, mean_over_pixels
from stuffinstance.regions.class_lookup import class_positions


class FeatureDistanceLoss(nn.Module):
    """Feature distance loss on things (DAFormer, Hoyer et al., CVPR 2022): features stay near the start weights'.

    .. math:: \\mathcal{L}_{FD} = \\frac{1}{B} \\sum_i \\frac{1}{|\\Omega_i|} \\sum_{x \\in \\Omega_i}
              \\lVert f_i(x) - f_i^{start}(x) \\rVert_2

    over the cells :math:`\\Omega_i` of image *i* of which one of ``classes`` fills at least ``min_fraction``
    (:func:`majority_labels`). What the start weights know of things, an ImageNet classifier say, is then not unlearned
    on the source. Paper: https://arxiv.org/abs/2111.14887, Eq. 10 to 13. The reference implementation takes the mean
    over the cells of the whole batch; here a batch equals the mean of its single images, as everywhere in this library.
    The published weight is 0.005, for the last stage of the encoder and source images alone.

    ``start_features`` come from a :class:`FrozenNetwork` of the encoder as training starts with it, shown the same
    images in the same normalization. With foundation models the loss is reported to do harm
    (https://arxiv.org/abs/2503.10685); :class:`FoundationFeatureLoss` is meant for these.

    Args:
        classes: Ids of the thing classes, ``space.things`` of a :class:`LabelSpace`.
        num_classes: K, of the labels.
        min_fraction: The least fraction of a cell that its class fills, 0.75 in paper and code.
        ignore_index: Pixels of this id have no class.
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If a class is not one of 0 .. K-1 or comes twice, ``min_fraction`` is outside 0 .. 1,
            ``ignore_index`` is a class, or ``reduction`` is unknown.

    Example:
        >>> features = torch.tensor([[[[3.0, 1.0]], [[4.0, 1.0]]]], requires_grad=True)      # (1, D=2, 1, 2)
        >>> loss = FeatureDistanceLoss(classes=(1,), num_classes=2)
        >>> loss(features, torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 0]]]))                # the first cell is a thing
        tensor(5., grad_fn=<DivBackward0>)
    """

    def __init__(
        self,
        classes: Sequence[int] | Collection[int],
        num_classes: int,
        min_fraction: float = 0.75,
        *,
        ignore_index: int = 255,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.num_classes = checked_num_classes(num_classes)
        self.classes = checked_classes("classes", classes)
        if strange := [each for each in self.classes if not 0 <= each < self.num_classes]:
            raise ValueError(
                f"classes must be ids 0..{self.num_classes - 1} of the num_classes = {self.num_classes}, got also "
                f"{strange}."
            )
        self.min_fraction = checked_fraction("min_fraction", min_fraction)
        self.ignore_index = checked_ignore_index(ignore_index, self.num_classes)
        self.reduction: Reduction = checked_reduction(reduction)

    def forward(self, features: Tensor, start_features: Tensor, labels: Tensor) -> Tensor:
        """The distance of a batch.

        Args:
            features: Of the network that trains, (B, D, h, w).
            start_features: Of the start weights, (B, D, h, w); detached here.
            labels: Class ids (B, H, W), any integer dtype and size: the ground truth.

        Returns:
            A scalar, or (B,) for ``reduction="none"``; float32 (float64 for float64 features). Exactly 0, still
            attached to ``features``, where no cell shows a thing.

        Raises:
            TypeError: If an argument is not a tensor.
            ValueError: If ranks, dtypes, sizes, devices or class ids cannot be right.

        Warns:
            UserWarning: Once, if ``features`` carry no gradient while gradient mode is on and the loss is in training
                mode: it then trains nothing.
        """
        check_maps("features", features)
        check_maps("start_features", start_features, channels=features.shape[1])
        check_same_batch("start_features", start_features, "features", features)
        if start_features.shape[2:] != features.shape[2:]:
            raise ValueError(
                f"start_features must have the size (h, w) = {tuple(features.shape[2:])} of features, got "
                f"{tuple(start_features.shape[2:])}. Take both from the same layer, on the same images."
            )
        check_label_map("labels", labels)
        check_has_pixels("labels", labels)
        check_same_batch("labels", labels, "features", features)
        check_class_ids("labels", labels, self.num_classes, self.ignore_index)
        height, width = features.shape[2:]
        majority = _majority_labels(
            labels, height, width, self.num_classes, self.min_fraction, ignore_index=self.ignore_index
        )
        mask = class_positions(majority, self.classes) >= 0
        with torch.autocast(autocast_device(features), enabled=False):
            found = cleared(features, mask)
            apart = found - cleared(start_features.detach(), mask).to(found.dtype)
            loss = mean_over_pixels(torch.linalg.vector_norm(apart, dim=1), mask, self.reduction)
        warn_without_gradient("feature distance loss", "features", features, TRAIN_FEATURES, self, stacklevel=5)
        return loss

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, features: Tensor, start_features: Tensor, labels: Tensor) -> Tensor: ...

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return (
            f"classes={self.classes}, num_classes={self.num_classes}, min_fraction={self.min_fraction}, "
            f"reduction={self.reduction!r}"
        )


class FoundationFeatureLoss(nn.Module):
    """Foundation feature distance loss (VFM-UDA++, Englert and Dubbelman): features that a frozen model's follow from.

    .. math:: \\mathcal{L} = \\operatorname{mean}_x \\bigl[ 0.1 \\operatorname{SmoothL1}(g(f)(x), v(x))
              + 0.9\\, (1 - \\cos(g(f)(x), v(x))) \\bigr]

    with :math:`v` (B, D, h', w') of a frozen foundation model, a :class:`FrozenNetwork`. The projection :math:`g` is
    trained here, and is not needed afterwards: 1×1 d → 4d, layer normalization over the channels, GELU, 1×1 4d → D, as
    linear layers named ``expand``, ``norm`` and ``project``; its output is resized bilinearly to h' × w'. SmoothL1 is
    the mean over channels and turns from square to line at 1. Paper: https://arxiv.org/abs/2503.10685. The published
    weight is 0.1 on each domain.

    The foundation model sees the image without changes of color or sharpness, in its own normalization (for DINOv2 and
    DINOv3 ImageNet's mean and deviation), at a size that its patches divide. The reference implementation shows it
    406 × 406 pixels; any size works here.

    Args:
        feature_dim: d, channels of the features that train.
        foundation_dim: D, channels of the foundation model's.
        smooth_l1_weight: Weight of the first term, 0.1.
        cosine_weight: Weight of the second, 0.9.
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If a size is below 1, a weight below 0, or ``reduction`` unknown.

    Example:
        >>> loss = FoundationFeatureLoss(feature_dim=8, foundation_dim=16)
        >>> features, foundation = torch.randn(2, 8, 6, 6, requires_grad=True), torch.randn(2, 16, 3, 3)
        >>> loss(features, foundation).requires_grad
        True
    """

    def __init__(
        self,
        feature_dim: int,
        foundation_dim: int,
        smooth_l1_weight: float = 0.1,
        cosine_weight: float = 0.9,
        *,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.feature_dim = checked_positive("feature_dim", feature_dim)
        self.foundation_dim = checked_positive("foundation_dim", foundation_dim)
        wanted = "a finite number of at least 0"
        self.smooth_l1_weight = checked_number("smooth_l1_weight", smooth_l1_weight, wanted, least=0)
        self.cosine_weight = checked_number("cosine_weight", cosine_weight, wanted, least=0)
        self.reduction: Reduction = checked_reduction(reduction)
        self.expand = nn.Linear(self.feature_dim, 4 * self.feature_dim)
        self.norm = nn.LayerNorm(4 * self.feature_dim)
        self.project = nn.Linear(4 * self.feature_dim, self.foundation_dim)

    def forward(self, features: Tensor, foundation_features: Tensor) -> Tensor:
        """The distance of a batch.

        Args:
            features: Of the network that trains, (B, d, h, w).
            foundation_features: Of the frozen model on the same images, (B, D, h', w'), any size; detached here.

        Returns:
            A scalar, or (B,) for ``reduction="none"``; float32 or float64. Exactly 0, still attached to ``features``,
            for an empty batch. NaN for features beyond 1e18, whose variance overflows in the normalization.

        Raises:
            TypeError: If an argument is not a tensor.
            ValueError: If ranks, dtypes, channels, batches or devices do not fit.

        Warns:
            UserWarning: Once, if ``features`` carry no gradient while gradient mode is on and the loss is in training
                mode: the projection alone is then trained.
        """
        check_maps("features", features, channels=self.feature_dim, channel_name="d")
        check_weights_take("features", features, "projection", self.expand.weight)
        check_maps("foundation_features", foundation_features, channels=self.foundation_dim)
        check_same_batch("foundation_features", foundation_features, "features", features)
        rows = self.project(F.gelu(self.norm(self.expand(features.movedim(1, -1)))))
        with torch.autocast(autocast_device(features), enabled=False):
            size = foundation_features.shape[2:]
            maps = F.interpolate(as_float(rows.movedim(-1, 1)), size, mode="bilinear", align_corners=False)
            found, wanted = maps.movedim(1, -1), foundation_features.detach().to(maps.dtype).movedim(1, -1)
            distances = self.smooth_l1_weight * F.smooth_l1_loss(found, wanted, reduction="none").mean(-1)
            distances = distances + self.cosine_weight * DISTANCES["cosine"].between(found, wanted)
            loss = mean_over_pixels(distances, torch.ones_like(distances, dtype=torch.bool), self.reduction)
        warn_without_gradient("foundation feature loss", "features", features, TRAIN_FEATURES, self, stacklevel=5)
        return loss

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, features: Tensor, foundation_features: Tensor) -> Tensor: ...

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return (
            f"smooth_l1_weight={self.smooth_l1_weight}, cosine_weight={self.cosine_weight}, "
            f"reduction={self.reduction!r}"
        )
