"""Contrast losses: pixels against the distribution (SePiCo) or the prototype (ProCA, CONFETI) of every class."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stuffinstance._checks import check_kind, checked_divisor, checked_number
from stuffinstance._numerics import autocast_device, cleared, unit_length
from stuffinstance._warnings import TRAIN_FEATURES, warn_without_gradient
from stuffinstance.banks.class_anchors import CategoryAnchors
from stuffinstance.banks.class_distributions import ClassDistributions
from stuffinstance.losses.reduction import Reduction, checked_reduction, mean_over_pixels

_LARGEST_FACTOR = 1e30  # of the variances, which are at most 1


def _counted(classes: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
    """Class ids (B, 1, h, w), 0 where a pixel has no class, and the mask (B, h, w) of the pixels of a filled class."""
    classes = classes.to(torch.int64)
    known = (classes >= 0) & (classes < len(filled))
    ids = torch.where(known, classes, 0)
    return ids[:, None], known & filled[ids]


def _log_softmax(scores: Tensor, filled: Tensor) -> Tensor:
    """Of scores (B, K, ...) over the classes that are filled; large negative numbers for the others."""
    unfilled = ~filled.view(-1, *(1,) * (scores.ndim - 2))
    return scores.masked_fill(unfilled, torch.finfo(scores.dtype).min).log_softmax(1)


class DistributionContrastLoss(nn.Module):
    """Distribution contrast loss (SePiCo's DistCL, Xie et al., TPAMI 2023): each pixel against all class distributions.

    Paper: https://arxiv.org/abs/2204.08808. With normalized features :math:`\\hat f`, means :math:`\\mu_k` and diagonal
    variances :math:`\\Sigma_k` of :class:`ClassDistributions`,

    .. math:: s_k = \\frac{\\hat f \\cdot \\mu_k}{\\tau} + \\frac{\\rho}{2 \\tau^2}\\, \\hat f^2 \\cdot \\Sigma_k,
              \\qquad \\mathcal{L} = \\operatorname{mean}_x \\Bigl[ -\\log \\frac{e^{s_y}}{\\sum_k e^{s_k}}
              + \\frac{\\rho}{2 \\tau^2}\\, \\hat f^2 \\cdot \\Sigma_y \\Bigr]
              + \\frac{\\lambda}{K \\log K} \\sum_k \\log \\operatorname{softmax}_k
              \\frac{\\bar f \\cdot \\mu_k}{\\tau}

    an upper bound of the expected contrast with infinitely many samples of each distribution. :math:`\\bar f` is the
    mean of the normalized features that count. ``ratio=0`` is the paper's prototype form. The paper takes means over
    the pixels of a batch; this loss takes those of each image, and then the mean over images. Classes without a
    distribution are not candidates, and K is the number of the others; in the code they have a mean of 0. Both are this
    library's choices.

    Two products of a (K, D) matrix with the features give all scores: memory is a few maps of the features' size and of
    K channels.

    Args:
        distributions: The :class:`ClassDistributions`; read, never written, and no part of this module's state.
        temperature: :math:`\\tau`, 100 in paper and code.
        ratio: :math:`\\rho`, the weight of the variances.
        regularizer_weight: :math:`\\lambda`, 1 in paper and code. The sign is theirs too: the regularizer is lowest
            where the mean feature is much nearer to some means than to others.
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

    Raises:
        TypeError: If ``distributions`` are not a :class:`ClassDistributions`, or another argument is not a number.
        ValueError: If ``temperature`` is not above 0, another number is below 0, or ``reduction`` is unknown.

    Example:
        >>> distributions = ClassDistributions(num_classes=2, feature_dim=2)
        >>> distributions.update(torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]), torch.tensor([[[0, 1]]]))
        >>> features = torch.tensor([[[[3.0]], [[0.0]]]], requires_grad=True)
        >>> loss = DistributionContrastLoss(distributions, temperature=1.0, regularizer_weight=0.0)
        >>> loss(features, torch.tensor([[[0]]]))                          # log(1 + exp(0 - 1))
        tensor(0.3133, grad_fn=<DivBackward0>)
    """

    def __init__(
        self,
        distributions: ClassDistributions,
        temperature: float = 100.0,
        *,
        ratio: float = 1.0,
        regularizer_weight: float = 1.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_kind("distributions", distributions, ClassDistributions)
        self._distributions = [distributions]  # in a list: not a submodule, its state is saved where it lives
        self.temperature = checked_divisor("temperature", temperature)
        self.ratio = checked_number("ratio", ratio, "at least 0", least=0)
        if self.ratio / 2 / self.temperature / self.temperature > _LARGEST_FACTOR:
            raise ValueError(
                f"ratio / (2 * temperature^2) must be at most {_LARGEST_FACTOR:g}, beyond which scores overflow, got "
                f"ratio = {ratio!r} and temperature = {temperature!r}. Raise the temperature."
            )
        self.regularizer_weight = checked_number("regularizer_weight", regularizer_weight, "at least 0", least=0)
        self.reduction: Reduction = checked_reduction(reduction)

    @property
    def distributions(self) -> ClassDistributions:
        """The distributions that pixels are compared with."""
        return self._distributions[0]

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch of either domain.

        Args:
            features: (B, D, h, w).
            labels: Class ids (B, H, W), any integer dtype, the distributions' ``ignore_index`` for pixels without a
                class: ground truth, or the labels of a teacher. A cell gets that of its majority
                (:func:`majority_labels`).

        Returns:
            A scalar, or (B,) for ``reduction="none"``; float32 (float64 for float64 features). Exactly 0, still
            attached to ``features``, where no cell has the label of a class with a distribution.

        Raises:
            ValueError: If ranks, dtypes, sizes, devices or class ids cannot be right.

        Warns:
            UserWarning: Once, if ``features`` carry no gradient while gradient mode is on and the loss is in training
                mode: it then trains nothing.
        """
        held = self.distributions
        ids, used = _counted(held._labels_at(features, labels), held.filled)
        with torch.autocast(autocast_device(features), enabled=False):
            cells = unit_length(cleared(features, used), 1)
            mean, variance = held.moments_in(cells.dtype)
            flat = cells.flatten(2)
            spread = (variance @ flat.square()) * (self.ratio / (2 * self.temperature**2))
            scores = mean @ flat / self.temperature + spread
            terms = (spread - _log_softmax(scores, held.filled)).gather(1, ids.flatten(2)).view(used.shape)
            losses = mean_over_pixels(terms, used, "none")
            losses = losses + self.regularizer_weight * self._regularizer(flat, used.flatten(1).sum(1), mean)
        warn_without_gradient("distribution contrast loss", "features", features, TRAIN_FEATURES, self, stacklevel=5)
        return losses if self.reduction == "none" else losses.sum() / max(1, len(losses))

    def _regularizer(self, cells: Tensor, count: Tensor, mean: Tensor) -> Tensor:
        """(B,), of the mean of each image's cells (B, D, P) that count; the others are 0."""
        filled = self.distributions.filled
        center = cells.sum(2) / count.clamp(min=1)[:, None]
        logarithms = _log_softmax(center @ mean.mT / self.temperature, filled)
        sums = torch.where(filled & (count > 0)[:, None], logarithms, 0).sum(1)
        classes = filled.sum().clamp(min=1).to(sums.dtype)
        return sums / (classes * classes.log()).clamp(min=1)  # of one class it is 0, and 2 log 2 is above 1

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, features: Tensor, labels: Tensor) -> Tensor: ...

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return (
            f"temperature={self.temperature}, ratio={self.ratio}, regularizer_weight={self.regularizer_weight}, "
            f"reduction={self.reduction!r}"
        )


