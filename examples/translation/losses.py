"""The losses of StarGAN (Choi et al., CVPR 2018), its real/fake one as least squares, and BDL's consistency."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .networks import Judgement


def real_fake_loss(judged: Judgement, domain: Tensor, *, real: bool) -> Tensor:
    """Mean over patches of (D_d - label)² with label 1 for real and 0 for made images (LSGAN, Mao et al., ICCV 2017).

    StarGAN (Eq. 1, 8) uses a Wasserstein loss with a penalty on gradients; least squares need no second derivative,
    which matters on a CPU.

    Args:
        judged: Of B images.
        domain: ``(B,)`` int64, the domain d that each image has or pretends to have.
        real: What the images shall be taken for.
    """
    channel = judged.real.gather(1, domain.view(-1, 1, 1, 1).expand(-1, 1, *judged.real.shape[2:]))
    return (channel - float(real)).square().mean()


def domain_loss(judged: Judgement, domain: Tensor) -> Tensor:
    """Mean over patches of -log D(domain | image) (StarGAN, Eq. 2 and 3), for two domains a binary cross-entropy."""
    wanted = domain.to(judged.domain.dtype).view(-1, 1, 1, 1).expand_as(judged.domain)
    return F.binary_cross_entropy_with_logits(judged.domain, wanted)


def reconstruction_loss(images: Tensor, returned: Tensor) -> Tensor:
    """Mean absolute difference between images and what came back from the other domain (StarGAN, Eq. 4)."""
    return F.l1_loss(returned, images)


def segmentation_consistency(before: Tensor, after: Tensor) -> Tensor:
    """Mean over pixels of KL(p_before || p_after), in nats: a translation shall leave the classes where they are.

    BDL (Li et al., CVPR 2019) compares the segmentation of an image, its translation and its reconstruction by L1 on
    features (Eq. 3); here the predictions of image and translation are compared.

    Args:
        before: Logits of the image, ``(B, K, h, w)``; no gradient goes here.
        after: Logits of its translation, of the same shape.
    """
    wanted = before.detach().log_softmax(1)
    return F.kl_div(after.log_softmax(1), wanted, reduction="none", log_target=True).sum(1).mean()
