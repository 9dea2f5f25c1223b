"""Output-space adversarial loss and its discriminator (AdaptSegNet, ADVENT, SIM Eq. 2 and 3).

Everywhere in this package 0 means source and 1 means target, and maps with a channel for each class in each domain have
their channels in that order: [source K | target K].
"""

from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stuffinstance._checks import (
    check_callable,
    check_choice,
    check_maps,
    check_on_device,
    checked_num_classes,
    checked_positive,
)
from stuffinstance._numerics import as_float, autocast_device
from stuffinstance._warnings import warn_without_gradient
from stuffinstance.losses.entropy_minimization import entropy_map
from stuffinstance.losses.reduction import Reduction, checked_reduction

SOURCE, TARGET = 0.0, 1.0

Objective = Literal["bce", "least_squares"]
Judged = Literal["probabilities", "entropy"]


def domain_channels(domain: float, num_classes: int) -> slice:
    """The channels of one domain in a map of 2K channels, a class-and-domain one.

    Example:
        >>> domain_channels(SOURCE, 19), domain_channels(TARGET, 19)
        (slice(0, 19, None), slice(19, 38, None))
    """
    start = int(domain) * num_classes
    return slice(start, start + num_classes)


class OutputDiscriminator(nn.Module):
    """Patch discriminator of the output space (AdaptSegNet, Tsai et al., CVPR 2018, https://arxiv.org/abs/1802.10349).

    Five 4×4 convolutions of stride 2 that classify the domain of each patch of a class probability map. Channels
    K → w → 2w → 4w → 8w → 1, leaky ReLU of slope 0.2 between, no normalization. The parameters are named ``conv1`` ..
    ``conv4`` and ``classifier``.

    Args:
        num_classes: K, channels of the probability map.
        width: w, 64 in paper and code.

    Raises:
        ValueError: If a size is below 1.

    Example:
        >>> OutputDiscriminator(num_classes=19)(torch.rand(1, 19, 64, 96)).shape
        torch.Size([1, 1, 2, 3])
    """

    def __init__(self, num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.num_classes = checked_num_classes(num_classes)
        width = checked_positive("width", width)
        self.conv1: nn.Conv2d = _halving(self.num_classes, width)
        self.conv2: nn.Conv2d = _halving(width, 2 * width)
        self.conv3: nn.Conv2d = _halving(2 * width, 4 * width)
        self.conv4: nn.Conv2d = _halving(4 * width, 8 * width)
        self.classifier: nn.Conv2d = _halving(8 * width, 1)

    def forward(self, probabilities: Tensor) -> Tensor:
        """Logits of "this patch is target": (B, K, H, W) to (B, 1, H/32, W/32), sizes rounded down."""
        check_maps("probabilities", probabilities, channels=self.num_classes, channel_name="K")
        check_weights_take("probabilities", probabilities, "discriminator", self.conv1.weight)
        if min(probabilities.shape[2:]) < 32:
            raise ValueError(
                f"probabilities must be at least 32 by 32 for five halvings, got {tuple(probabilities.shape)}. "
                "Upsample the logits to the image's size first."
            )
        hidden = probabilities
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            hidden = F.leaky_relu(convolution(hidden), 0.2)
        logits: Tensor = self.classifier(hidden)
        return logits

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, probabilities: Tensor) -> Tensor: ...


def check_weights_take(name: str, tensor: Tensor, owner: str, weight: Tensor) -> None:
    """Require the device of a network's weights, and their dtype where autocast does not see to it."""
    check_on_device(name, tensor, owner, weight)
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(autocast_device(tensor)):
        return
    if tensor.dtype != weight.dtype:
        raise ValueError(
            f"{name} must have the dtype of the {owner}'s weights, got {tensor.dtype} and {weight.dtype}. "
            f"Pass {name}.to({weight.dtype}), or call it under torch.autocast."
        )


def _halving(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel_size=4, stride=2, padding=1)


class AdversarialLoss(nn.Module):
    """Base of the losses of a network and its discriminator: ``generator_loss`` and ``discriminator_loss``."""

    def __init__(self, discriminator: nn.Module, inputs: str, reduction: Reduction) -> None:
        super().__init__()
        check_callable("discriminator", discriminator, inputs)
        self._discriminator = [discriminator]  # in a list: not a submodule, its state is saved where it lives
        self.reduction: Reduction = checked_reduction(reduction)

    @property
    def discriminator(self) -> nn.Module:
        """The discriminator, which is not a submodule."""
        return self._discriminator[0]

    def _halves(self, source_loss: Tensor, target_loss: Tensor) -> Tensor:
        """The discriminator's loss: half of the error on each domain."""
        if source_loss.shape != target_loss.shape:
            raise ValueError(
                "source and target must hold equally many images for reduction='none', got "
                f"B = {source_loss.shape[0]} and B = {target_loss.shape[0]}. Pass equal batches or use 'mean'."
            )
        return 0.5 * source_loss + 0.5 * target_loss


