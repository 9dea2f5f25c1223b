"""Fine-grained adversarial loss and its discriminator (FADA)."""

from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stuffinstance._checks import (
    check_choice,
    check_maps,
    check_same_batch,
    checked_divisor,
    checked_num_classes,
    checked_number,
    checked_positive,
)
from stuffinstance._numerics import as_float, autocast_device
from stuffinstance._warnings import TRAIN_FEATURES, warn_without_gradient
from stuffinstance.losses.adversarial import SOURCE, TARGET, AdversarialLoss, check_weights_take, domain_channels
from stuffinstance.losses.reduction import Reduction

Encoding = Literal["soft", "hard"]


class FineGrainedDiscriminator(nn.Module):
    """Fine-grained discriminator (FADA, https://arxiv.org/abs/2007.09222): class and domain of every feature pixel.

    3×3 convolutions D → w → w/2 with leaky ReLU of slope 0.2 after each, then two 3×3 heads of K channels, one for each
    domain; all keep the size. The parameters are named ``conv1``, ``conv2``, ``source`` and ``target``; in the
    reference implementation the same are ``D.0``, ``D.2``, ``cls1`` and ``cls2``.

    Args:
        feature_dim: D, channels of the features.
        num_classes: K.
        width: w, 256 in paper and code, even.

    Raises:
        ValueError: If a size is below 1, or ``width`` is odd.

    Example:
        >>> FineGrainedDiscriminator(feature_dim=8, num_classes=19, width=4)(torch.rand(1, 8, 5, 7)).shape
        torch.Size([1, 38, 5, 7])
    """

    def __init__(self, feature_dim: int, num_classes: int, width: int = 256) -> None:
        super().__init__()
        self.feature_dim = checked_positive("feature_dim", feature_dim)
        self.num_classes = checked_num_classes(num_classes)
        width = checked_positive("width", width)
        if width % 2:
            raise ValueError(f"width must be even, the second convolution has half of it; got {width}.")
        self.conv1: nn.Conv2d = _same_size(self.feature_dim, width)
        self.conv2: nn.Conv2d = _same_size(width, width // 2)
        self.source: nn.Conv2d = _same_size(width // 2, self.num_classes)
        self.target: nn.Conv2d = _same_size(width // 2, self.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, D, h, w) to logits (B, 2K, h, w), channels [source K | target K]."""
        check_maps("features", features, channels=self.feature_dim)
        check_weights_take("features", features, "discriminator", self.conv1.weight)
        hidden = F.leaky_relu(self.conv1(features), 0.2)
        hidden = F.leaky_relu(self.conv2(hidden), 0.2)
        return torch.cat((self.source(hidden), self.target(hidden)), 1)

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, features: Tensor) -> Tensor: ...


def _same_size(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)


class FineGrainedAdversarialLoss(AdversarialLoss):
    """Fine-grained adversarial loss (FADA, Wang et al., ECCV 2020): cross-entropy over 2K channels, mean over pixels.

    .. math:: \\mathcal{L}_{adv} = \\mathrm{SCE}(D(f^t), [a^t, 0]), \\qquad
              \\mathcal{L}_D = \\tfrac12 \\mathrm{SCE}(D(f^s), [a^s, 0]) + \\tfrac12 \\mathrm{SCE}(D(f^t), [0, a^t])

    .. math:: \\mathrm{SCE}(D, t) = -\\operatorname{mean}_x \\sum_{j=1}^{2K} t_j \\log S_j(D), \\qquad
              a = \\min(S(z / T), \\mathrm{clip})

    The encoding *a* says how much of each class the segmentation network sees at a pixel; it carries no gradient and is
    not normalized again after clipping. *D* is resized bilinearly (corners aligned) to the size of the logits *z*,
    which the reference implementation upsamples to the image first; smaller logits cost less.

    The paper (https://arxiv.org/abs/2007.09222) sums over pixels and has no half before the two sides of the
    discriminator; the reference implementation does as above. Its source cross-entropy also uses *z* / T: divide the
    logits by ``temperature`` there too. The published weight of the first is 0.001. Hard encodings are one-hot of the
    argmax (the authors' slides print 0 and 1 swapped); that they are not clipped is this library's choice.

    The discriminator belongs to the caller, who optimizes it: this module has no parameters of its own.

    Args:
        discriminator: Maps features (B, D, h, w) to logits (B, 2K, h, w), channels [source K | target K]:
            :class:`FineGrainedDiscriminator`.
        temperature: T, 1.8.
        clip: Largest entry of a soft encoding, 0.9; 1 clips nothing.
        encoding: ``"soft"`` (published) or ``"hard"``.
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

    Raises:
        TypeError: If ``discriminator`` cannot be called.
        ValueError: If ``temperature`` is not positive, ``clip`` not within 0 .. 1, or ``encoding`` or ``reduction``
            unknown.

    Example:
        >>> loss = FineGrainedAdversarialLoss(FineGrainedDiscriminator(8, num_classes=3, width=4))
        >>> features, logits = torch.randn(1, 8, 4, 6, requires_grad=True), torch.randn(1, 3, 8, 12)
        >>> loss.generator_loss(features, logits).requires_grad
        True
        >>> loss.discriminator_loss(features, logits, features, logits).shape     # detaches the features
        torch.Size([])
    """

    def __init__(
        self,
        discriminator: nn.Module,
        temperature: float = 1.8,
        clip: float = 0.9,
        encoding: Encoding = "soft",
        *,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(discriminator, "features (B, D, h, w)", reduction)
        self.temperature = checked_divisor("temperature", temperature)
        self.clip = checked_number("clip", clip, "above 0 and at most 1", above=0, most=1)
        check_choice("encoding", encoding, get_args(Encoding))
        self.encoding: Encoding = encoding

    def generator_loss(self, target_features: Tensor, target_logits: Tensor) -> Tensor:
        """The segmentation network's side: let the target's features look like the source's of the same classes.

        Only ``target_features`` should learn from it: the caller freezes the discriminator for this pass, or drops the
        gradients that it collects.

        Args:
            target_features: (B, D, h, w), as the discriminator takes them.
            target_logits: The segmentation's on the same images, (B, K, H, W); detached here.

        Returns:
            A scalar, or (B,) for ``reduction="none"``; float32 or float64. Exactly 0, still attached to
            ``target_features``, for an empty batch.

        Raises:
            TypeError: If an argument is not a tensor.
            ValueError: If ranks, dtypes, channels, batches or devices do not fit.

        Warns:
            UserWarning: Once, if ``target_features`` carry no gradient while gradient mode is on and this module is in
                training mode: the segmentation network then learns nothing from it.
        """
        loss = self._soft_cross_entropy("target", target_features, target_logits, SOURCE)
        loss_name = "adversarial loss of the generator"
        warn_without_gradient(loss_name, "target_features", target_features, TRAIN_FEATURES, self)
        return loss

    def discriminator_loss(
        self, source_features: Tensor, source_logits: Tensor, target_features: Tensor, target_logits: Tensor
    ) -> Tensor:
        """The discriminator's side: half of each domain's error; features and logits are detached here.

        Args:
            source_features: (B, D, h, w).
            source_logits: The segmentation's on the same images, (B, K, H, W).
            target_features: (B', D, h', w'), any batch and size; with ``reduction="none"`` B' = B.
            target_logits: (B', K, H', W').

        Returns:
            A scalar, or (B,) for ``reduction="none"``; float32 or float64.

        Raises:
            TypeError: If an argument is not a tensor.
            ValueError: If ranks, dtypes, channels, batches or devices do not fit.
        """
        source = self._soft_cross_entropy("source", source_features, source_logits, SOURCE, detach=True)
        target = self._soft_cross_entropy("target", target_features, target_logits, TARGET, detach=True)
        return self._halves(source, target)

    def _soft_cross_entropy(
        self, name: str, features: Tensor, logits: Tensor, domain: float, detach: bool = False
    ) -> Tensor:
        check_maps(f"{name}_logits", logits, channel_name="K")
        batch, classes, height, width = logits.shape
        check_maps(f"{name}_features", features)
        check_same_batch(f"{name}_features", features, f"{name}_logits", logits)
        output: Tensor = self.discriminator(features.detach() if detach else features)
        check_maps(f"discriminator({name}_features)", output, channels=2 * classes, channel_name="2K")
        with torch.autocast(autocast_device(logits), enabled=False):
            # Before the softmax, as in the code: it does not commute with resizing.
            output = F.interpolate(as_float(output), (height, width), mode="bilinear", align_corners=True)
            scores = F.log_softmax(output, 1)[:, domain_channels(domain, classes)]
            weighted = self._encode(logits) * scores
            if self.reduction == "none":
                return -weighted.sum((1, 2, 3)) / (height * width)
            return -weighted.sum() / max(1, batch * height * width)

    @torch.no_grad()
    def _encode(self, logits: Tensor) -> Tensor:
        """How much of each class is seen, (B, K, H, W)."""
        logits = as_float(logits)
        if self.encoding == "hard":
            return torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1)
        return torch.softmax(logits / self.temperature, 1).clamp(max=self.clip)

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return (
            f"temperature={self.temperature}, clip={self.clip}, encoding={self.encoding!r}, "
            f"reduction={self.reduction!r}"
        )
