"""Bank contrast loss (SePiCo): target pixels against the rows of feature banks."""

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stuffinstance._checks import check_kind, check_on_device, checked_divisor, checked_flag, may_read
from stuffinstance._numerics import autocast_device, cleared, unit_length
from stuffinstance._warnings import TRAIN_FEATURES, warn_without_gradient
from stuffinstance.banks import MemoryBank
from stuffinstance.label_maps import _resize_labels
from stuffinstance.losses.reduction import Reduction, checked_reduction, mean_over_pixels
from stuffinstance.regions.class_lookup import class_positions

# Similarities of pixels to the rows of all classes are made for a few slots at a time: of a pixel only those to its own
# class are kept.
_BLOCK_ELEMENTS = 2**22


class BankContrastLoss(nn.Module):
    """Bank contrast loss (SePiCo's BankCL, Xie et al., TPAMI 2023): pixels to the rows of their class, not of others.

    .. math:: \\mathcal{L} = -\\frac{1}{B} \\sum_i \\frac{1}{|\\Omega_i|} \\sum_{x \\in \\Omega_i} \\frac{1}{n_c}
              \\sum_{j=1}^{n_c} \\log \\frac{e^{f_x \\cdot S^c_j / \\tau}}
              {e^{f_x \\cdot S^c_j / \\tau} + \\sum_{k \\ne c} e^{f_x \\cdot \\bar S^k / \\tau}}

    over the pixels :math:`\\Omega_i` of image *i* whose class *c* has rows, :math:`n_c` of them, with
    :math:`\\bar S^k` the mean of the rows of class *k*. Classes without a row are neither pulled to nor pushed from.

    Paper: https://arxiv.org/abs/2204.08808. The reference implementation keeps one row per batch and class, the mean of
    L2-normalized outputs of a projection head; here rows are a bank's as they are, normalized when they are read. It
    takes the mean over all pixels of the batch; the mean over images of each image's mean is this library's choice, so
    that a batch equals the mean of its single images. It gives a cell of the feature map the class of its majority
    where that fills 0.75 of the cell, and no class else; pass such labels for that.

    Memory: for each bank four tensors of a number per pixel and slot, (N, S) with N = B·h·w, and blocks of 16 MiB (or
    of N·C numbers where that is more) in which similarities to all classes are made; never (N, C, S), and of the
    features four (N, D). Where values are read freely (a CPU) N counts the pixels of the bank's own classes.

    Args:
        bank: A :class:`StuffBank` or :class:`InstanceBank`, or several that share no class, whose classes are then
            contrasted with each other. Read, never written, and no part of this module's state.
        temperature: :math:`\\tau`, 100 in paper and code.
        normalize: L2-normalize features and rows (paper and code). Features that are not normalized have dot products
            of any size, to which a temperature has to be fitted.
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

    Raises:
        TypeError: If ``bank`` is neither a bank nor a sequence of banks, or ``normalize`` is not True or False.
        ValueError: If no bank is given, banks differ in D or share a class, ``temperature`` is not above 0, or
            ``reduction`` is unknown.

    Example:
        >>> bank = StuffBank(classes=(0, 1), feature_dim=2, capacity=2)
        >>> bank.update(torch.tensor([[[[3.0, 0.0]], [[0.0, 5.0]]]]), torch.tensor([[[0, 1]]]))   # (3, 0) and (0, 5)
        >>> features = torch.tensor([[[[2.0]], [[0.0]]]], requires_grad=True)
        >>> BankContrastLoss(bank, temperature=1.0)(features, torch.tensor([[[0]]]))              # log(1 + e^(0 - 1))
        tensor(0.3133, grad_fn=<DivBackward0>)
    """

    def __init__(
        self,
        bank: MemoryBank | Sequence[MemoryBank],
        temperature: float = 100.0,
        *,
        normalize: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        # In a tuple, so that none becomes a submodule: their state is saved where they live.
        self.banks: tuple[MemoryBank, ...] = _checked_banks(bank)
        self.classes: tuple[int, ...] = tuple(chain.from_iterable(each.classes for each in self.banks))
        self.temperature = checked_divisor("temperature", temperature)
        self.normalize = checked_flag("normalize", normalize)
        self.reduction: Reduction = checked_reduction(reduction)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            features: Target features, (B, D, h, w).
            labels: Target labels (B, H, W), any integer dtype: pseudo-labels, or the argmax of the logits; resized
                nearest to (h, w). Ids that are not the banks' are ignored.

        Returns:
            A scalar, or (B,) for ``reduction="none"``; float32 (float64 for float64 features). Exactly 0, still
            attached to ``features``, where no pixel counts, and where only one class has rows. A pixel that counts and
            is not finite makes it non-finite, so that a gradient scaler or an anomaly check sees it.

        Raises:
            ValueError: If ranks, dtypes, sizes or devices do not fit.

        Warns:
            UserWarning: Once, if ``features`` carry no gradient while gradient mode is on and the loss is in training
                mode: it then trains nothing.
        """
        self.banks[0]._check(features, labels)
        for bank in self.banks[1:]:
            check_on_device("features", features, "bank", bank.features)
        warn_without_gradient("bank contrast loss", "features", features, TRAIN_FEATURES, self, stacklevel=5)
        place = class_positions(_resize_labels(labels, features.shape[2], features.shape[3]), self.classes)
        with torch.autocast(autocast_device(features), enabled=False):
            written = torch.cat([bank.written for bank in self.banks]) > 0  # (C,)
            used = F.pad(written, (0, 1))[place]  # -1 takes the last: no class
            pixels = cleared(features, used).movedim(1, 3).flatten(0, 2)  # (N, D)
            losses = self._of_pixels(pixels, place.flatten(), used.flatten(), written)
            return mean_over_pixels(losses.view(place.shape), used, self.reduction)

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, features: Tensor, labels: Tensor) -> Tensor: ...

    def _of_pixels(self, pixels: Tensor, place: Tensor, used: Tensor, written: Tensor) -> Tensor:
        """The loss of each pixel (N, D) of the class at ``place`` (N,) in the banks; 0 where not ``used``."""
        rows = [bank.features.detach().to(pixels.dtype) for bank in self.banks]  # (C, S, D) each
        if self.normalize:
            pixels, rows = unit_length(pixels, 1), [unit_length(each, 2) for each in rows]
        filled = [bank.filled for bank in self.banks]
        # Empty slots are zero.
        means = torch.cat(
            [each.sum(1) / there.sum(1).clamp(min=1)[:, None] for each, there in zip(rows, filled, strict=True)]
        )
        others = written & (place[:, None] != torch.arange(len(self.classes), device=place.device))  # (N, C)
        against = pixels @ means.T / self.temperature
        negative = against.masked_fill(~others, torch.finfo(against.dtype).min).logsumexp(1)  # (N,)
        losses, start = 0 * pixels.sum(1), 0
        for bank, each, there in zip(self.banks, rows, filled, strict=True):
            stop = start + len(bank.classes)
            here = used & (place >= start) & (place < stop)
            if may_read(pixels):
                found = here.nonzero()[:, 0]
                given = pixels[found], place[found] - start, negative[found]
                losses = losses.index_add(0, found, self._of_bank(*given, each, there))
            elif bank.classes:
                own = (place - start).clamp(0, len(bank.classes) - 1)
                losses = torch.where(here, self._of_bank(pixels, own, negative, each, there), losses)
            start = stop
        return losses

    def _of_bank(self, pixels: Tensor, place: Tensor, negative: Tensor, rows: Tensor, filled: Tensor) -> Tensor:
        """Loss (N,) of pixels (N, D), of the class at ``place`` (N,), with rows (C, S, D)."""
        positive = _own_similarities(pixels, place, rows) / self.temperature  # (N, S)
        own = filled[place]
        return torch.where(own, -F.logsigmoid(positive - negative[:, None]), 0).sum(1) / own.sum(1).clamp(min=1)

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return (
            f"classes={self.classes}, temperature={self.temperature}, normalize={self.normalize}, "
            f"reduction={self.reduction!r}"
        )


def _checked_banks(bank: MemoryBank | Sequence[MemoryBank]) -> tuple[MemoryBank, ...]:
    """One bank or several, of one D and no common class."""
    banks = tuple(bank) if isinstance(bank, (list, tuple)) else (bank,)
    for each in banks:
        check_kind("bank", each, MemoryBank, "a StuffBank, an InstanceBank, or a sequence of them")
    classes = [class_ for each in banks for class_ in each.classes]
    if not banks or len({each.feature_dim for each in banks}) > 1 or len(set(classes)) < len(classes):
        raise ValueError(
            "bank must be one bank, or several of one feature_dim that share no class, got "
            f"{', '.join(f'classes {each.classes} with D = {each.feature_dim}' for each in banks) or 'none'}."
        )
    return banks


def _own_similarities(pixels: Tensor, place: Tensor, rows: Tensor) -> Tensor:
    """Dot products (N, S) of pixels (N, D) with the rows (C, S, D) of the class at their ``place`` (N,)."""
    classes = rows.shape[0]
    step = max(1, _BLOCK_ELEMENTS // max(1, pixels.shape[0] * classes))
    index = place[:, None, None]
    parts = []
    for part in torch.split(rows, step, dim=1):
        every = (pixels @ part.flatten(0, 1).T).view(pixels.shape[0], classes, part.shape[1])
        parts.append(every.gather(1, index.expand(-1, 1, part.shape[1]))[:, 0])
    return torch.cat(parts, dim=1)
