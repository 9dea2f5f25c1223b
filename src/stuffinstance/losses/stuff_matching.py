"""Stuff matching (SIM, Eq. 6): one distance per class and image."""

import torch
from torch import Tensor

from stuffinstance.arguments import check_kind
from stuffinstance.banks import Classifier, StuffBank
from stuffinstance.losses.matching_loss import MatchingLoss
from stuffinstance.losses.without_gradient import FEATURES, warn_without_gradient
from stuffinstance.matching import Between, DistanceName
from stuffinstance.regions import Regions


def stuff_matching_loss(distances: Tensor, used: Tensor) -> Tensor:
    """Sum over the classes that are used, mean over images.

    Args:
        distances: To the nearest source row, (B, C).
        used: Class occurs, has a partner and passed the filter, (B, C) bool.

    Returns:
        A scalar; 0 where nothing is used.

    Example:
        >>> distances = torch.tensor([[1.0, 2.0], [4.0, 8.0]], requires_grad=True)
        >>> stuff_matching_loss(distances, torch.tensor([[True, True], [True, False]]))
        tensor(3.5000, grad_fn=<DivBackward0>)
    """
    warn_without_gradient("stuff matching loss", "distances", distances, FEATURES)
    return _summed(distances, used)


def _summed(distances: Tensor, used: Tensor) -> Tensor:
    return torch.where(used, distances, 0).sum() / max(1, distances.shape[0])


class StuffMatchingLoss(MatchingLoss):
    """Pull each stuff class of a target image to the nearest source row of the class.

    .. math:: \\mathcal{L}_{stf} = \\frac{1}{B} \\sum_i \\sum_b \\min_j d(\\mathcal{A}^b(L_i, f_i), S^b_j)

    over the classes *b* that occur. Paper: :math:`d = \\lVert\\cdot\\rVert_1^2`, sum over images. Released code: mean
    over channels of the absolute difference, no square, one image a batch; a class absent from the image can add a
    constant without gradient there, which is not copied here. The mean over images is this library's choice, so that a
    batch equals the mean of its single images.

    Args:
        bank: The :class:`StuffBank` to match against.
        distance: ``"l1_mean"`` (code), ``"l1_squared"`` (paper), ``"l2"``, ``"cosine"``, or a callable of two tensors
            (..., D) that broadcast, which returns (...), smaller for nearer rows: of a similarity, 1 - similarity. A
            callable is tried here on a few small rows of the bank's D.
        warm_up: Match a class only after more rows were written than the bank holds (code); else from the first row
            on (paper).
        classifier: Rows (N, D) to logits (N, K): regions that it puts into another class are not matched (code).

    Raises:
        TypeError: If ``bank`` is not such a bank, or ``distance`` is neither a name nor a callable of two tensors.
        ValueError: If ``distance`` has no such name, returns another shape, or is larger for equal rows than for
            different ones.

    Example:
        >>> bank = StuffBank(classes=(0,), feature_dim=1, capacity=2)
        >>> bank.update(torch.tensor([[[[2.0]]]]), torch.tensor([[[0]]]))
        >>> StuffMatchingLoss(bank)(torch.tensor([[[[5.0]]]], requires_grad=True), torch.tensor([[[0]]]))
        tensor(3., grad_fn=<DivBackward0>)
    """

    def __init__(
        self,
        bank: StuffBank,
        distance: DistanceName | Between = "l1_mean",
        *,
        warm_up: bool = False,
        classifier: Classifier | None = None,
    ) -> None:
        check_kind("bank", bank, StuffBank)
        super().__init__(bank, distance, warm_up=warm_up, classifier=classifier)

    def of_rows(self, rows: Tensor, regions: Regions) -> Tensor:
        """The loss of stuff regions whose mean features (B, C, D) are already known."""
        distance, _, matchable = self.nearest(rows, regions)
        used = regions.valid & matchable[:, None] & self.trusted(rows, regions)
        return _summed(distance[:, :, 0], used[:, :, 0])
