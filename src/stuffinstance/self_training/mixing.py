"""Mixed and masked images, and masked tokens, for self-training (ClassMix, DACS, MIC, VFM-UDA)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stuffinstance._checks import (
    FLOATING_DTYPES,
    check_class_ids,
    check_generator,
    check_label_map,
    check_maps,
    check_same_batch,
    check_tensor,
    checked_fraction,
    checked_num_classes,
    checked_number,
    checked_positive,
    checked_whole,
    describe,
    may_read,
    optional_ignore_index,
)
from stuffinstance._numerics import as_float, uniform


class ClassMixOutput(NamedTuple):
    """What :func:`class_mix` returns.

    Attributes:
        images: ``(B, C, H, W)``, source pixels on target images.
        labels: ``(B, H, W)`` int64, the source's labels there and the target's elsewhere.
        mask: ``(B, H, W)`` bool, True where a pixel is the source's.
    """

    images: Tensor
    labels: Tensor
    mask: Tensor


@torch.no_grad()
def class_mix(
    source_images: Tensor,
    source_labels: Tensor,
    target_images: Tensor,
    target_labels: Tensor,
    *,
    num_classes: int = 256,
    ignore_index: int | None = 255,
    generator: torch.Generator | None = None,
) -> ClassMixOutput:
    """Cross-domain ClassMix (DACS): paste half of the classes of each source image onto a target image.

    .. math:: x^m = M \\odot x^s + (1 - M) \\odot x^t, \\qquad y^m = M \\odot y^s + (1 - M) \\odot \\hat y^t, \\qquad
              M(x) = [y^s(x) \\in \\mathcal{C}]

    with :math:`\\mathcal{C}` half of the classes in :math:`y^s`, drawn without replacement: ClassMix
    (https://arxiv.org/abs/2007.07936) across domains as in DACS (https://arxiv.org/abs/2007.08702). An odd number of
    classes is halved rounding up, so that one class is pasted whole; ignored pixels are never pasted (both this
    library's choice).

    Args:
        source_images: (B, C, H, W), floating point.
        source_labels: Class ids, (B, H, W), any integer dtype.
        target_images: (B, C, H, W), same dtype, device and size.
        target_labels: Pseudo-labels, (B, H, W), any integer dtype.
        num_classes: More than the largest class id. The default has room for every id of an 8-bit label map.
        ignore_index: The id of pixels without a label; None where all have one.
        generator: Source of the B x ``num_classes`` numbers, drawn on its own device: the same seed of a CPU generator
            chooses the same classes on any device. Default: the default generator of the images' device.

    Returns:
        :class:`ClassMixOutput`, new tensors without gradient. As weights of the pixels DACS takes 1 where ``mask`` and
        the teacher's :func:`confident_fraction` elsewhere.

    Raises:
        TypeError: If an argument is not a tensor, ``num_classes`` or ``ignore_index`` not a whole number, or
            ``generator`` not a ``torch.Generator``.
        ValueError: If shapes, dtypes or devices do not fit, or an id is not a class (checked on a CPU only).

    Example:
        >>> source, target = torch.ones(1, 3, 1, 4), torch.zeros(1, 3, 1, 4)
        >>> mixed = class_mix(source, torch.tensor([[[5, 5, 5, 255]]]), target, torch.tensor([[[1, 1, 2, 2]]]))
        >>> mixed.labels, mixed.images[0, 0]
        (tensor([[[5, 5, 5, 2]]]), tensor([[1., 1., 1., 0.]]))
    """
    check_maps("source_images", source_images, channel_name="C")
    check_maps("target_images", target_images, channel_name="C")
    num_classes = checked_num_classes(num_classes)
    ignore_index = optional_ignore_index(ignore_index)  # may be below num_classes, which is room and no count
    check_generator(generator)
    if source_images.shape != target_images.shape or source_images.dtype != target_images.dtype:
        raise ValueError(
            f"source_images and target_images must share (B, C, H, W) and dtype, got {source_images.dtype} "
            f"{tuple(source_images.shape)} and {target_images.dtype} {tuple(target_images.shape)}. "
            "Crop both to one size."
        )
    check_same_batch("target_images", target_images, "source_images", source_images)
    for name, labels in (("source_labels", source_labels), ("target_labels", target_labels)):
        _check_labels(name, labels, source_images, num_classes, ignore_index)
    ids = source_labels.to(torch.int64)
    labeled = (ids >= 0) & (ids < num_classes)
    if ignore_index is not None:
        labeled &= ids != ignore_index
    slots = torch.where(labeled, ids, num_classes)  # one more slot for what has no label
    chosen = _half_of(_present(slots, num_classes), generator)
    mask = chosen.gather(1, slots.flatten(1)).view_as(slots)
    return ClassMixOutput(
        torch.where(mask[:, None], source_images, target_images),
        torch.where(mask, ids, target_labels.to(torch.int64)),
        mask,
    )


def _present(slots: Tensor, num_classes: int) -> Tensor:
    """Which slots occur in each image, (B, num_classes + 1); the last one, without a label, never does."""
    occurs = torch.zeros(slots.shape[0], num_classes + 1, dtype=torch.bool, device=slots.device)
    occurs.scatter_(1, slots.flatten(1), True)
    occurs[:, num_classes] = False
    return occurs


def _half_of(present: Tensor, generator: torch.Generator | None) -> Tensor:
    """Half of each row's True entries, rounded up: those with the smallest random numbers."""
    draws = uniform(tuple(present.shape), present.device, generator)
    order = torch.where(present, draws, 2.0).argsort(1)  # what is absent comes last
    count = (present.sum(1, keepdim=True) + 1) // 2
    first = torch.arange(present.shape[1], device=present.device) < count
    return torch.zeros_like(present).scatter(1, order, first)


def _check_labels(name: str, labels: Tensor, images: Tensor, num_classes: int, ignore_index: int | None) -> None:
    check_label_map(name, labels)
    check_same_batch(name, labels, "source_images", images)
    if labels.shape[1:] != images.shape[2:]:
        raise ValueError(
            f"{name} must have the images' size (H, W) = {tuple(images.shape[2:])}, got {tuple(labels.shape)}. "
            "Resize them with resize_labels, or upsample the teacher's logits first."
        )
    check_class_ids(name, labels, num_classes, ignore_index)


def random_block_mask(
    images: Tensor,
    block: int = 64,
    ratio: float = 0.7,
    *,
    fill: float | Sequence[float] = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random block mask of masked image consistency (MIC): hide random square blocks of each image.

    .. math:: M_{mb+1:(m+1)b,\\ nb+1:(n+1)b} = [v > r], \\quad v \\sim U(0, 1), \\qquad x^M = M \\odot x

    as in MIC (Hoyer et al., CVPR 2023, https://arxiv.org/abs/2212.01322). The loss on the masked images is
    :func:`weighted_cross_entropy` with the teacher's labels of the whole images and their :func:`confident_fraction` as
    weights. Blocks start at the upper left corner; where a side is not a multiple of ``block`` the last ones are cut
    off, so every size is allowed (this library's choice).

    Args:
        images: (B, C, H, W), floating point.
        block: b, side of a block in pixels; 64 in MIC.
        ratio: r, probability of a block to be hidden; 0.7 in MIC.
        fill: What hidden pixels become: one number, or one for each channel. MIC masks images normalized to mean 0, of
            which 0 is the mean color; for images in 0 .. 1 pass the mean color, for instance
            ``(0.485, 0.456, 0.406)``.
        generator: Source of the B x ceil(H/b) x ceil(W/b) numbers, drawn on its own device: the same seed of a CPU
            generator hides the same blocks on any device. Default: the default generator of the images' device.

    Returns:
        (B, C, H, W), dtype of ``images``; the gradient passes where nothing is hidden.

    Raises:
        TypeError: If ``images`` is not a tensor, ``block`` not a whole number, ``ratio`` or ``fill`` not a number, or
            ``generator`` not a ``torch.Generator``.
        ValueError: If ``images`` are not (B, C, H, W), ``block`` is below 1, ``ratio`` is outside 0 .. 1, or ``fill``
            has another number of channels.

    Example:
        >>> seeded = torch.Generator().manual_seed(1)
        >>> random_block_mask(torch.ones(1, 1, 4, 6), block=2, ratio=0.5, generator=seeded)[0, 0]
        tensor([[1., 1., 0., 0., 0., 0.],
                [1., 1., 0., 0., 0., 0.],
                [1., 1., 0., 0., 1., 1.],
                [1., 1., 0., 0., 1., 1.]])
    """
    check_maps("images", images, channel_name="C")
    block = checked_positive("block", block)
    ratio = checked_fraction("ratio", ratio)
    check_generator(generator)
    color = _channel_values(fill, images.shape[1])
    batch, _, height, width = images.shape
    rows = torch.arange(height, device=images.device) // block
    columns = torch.arange(width, device=images.device) // block
    grid = (batch, (height - 1) // block + 1, (width - 1) // block + 1)
    hidden = uniform(grid, images.device, generator) < ratio  # v < r, so that 0 hides nothing and 1 all
    covered = hidden[:, rows[:, None], columns][:, None]
    if len(color) == 1:
        return images.masked_fill(covered, color[0])
    return torch.cat([images[:, c : c + 1].masked_fill(covered, value) for c, value in enumerate(color)], 1)


def _channel_values(fill: float | Sequence[float], channels: int) -> tuple[float, ...]:
    wanted = f"one finite number or C = {channels} of them"
    several = fill if isinstance(fill, (tuple, list)) else (fill,)  # a tuple of types: torch 2.4 cannot compile unions
    values = tuple(checked_number("fill", value, wanted) for value in several)
    if len(values) != 1 and len(values) != channels:  # not "in", which looks for one object among sizes that vary
        raise ValueError(f"fill must be one number or C = {channels} of them, got {len(values)}: {fill!r}.")
    return values


def random_token_mask(
    tokens: Tensor,
    mask_token: Tensor,
    ratio: float = 0.7,
    *,
    num_prefix_tokens: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random token mask for transformers (VFM-UDA): put a mask token in the place of random patch tokens.

    .. math:: t^M_n = \\begin{cases} e & v_n < r \\\\ t_n & \\text{otherwise} \\end{cases}, \\quad v_n \\sim U(0, 1)

    masked image consistency (MIC) on tokens instead of pixels, as in VFM-UDA (Englert et al., CVPR Workshops 2024,
    https://arxiv.org/abs/2406.09896): the backbone has learned what its mask token :math:`e` means in masked image
    modeling (BEiT, DINOv2). Mask the embedded patches where the backbone was pretrained to find its mask token: BEiT
    and DINOv2 put it in before they add the position embedding.

    Args:
        tokens: (B, N, D), floating point.
        mask_token: e, (D,), floating point; cast to the dtype of ``tokens``.
        ratio: r, probability of a token to be masked; 0.7 as in MIC.
        num_prefix_tokens: How many tokens at the start of each image stay: class and register tokens.
        generator: Source of B x (N - ``num_prefix_tokens``) numbers, drawn on its own device: the same seed of a CPU
            generator masks the same tokens on any device. Default: the default generator of the tokens' device.

    Returns:
        (B, N, D), dtype of ``tokens``; the gradient of masked tokens passes to ``mask_token``.

    Raises:
        TypeError: If ``tokens`` or ``mask_token`` is not a tensor, ``ratio`` not a number, ``num_prefix_tokens`` not a
            whole number, or ``generator`` not a ``torch.Generator``.
        ValueError: If ``tokens`` are not (B, N, D), ``mask_token`` is not (D,) on their device, ``ratio`` is outside
            0 .. 1, or ``num_prefix_tokens`` outside 0 .. N.

    Example:
        >>> seeded = torch.Generator().manual_seed(1)
        >>> random_token_mask(torch.ones(1, 6, 1), torch.zeros(1), num_prefix_tokens=1, generator=seeded)[0, :, 0]
        tensor([1., 1., 0., 0., 1., 0.])
    """
    _check_floating("tokens", tokens, "(B, N, D)", 3, "Flatten a feature map with maps.flatten(2).mT.")
    width = f"(D,) = ({tokens.shape[2]},)"
    _check_floating(
        "mask_token", mask_token, width, 1, "A backbone's own may have more dimensions: pass its flatten()."
    )
    if mask_token.shape[0] != tokens.shape[2] or mask_token.device != tokens.device:
        raise ValueError(
            f"mask_token must be {width} on the device of tokens, {tokens.device}, got {describe(mask_token)}. "
            "Pass the mask token of the backbone that made the tokens."
        )
    ratio = checked_fraction("ratio", ratio)
    kept = checked_whole("num_prefix_tokens", num_prefix_tokens, 0, tokens.shape[1])
    check_generator(generator)
    patches = tokens[:, kept:]
    masked = uniform(tuple(patches.shape[:2]), tokens.device, generator) < ratio
    return torch.cat([tokens[:, :kept], torch.where(masked[..., None], mask_token.to(tokens.dtype), patches)], 1)


def _check_floating(name: str, tensor: Tensor, shape: str, dimensions: int, advice: str) -> None:
    wanted = f"a floating-point tensor {shape}"
    check_tensor(name, wanted, tensor)
    if tensor.dtype not in FLOATING_DTYPES or tensor.ndim != dimensions:
        raise ValueError(f"{name} must be {wanted}, got {describe(tensor)}. {advice}")


@torch.no_grad()
def confident_fraction(probabilities: Tensor, threshold: float = 0.968) -> Tensor:
    """Fraction of confident pixels of each image (DACS, DAFormer): the weight of its pseudo-labels.

    .. math:: q_b = \\frac{1}{HW} \\sum_x [\\max_k p_k(x) \\ge \\tau]

    the pixels whose largest probability reaches a threshold, as in DACS (https://arxiv.org/abs/2007.08702) and DAFormer
    (https://arxiv.org/abs/2111.14887). Their code takes one share over the whole batch: that is this one's ``.mean()``.
    By image is this library's choice, so that a batch is the mean of its images.

    Args:
        probabilities: Softmax outputs, (B, K, H, W).
        threshold: τ, 0.968 in both.

    Returns:
        (B,) float32 in 0 .. 1, without gradient. A pixel that is not finite is not confident.

    Raises:
        ValueError: If ``probabilities`` are not probabilities (checked on a CPU only), or ``threshold`` is outside
            0 .. 1.

    Example:
        >>> confident_fraction(torch.tensor([[[[0.98, 0.6, 0.01, 0.03]], [[0.02, 0.4, 0.99, 0.97]]]]))
        tensor([0.7500])
    """
    check_maps("probabilities", probabilities, channel_name="K")
    threshold = checked_fraction("threshold", threshold)
    best = probabilities.amax(1)
    if may_read(best) and best.numel() and not bool(((best <= 1.02) & (best > 0) | best.isnan()).all()):
        raise ValueError(
            f"probabilities must be within 0..1 and sum to 1 over dimension 1 (K), got a largest one per pixel from "
            f"{float(best.min()):.4g} to {float(best.max()):.4g}. For logits pass logits.softmax(1)."
        )
    confident = (as_float(best) >= threshold) & best.isfinite()  # a half-precision threshold would be another
    return confident.to(torch.float32).mean((1, 2))
