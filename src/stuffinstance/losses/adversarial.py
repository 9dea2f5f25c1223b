"""Adversarial alignment of the output space. Everywhere in this package 0 means source and 1 means target."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stuffinstance.arguments import check_maps, check_positive

SOURCE, TARGET = 0.0, 1.0


class OutputDiscriminator(nn.Module):
    """Five 4×4 convolutions of stride 2 that tell the domain of a class probability map, patch by patch.

    Channels K → w → 2w → 4w → 8w → 1, leaky ReLU of slope 0.2 between, no normalisation. The parameters are named
    ``conv1`` .. ``conv4`` and ``classifier``.

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
        check_positive("num_classes", num_classes)
        check_positive("width", width)
        self.num_classes = num_classes
        self.conv1 = _halving(num_classes, width)
        self.conv2 = _halving(width, 2 * width)
        self.conv3 = _halving(2 * width, 4 * width)
        self.conv4 = _halving(4 * width, 8 * width)
        self.classifier = _halving(8 * width, 1)

    def forward(self, probabilities: Tensor) -> Tensor:
        """Logits of "this patch is target": (B, K, H, W) to (B, 1, H/32, W/32), sizes rounded down."""
        check_maps("probabilities", probabilities, channels=self.num_classes, channel_name="K")
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


def _halving(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel_size=4, stride=2, padding=1)


class OutputAdversarialLoss(nn.Module):
    """Both sides of output-space alignment (SIM, Eq. 2 and 3): BCE with logits, mean over patches and images.

    .. math:: \\mathcal{L}_{adv} = \\mathrm{BCE}(D(S(C(f^t))), 0), \\qquad
              \\mathcal{L}_D = \\tfrac12 \\mathrm{BCE}(D(S(C(f^s))), 0) + \\tfrac12 \\mathrm{BCE}(D(S(C(f^t))), 1)

    The discriminator belongs to the caller, who optimises it: this module has no parameters of its own.

    Args:
        discriminator: Class probabilities (B, K, H, W) to logits of "target", any shape.

    Example:
        >>> loss = OutputAdversarialLoss(OutputDiscriminator(num_classes=3, width=2))
        >>> source, target = torch.randn(1, 3, 32, 64), torch.randn(1, 3, 32, 32, requires_grad=True)
        >>> loss.generator(target).requires_grad, loss.discriminator(source, target).shape
        (True, torch.Size([]))
    """

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self._discriminator = [discriminator]  # in a list: not a submodule, its state is saved where it lives

    def generator(self, target_logits: Tensor) -> Tensor:
        """The segmentation network's side: make the target look like the source.

        Only ``target_logits`` should learn from it: the caller freezes the discriminator for this pass, or drops the
        gradients that it collects.

        Args:
            target_logits: (B, K, H, W), upsampled to the image; softmax is taken here.
        """
        return self._bce(target_logits, SOURCE)

    def discriminator(self, source_logits: Tensor, target_logits: Tensor) -> Tensor:
        """The discriminator's side: half of each domain's error; the logits are detached here.

        Args:
            source_logits: (B, K, H, W).
            target_logits: (B', K, H', W'), any batch and size.
        """
        source = self._bce(source_logits.detach(), SOURCE)
        return 0.5 * source + 0.5 * self._bce(target_logits.detach(), TARGET)

    def _bce(self, logits: Tensor, domain: float) -> Tensor:
        check_maps("logits", logits, channel_name="K")
        judged = self._discriminator[0](torch.softmax(logits, 1))
        with torch.autocast(logits.device.type, enabled=False):
            judged = judged if judged.dtype == torch.float64 else judged.float()
            return F.binary_cross_entropy_with_logits(judged, torch.full_like(judged, domain))