class PrototypeContrastLoss(nn.Module):
    """Prototype contrast loss (ProCA, CONFETI): cross-entropy of each pixel's cosines with the anchors of all classes.

    .. math:: \\mathcal{L} = -\\operatorname{mean}_x \\log
              \\frac{e^{\\cos(f, A_y) / t}}{\\sum_k e^{\\cos(f, A_k) / t}}

    ProCA (https://arxiv.org/abs/2207.06654) has *t* = 50, CONFETI (https://arxiv.org/abs/2306.09098) *t* = 0.1: with 50
    the loss stays close to log K, and its gradient is small. Both take the mean over the pixels of a batch; this loss
    takes that of each image, and then the mean over images. Classes without an anchor are not candidates. Both are this
    library's choices. For anchors that follow the features as an exponential mean does give :class:`CategoryAnchors` a
    small ``max_count``: a new image then weighs 1 / (``max_count`` + 1).

    Memory is a few maps of the features' size and of K channels.

    Args:
        anchors: The :class:`CategoryAnchors`; read, never written, and no part of this module's state.
        temperature: *t*.
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

    Raises:
        TypeError: If ``anchors`` is not a :class:`CategoryAnchors`.
        ValueError: If ``temperature`` is not above 0, or ``reduction`` is unknown.

    Example:
        >>> anchors = CategoryAnchors(num_classes=2, feature_dim=2, min_pixels=1)
        >>> anchors.update(torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]), torch.tensor([[[0, 1]]]))
        >>> features = torch.tensor([[[[3.0]], [[0.0]]]], requires_grad=True)
        >>> PrototypeContrastLoss(anchors, temperature=1.0)(features, torch.tensor([[[0]]]))     # log(1 + exp(0 - 1))
        tensor(0.3133, grad_fn=<DivBackward0>)
    """

    def __init__(self, anchors: CategoryAnchors, temperature: float = 0.1, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_kind("anchors", anchors, CategoryAnchors)
        self._anchors = [anchors]  # in a list: not a submodule, its state is saved where it lives
        self.temperature = checked_divisor("temperature", temperature)
        self.reduction: Reduction = checked_reduction(reduction)

    @property
    def anchors(self) -> CategoryAnchors:
        """The anchors that pixels are compared with."""
        return self._anchors[0]

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor | None = None) -> Tensor:
        """The loss of a batch of either domain.

        Args:
            features: (B, D, h, w).
            labels: Class ids (B, H, W), any integer dtype, ``anchors.ignore_index`` for pixels without a class; resized
                nearest to (h, w).
            logits: (B, K, h, w): only pixels that they put into the labels' class count. None takes all labeled pixels.

        Returns:
            A scalar, or (B,) for ``reduction="none"``; float32 (float64 for float64 features). Exactly 0, still
            attached to ``features``, where no pixel has the label of a class with an anchor.

        Raises:
            ValueError: If ranks, dtypes, sizes, devices or class ids cannot be right.

        Warns:
            UserWarning: Once, if ``features`` carry no gradient while gradient mode is on and the loss is in training
                mode: it then trains nothing.
        """
        ids, used = _counted(self.anchors._labels_at(features, labels, logits), self.anchors.filled)
        with torch.autocast(autocast_device(features), enabled=False):
            pixels = unit_length(cleared(features, used), 1)
            prototypes = unit_length(self.anchors.anchors_in(pixels.dtype), 1)
            cosines = prototypes @ pixels.flatten(2)
            logarithms = _log_softmax(cosines / self.temperature, self.anchors.filled)
            terms = -logarithms.gather(1, ids.flatten(2)).view(used.shape)
            loss = mean_over_pixels(terms, used, self.reduction)
        warn_without_gradient("prototype contrast loss", "features", features, TRAIN_FEATURES, self, stacklevel=5)
        return loss

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, features: Tensor, labels: Tensor, logits: Tensor | None = None) -> Tensor: ...

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return f"temperature={self.temperature}, reduction={self.reduction!r}"