class OutputAdversarialLoss(AdversarialLoss):
    """Output-space adversarial loss (SIM, Eq. 2 and 3; AdaptSegNet, ADVENT), mean over patches and images.

    .. math:: \\mathcal{L}_{adv} = \\ell(D(m(S(C(f^t)))), 0), \\qquad
              \\mathcal{L}_D = \\tfrac12 \\ell(D(m(S(C(f^s)))), 0) + \\tfrac12 \\ell(D(m(S(C(f^t)))), 1)

    with :math:`\\ell` binary cross-entropy with logits, or :math:`(D - \\text{label})^2` for ``"least_squares"``, and
    *m* the identity, or ADVENT's :func:`entropy_map` for ``"entropy"``. The halves stay with the discriminator in
    either objective. Published weights of the first term: 0.001, with least squares 0.01.

    AdaptSegNet's two levels are two of these losses, one for each head of the network with a discriminator of its own:
    0.001 times the generator's loss of the last head plus 0.0002 times that of the auxiliary one. Papers: SIM
    (https://arxiv.org/abs/2003.08040), AdaptSegNet (https://arxiv.org/abs/1802.10349), ADVENT
    (https://arxiv.org/abs/1811.12833).

    The discriminator belongs to the caller, who optimizes it: this module has no parameters of its own.

    Args:
        discriminator: Maps (B, K, H, W) to logits of "target", any shape; for least squares the output is compared with
            the labels as it is.
        objective: ``"bce"`` (SIM, AdaptSegNet, ADVENT) or ``"least_squares"`` (AdaptSegNet's variant).
        of: What the discriminator sees: class ``"probabilities"``, or ``"entropy"`` for ADVENT's maps.
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

    Raises:
        TypeError: If ``discriminator`` cannot be called.
        ValueError: If ``objective``, ``of`` or ``reduction`` is unknown.

    Example:
        >>> loss = OutputAdversarialLoss(OutputDiscriminator(num_classes=3, width=2))
        >>> source, target = torch.randn(1, 3, 32, 64), torch.randn(1, 3, 32, 32, requires_grad=True)
        >>> loss.generator_loss(target).requires_grad, loss.discriminator_loss(source, target).shape
        (True, torch.Size([]))
    """

    def __init__(
        self,
        discriminator: nn.Module,
        objective: Objective = "bce",
        of: Judged = "probabilities",
        *,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(discriminator, "maps (B, K, H, W)", reduction)
        check_choice("objective", objective, get_args(Objective))
        check_choice("of", of, get_args(Judged))
        self.objective: Objective = objective
        self.of: Judged = of

    def generator_loss(self, target_logits: Tensor) -> Tensor:
        """The segmentation network's side: make the target look like the source.

        Only ``target_logits`` should learn from it: the caller freezes the discriminator for this pass, or drops the
        gradients that it collects.

        Args:
            target_logits: (B, K, H, W), upsampled to the image; softmax is taken here.

        Returns:
            A scalar, or (B,) for ``reduction="none"``; float32 or float64. Exactly 0, still attached to
            ``target_logits``, for an empty batch.

        Warns:
            UserWarning: Once, if ``target_logits`` carry no gradient while gradient mode is on and this module is in
                training mode: the segmentation network then learns nothing from it.
        """
        check_maps("target_logits", target_logits, channel_name="K")
        loss = self._error(target_logits, SOURCE)
        remedy = "Pass the logits of the network that is trained, as they leave it."
        warn_without_gradient("adversarial loss of the generator", "target_logits", target_logits, remedy, self)
        return loss

    def discriminator_loss(self, source_logits: Tensor, target_logits: Tensor) -> Tensor:
        """The discriminator's side: half of each domain's error; the logits are detached here.

        Args:
            source_logits: (B, K, H, W).
            target_logits: (B', K, H', W'), any batch and size; with ``reduction="none"`` B' = B.

        Returns:
            A scalar, or (B,) for ``reduction="none"``; float32 or float64.
        """
        check_maps("source_logits", source_logits, channel_name="K")
        check_maps("target_logits", target_logits, channel_name="K")
        source = self._error(source_logits.detach(), SOURCE)
        return self._halves(source, self._error(target_logits.detach(), TARGET))

    def _error(self, logits: Tensor, domain: float) -> Tensor:
        seen = torch.softmax(logits, 1)
        judged: Tensor = self.discriminator(seen if self.of == "probabilities" else entropy_map(seen))
        with torch.autocast(autocast_device(logits), enabled=False):
            judged = as_float(judged)
            ground_truth = torch.full_like(judged, domain)
            least_squares = self.objective == "least_squares"
            error_of = F.mse_loss if least_squares else F.binary_cross_entropy_with_logits
            if self.reduction == "none":
                return error_of(judged, ground_truth, reduction="none").flatten(1).mean(1)
            return error_of(judged, ground_truth, reduction="sum") / max(1, judged.numel())  # an empty batch costs 0

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return f"objective={self.objective!r}, of={self.of!r}, reduction={self.reduction!r}"
