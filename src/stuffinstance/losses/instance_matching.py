"""Instance matching (SIM, Eq. 8): the mean distance over the regions of each class."""

import torch
from torch import Tensor

from stuffinstance.arguments import check_kind
from stuffinstance.banks import InstanceBank
from stuffinstance.losses.matching_loss import MatchingLoss
from stuffinstance.losses.without_gradient import FEATURES, warn_without_gradient
from stuffinstance.matching import Between, DistanceName
from stuffinstance.regions import Regions


def instance_matching_loss(distances: Tensor, valid: Tensor, matchable: Tensor) -> Tensor:
    """Mean over the regions of a class, sum over classes, mean over images.

    Args:
        distances: To the nearest source row, (B, C, Z).
        valid: There is such a region, (B, C, Z) bool.
        matchable: The class has rows to match, (C,) bool.

    Returns:
        A scalar; 0 where nothing can be matched.

    Example:
        >>> distances = torch.tensor([[[2.0, 4.0, 9.0]]], requires_grad=True)
        >>> instance_matching_loss(distances, torch.tensor([[[True, True, False]]]), torch.tensor([True]))
        tensor(3., grad_fn=<DivBackward0>)
    """
    warn_without_gradient("instance matching loss", "distances", distances, FEATURES)
    return _averaged(distances, valid, matchable)


def _averaged(distances: Tensor, valid: Tensor, matchable: Tensor) -> Tensor:
    used = valid & matchable[:, None]
    per_class = torch.where(used, distances, 0).sum(2) / valid.sum(2).clamp(min=1)
    return per_class.sum() / max(1, distances.shape[0])


class InstanceMatchingLoss(MatchingLoss):
    """Pull each of a target image's largest thing regions to the nearest source instance of its class.

    .. math:: \\mathcal{L}_{ins} = \\frac{1}{B} \\sum_i \\sum_k \\frac{1}{\\lvert R_k \\rvert} \\sum_{r \\in R_k}
              \\min_j d(\\mathcal{I}(r, f_i), S^k_j)

    with :math:`R_k` the bank's ``max_instances`` largest connected regions of class *k*, all of them where there are
    fewer. The text of the paper and the code agree on the largest ten; Eq. 8 as printed has all regions. Distances as
    in :class:`StuffMatchingLoss`. The released code applies no agreement filter to target things.

    Args:
        bank: The :class:`InstanceBank` to match against.
        distance: ``"l1_mean"`` (code), ``"l1_squared"`` (paper), ``"l2"``, ``"cosine"``, or a callable of two tensors
            (..., D) that broadcast, which returns (...), smaller for nearer rows: of a similarity, 1 - similarity. A
            callable is tried here on a few small rows of the bank's D.
        warm_up: Match a class only after more rows were written than the bank holds (code); else from the first row
            on (paper).

    Raises:
        TypeError: If ``bank`` is not such a bank, or ``distance`` is neither a name nor a callable of two tensors.
        ValueError: If ``distance`` has no such name, returns another shape, or is larger for equal rows than for
            different ones.

    Example:
        >>> bank = InstanceBank(classes=(5,), feature_dim=1, capacity=4)
        >>> bank.update(torch.tensor([[[[1.0, 9.0]]]]), torch.tensor([[[5, 0]]]))
        >>> features = torch.tensor([[[[2.0, 0.0, 4.0]]]], requires_grad=True)
        >>> InstanceMatchingLoss(bank)(features, torch.tensor([[[5, 0, 5]]]))
        tensor(2., grad_fn=<DivBackward0>)
    """

    def __init__(
        self, bank: InstanceBank, distance: DistanceName | Between = "l1_mean", *, warm_up: bool = False
    ) -> None:
        check_kind("bank", bank, InstanceBank)
        super().__init__(bank, distance, warm_up=warm_up, classifier=None)

    def of_rows(self, rows: Tensor, regions: Regions) -> Tensor:
        """The loss of thing regions whose mean features (B, C * Z, D) are already known."""
        distance, _, matchable = self.nearest(rows, regions)
        return _averaged(distance, regions.valid, matchable)
