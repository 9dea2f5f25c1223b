"""Anchor distance loss (CAG-UDA): class means, or single pixels, to the anchor of their class."""

from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stuffinstance._checks import check_choice, check_kind, checked_divisor, checked_flag
from stuffinstance._numerics import float_dtype
from stuffinstance._warnings import TRAIN_FEATURES, warn_without_gradient
from stuffinstance.banks.class_anchors import CategoryAnchors

PresetName = Literal["code", "paper"]

_WEIGHT = 10.0  # of the sum, and what a large term is divided by


def anchor_distance_loss(
    features: Tensor,
    labels: Tensor,
    anchors: CategoryAnchors,
    *,
    logits: Tensor | None = None,
    preset: PresetName = "code",
    damp_above: float | None = 5.0,
    scale_gradient: bool = True,
) -> Tensor:
    """Anchor distance loss (CAG-UDA, https://arxiv.org/abs/1910.13049), the function of :class:`AnchorDistanceLoss`.

    Args:
        features: (B, D, h, w).
        labels: Class ids (B, H, W), any integer dtype, ``anchors.ignore_index`` for pixels without a class; resized
            nearest.
        anchors: The :class:`CategoryAnchors`.
        logits: (B, K, h, w): only pixels that they put into the labels' class count. None takes all labeled pixels.
        preset: ``"code"`` or ``"paper"``.
        damp_above: As for :class:`AnchorDistanceLoss`.
        scale_gradient: As for :class:`AnchorDistanceLoss`.

    Returns:
        A scalar; exactly 0, still attached to ``features``, where no class can be pulled.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If ranks, dtypes, sizes, devices or class ids cannot be right, or ``preset`` is unknown.

    Example:
        >>> anchors = CategoryAnchors(num_classes=1, feature_dim=1, min_pixels=2)
        >>> anchors.update(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[0, 0]]]))
        >>> features, labels = torch.tensor([[[[4.0, 6.0, 9.0]]]], requires_grad=True), torch.tensor([[[0, 0, 255]]])
        >>> anchor_distance_loss(features, labels, anchors)                   # 10 (|5 - 2| - 1/2)
        tensor(25., grad_fn=<DivBackward0>)
    """
    choices = _choices(anchors, preset, damp_above, scale_gradient)
    loss = _anchor_distance(features, labels, logits, anchors, *choices)
    warn_without_gradient("anchor distance loss", "features", features, TRAIN_FEATURES)
    return loss


def _choices(
    anchors: CategoryAnchors, preset: PresetName, damp_above: float | None, scale_gradient: bool
) -> tuple[PresetName, float | None, bool]:
    """The settings of the loss, checked."""
    check_kind("anchors", anchors, CategoryAnchors)
    check_choice("preset", preset, get_args(PresetName))
    if damp_above is not None:
        damp_above = checked_divisor("damp_above", damp_above, "a number above 0, or None for never")
    return preset, damp_above, checked_flag("scale_gradient", scale_gradient)


def _anchor_distance(
    features: Tensor,
    labels: Tensor,
    logits: Tensor | None,
    anchors: CategoryAnchors,
    preset: PresetName,
    damp_above: float | None,
    scale_gradient: bool,
) -> Tensor:
    if preset == "paper":
        return _of_pixels(features, labels, logits, anchors)
    rows, regions = anchors._pool(features, labels, logits)
    area = regions.area[:, :, 0]
    if scale_gradient:
        share = area / (features.shape[2] * features.shape[3])
        fixed = rows.detach()
        rows = fixed + (rows - fixed) * (2 * share)[:, :, None].to(rows.dtype)
    used = (area >= anchors.min_pixels) & anchors.filled
    return _distance_of_means(rows, used, anchors.anchors_in(rows.dtype), damp_above)


def _of_pixels(features: Tensor, labels: Tensor, logits: Tensor | None, anchors: CategoryAnchors) -> Tensor:
    classes = anchors._labels_at(features, labels, logits).to(torch.int64)
    known = (classes >= 0) & (classes < anchors.num_classes)
    used = known & anchors.filled[torch.where(known, classes, 0)]
    exact = float_dtype(features)
    own = anchors.anchors_in(exact).detach()[torch.where(used, classes, 0)].movedim(3, 1)  # (B, D, h, w)
    apart = torch.where(used[:, None], features.to(exact) - own, 0)
    return apart.square().sum() / used.sum().clamp(min=1)


def _distance_of_means(rows: Tensor, used: Tensor, anchors: Tensor, damp_above: float | None) -> Tensor:
    """Of rows (B, K, D), those that are used (B, K), to anchors (K, D)."""
    # An unused row takes its anchor's place: distance 0, and no gradient even where the row is not finite.
    anchors = anchors.detach().to(rows.dtype)
    rows = torch.where(used[:, :, None], rows, anchors)
    terms = F.smooth_l1_loss(rows, anchors.expand_as(rows), reduction="none").mean(2)
    if damp_above is not None:
        magnitude = (terms.detach() / damp_above).log10()
        # A logarithm that rounding carried just above a whole number is that number.
        tenfolds = (magnitude * (1 - 4 * torch.finfo(terms.dtype).eps)).ceil().clamp(min=0)
        terms = terms / _WEIGHT**tenfolds
    return _WEIGHT * terms.sum() / used.sum().clamp(min=1)


