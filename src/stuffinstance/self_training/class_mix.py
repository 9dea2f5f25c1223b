"""Source classes pasted onto target images: pictures of both domains whose labels are half known (ClassMix, DACS)."""

from typing import NamedTuple

import torch
from torch import Tensor

from stuffinstance.arguments import (
    check_class_ids,
    check_generator,
    check_label_map,
    check_maps,
    check_same_batch,
    checked_num_classes,
    optional_ignore_index,
)
from stuffinstance.self_training.random_draws import uniform


class MixedDomains(NamedTuple):
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
) -> MixedDomains:
    """Paste half of the classes in each source image onto the target image of the same place in the batch.

    .. math:: x^m = M \\odot x^s + (1 - M) \\odot x^t, \\qquad y^m = M \\odot y^s + (1 - M) \\odot \\hat y^t, \\qquad
              M(x) = [y^s(x) \\in \\mathcal{C}]

    with :math:`\\mathcal{C}` half of the classes in :math:`y^s`, drawn without replacement: ClassMix (Olsson et al.,
    WACV 2021) across domains as in DACS (Tranheden et al., WACV 2021). An odd number of classes
    is halved rounding up, so that one class is pasted whole; ignored pixels are never pasted (both this library's
    choice).

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
        :class:`MixedDomains`, new tensors without gradient. As weights of the pixels DACS takes 1 where ``mask`` and
        the teacher's :func:`confident_share` elsewhere.

    Raises:
        TypeError: If an argument is not a tensor, ``num_classes`` or ``ignore_index`` not a whole number, or
            ``generator`` not a ``torch.Generator``.
        ValueError: If shapes, dtypes or devices do not fit, or an id is no class (looked at on a CPU only).

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
    labelled = (ids >= 0) & (ids < num_classes)
    if ignore_index is not None:
        labelled &= ids != ignore_index
    slots = torch.where(labelled, ids, num_classes)  # one more slot for what has no label
    chosen = _half_of(_present(slots, num_classes), generator)
    mask = chosen.gather(1, slots.flatten(1)).view_as(slots)
    return MixedDomains(
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
