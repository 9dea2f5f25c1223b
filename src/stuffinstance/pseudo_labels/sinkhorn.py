"""Online self-labeling: soft labels by optimal transport between pixels and classes (CPSL)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stuffinstance._checks import (
    FLOATING_DTYPES,
    check_can_move,
    check_maps,
    check_tensor,
    checked_divisor,
    checked_flag,
    checked_positive,
    describe,
    may_read,
)
from stuffinstance._numerics import as_float, autocast_device
from stuffinstance.distributed import Sync, check_sync, gather_equal, shared_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class SinkhornLabels(nn.Module):
    """Online self-labeling by optimal transport (CPSL, Li et al., CVPR 2022): soft labels that use every class.

    Paper: https://arxiv.org/abs/2203.09744, after SwAV (https://arxiv.org/abs/2006.09882). For the scores
    :math:`z_{kx}` of *N* pixels, such as cosines of features with class means, the labels are the plan *Q* of

    .. math:: \\max_{Q \\ge 0} \\sum_{k,x} Q_{kx} z_{kx} + \\varepsilon H(Q), \\qquad
              \\sum_k Q_{kx} = 1, \\qquad \\sum_x Q_{kx} = N r_k

    which is :math:`Q_{kx} = u_k\\, e^{z_{kx} / \\varepsilon}\\, v_x`. Each of Sinkhorn's rounds scales the classes
    (*u*), then the pixels (*v*), in logarithms. After the last the labels of a pixel sum to 1, and those of a class to
    :math:`N r_k` but for what further rounds would change. *N* counts the pixels of the batch, and with ``sync="auto"``
    of the batches of all ranks: the plan is that of one process with all images, and each round gathers K numbers.

    Memory is four maps of the scores' size. Nothing here carries a gradient.

    Args:
        epsilon: :math:`\\varepsilon`: with a small one labels are hard, with a large one even. 0.05 is SwAV's, for
            cosines; 1 with logits gives a softmax whose classes are rescaled.
        rounds: Number of rounds (3).
        sync: ``"auto"`` shares the plan across the ranks of a running process group, ``"off"`` makes one per rank.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Check the values of ``prior`` on a GPU too.

    Raises:
        TypeError: If ``rounds`` is not a whole number, or ``epsilon`` is not a number.
        ValueError: If ``epsilon`` is not above 0, ``rounds`` is below 1, or ``sync`` is not 'auto' or 'off'.

    Example:
        >>> scores = torch.tensor([[[[0.9, 0.8, 0.7, 0.6]], [[0.1, 0.2, 0.3, 0.4]]]])     # class 0 everywhere
        >>> soft = SinkhornLabels()(scores)
        >>> soft.argmax(1), soft.sum((0, 2, 3)).round(decimals=3)
        (tensor([[[0, 0, 1, 1]]]), tensor([2., 2.]))
    """

    def __init__(
        self,
        epsilon: float = 0.05,
        rounds: int = 3,
        *,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
        validate_args: bool = False,
    ) -> None:
        super().__init__()
        self.epsilon = checked_divisor("epsilon", epsilon)
        self.rounds = checked_positive("rounds", rounds)
        check_sync(sync)
        self.sync: Sync = sync
        self._group = shared_group(group)
        self.validate_args = checked_flag("validate_args", validate_args)

    @torch.no_grad()
    def forward(self, scores: Tensor, prior: Tensor | None = None) -> Tensor:
        """The soft labels of a batch. Under ``torch.distributed`` every rank must call this.

        Args:
            scores: (B, K, H, W), larger for a likelier class. A pixel with a NaN or an infinity gets no label and does
                not count.
            prior: :math:`r`, the fractions of the classes, (K,), scaled here to the sum 1: those of confident
                pseudo-labels so far, as in CPSL. None for 1/K each. A class of 0 is not used. The same on all ranks.

        Returns:
            (B, K, H, W), float32 (float64 for float64 scores), of sum 1 over the classes, or 0 without a label.

        Raises:
            TypeError: If an argument is not a tensor.
            ValueError: If ranks, dtypes, sizes or devices do not fit, or ``prior`` is negative or 0 everywhere.
        """
        check_maps("scores", scores, channel_name="K")
        classes = scores.shape[1]
        if prior is None:
            prior = scores.new_ones(classes)
        else:
            self._check_prior(prior, scores)
        with torch.autocast(autocast_device(scores), enabled=False):
            scores = as_float(scores) / self.epsilon
            return self._plan(scores, prior.to(scores))

    def _plan(self, scores: Tensor, prior: Tensor) -> Tensor:
        counted = scores.isfinite().all(1)
        rows = torch.where(counted[:, None], scores, -torch.inf).movedim(1, 0).flatten(1)  # (K, N)
        pixels = self._of_all_ranks(counted.sum())
        wanted = (prior / prior.sum()).log() + pixels.sum().to(rows.dtype).log()
        of_pixel = torch.zeros_like(rows[0])
        for _ in range(self.rounds):
            sums = self._of_all_ranks((rows + of_pixel).logsumexp(1))
            of_class = (wanted - sums.logsumexp(0).to(wanted.dtype))[:, None]
            of_pixel = -torch.where(counted.flatten(), (rows + of_class).logsumexp(0), 0)
        plan = (rows + of_class + of_pixel).exp().view(scores.shape[1], *counted.shape).movedim(0, 1)
        return torch.where(counted[:, None], plan, 0)

    def _of_all_ranks(self, row: Tensor) -> Tensor:
        return gather_equal(row, self.sync, None if self._group is None else self._group.group)

    def _check_prior(self, prior: Tensor, scores: Tensor) -> None:
        classes = scores.shape[1]
        check_tensor("prior", f"a floating-point tensor (K = {classes},)", prior)
        if prior.dtype not in FLOATING_DTYPES or prior.shape != (classes,):
            raise ValueError(
                f"prior must be a floating-point tensor (K = {classes},), got {describe(prior)}. Of counts pass "
                "counts / counts.sum()."
            )
        check_can_move("prior", prior, "tensor of scores", scores)
        if may_read(prior, self.validate_args) and not (
            bool(prior.isfinite().all() & (prior >= 0).all()) and prior.any()
        ):
            raise ValueError(f"prior must be finite, at least 0 and above 0 for some class, got {prior.tolist()}.")

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, scores: Tensor, prior: Tensor | None = None) -> Tensor: ...

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return f"epsilon={self.epsilon}, rounds={self.rounds}"