class AnchorDistanceLoss(nn.Module):
    """Anchor distance loss (CAG-UDA, Zhang et al., NeurIPS 2019): features of each class to the anchor of the class.

    Paper: https://arxiv.org/abs/1910.13049. Reference implementation, ``preset="code"``:

    .. math:: \\mathcal{L}_{dist} = \\frac{10}{n} \\sum_{(i, c)} \\frac{1}{D} \\sum_d
              \\mathrm{SmoothL1}(\\mathcal{A}^c(L_i, f_i)_d - A_{c,d})

    over the *n* pairs of image and class that have ``min_pixels`` pixels, as :class:`CategoryAnchors` says, and an
    anchor. The *n* is that of the whole batch, so a batch is not the mean of its single images. SmoothL1 turns from
    square to line at 1.

    Paper, ``preset="paper"``: the squared L2 distance of every pixel to the anchor of its class, whatever the number of
    pixels; the mean over the batch's labeled pixels is this library's choice. (The paper's discriminative loss is
    cross-entropy with the assigned labels.) The code's trainer weighs this loss by 0.7, for the source and for the
    target.

    Args:
        anchors: The :class:`CategoryAnchors`; read, never written, and no part of this module's state.
        preset: ``"code"`` or ``"paper"``.
        damp_above: Of the code alone: a term is divided by 10 for as long as it exceeds this, against
            divergence (5); None never does.
        scale_gradient: Of the code alone: the gradient of a class's mean feature is multiplied by twice the
            class's share of the image's pixels. The value stays what it is.

    Raises:
        TypeError: If ``anchors`` is not a :class:`CategoryAnchors`.
        ValueError: If ``preset`` is unknown, or ``damp_above`` is not above 0.

    Example:
        >>> anchors = CategoryAnchors(num_classes=1, feature_dim=1, min_pixels=2)
        >>> anchors.update(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[0, 0]]]))
        >>> features, labels = torch.tensor([[[[4.0, 6.0, 9.0]]]], requires_grad=True), torch.tensor([[[0, 0, 255]]])
        >>> AnchorDistanceLoss(anchors)(features, labels)                     # 10 (|5 - 2| - 1/2)
        tensor(25., grad_fn=<DivBackward0>)
        >>> AnchorDistanceLoss(anchors, preset="paper")(features, labels)       # (2² + 4²) / 2
        tensor(10., grad_fn=<DivBackward0>)
    """

    def __init__(
        self,
        anchors: CategoryAnchors,
        preset: PresetName = "code",
        *,
        damp_above: float | None = 5.0,
        scale_gradient: bool = True,
    ) -> None:
        super().__init__()
        choices = _choices(anchors, preset, damp_above, scale_gradient)
        self._anchors = [anchors]  # in a list: not a submodule, its state is saved where it lives
        self.preset: PresetName
        self.preset, self.damp_above, self.scale_gradient = choices

    @property
    def anchors(self) -> CategoryAnchors:
        """The anchors that features are pulled to."""
        return self._anchors[0]

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor | None = None) -> Tensor:
        """The distance of a batch to the anchors.

        Args:
            features: (B, D, h, w).
            labels: Class ids (B, H, W), any integer dtype, ``anchors.ignore_index`` for pixels without a class: the
                ground truth of source images, :meth:`CategoryAnchors.assign` for target images; resized nearest to
                (h, w).
            logits: (B, K, h, w): only pixels that they put into the labels' class count, as in the reference
                implementation. None takes all labeled pixels.

        Returns:
            A scalar, float32 (float64 for float64 features). Exactly 0, still attached to ``features``, where no class
            can be pulled. A class with a non-finite feature makes it non-finite, so that a gradient scaler or an
            anomaly check sees it.

        Raises:
            ValueError: If ranks, dtypes, sizes, devices or class ids cannot be right.

        Warns:
            UserWarning: Once, if ``features`` carry no gradient while gradient mode is on and the loss is in training
                mode: it then trains nothing.
        """
        choices = self.preset, self.damp_above, self.scale_gradient
        loss = _anchor_distance(features, labels, logits, self._anchors[0], *choices)
        warn_without_gradient("anchor distance loss", "features", features, TRAIN_FEATURES, self, stacklevel=5)
        return loss

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, features: Tensor, labels: Tensor, logits: Tensor | None = None) -> Tensor: ...

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return f"preset={self.preset!r}, damp_above={self.damp_above}, scale_gradient={self.scale_gradient}"
