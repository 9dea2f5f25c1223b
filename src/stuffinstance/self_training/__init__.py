"""Parts of self-training with a teacher, which stuff and instance matching can join: DACS, DAFormer and MIC share them.

One step on target images: the teacher labels them, source classes are pasted onto them, the network learns the mixture;
beside it the network learns the teacher's labels from images with blocks missing.

Example:
    >>> network = torch.nn.Conv2d(3, 4, 1)
    >>> teacher = MeanTeacher(network)
    >>> source, target, labels = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), torch.randint(0, 4, (2, 8, 8))
    >>> probabilities = teacher(target).softmax(1)
    >>> pseudo, share = probabilities.argmax(1), confident_fraction(probabilities, 0.3)
    >>> mixed = class_mix(source, labels, target, pseudo)
    >>> weights = torch.where(mixed.mask, 1.0, share[:, None, None])     # what was pasted is known for sure
    >>> loss = weighted_cross_entropy(network(mixed.images), mixed.labels, weights)
    >>> loss = loss + weighted_cross_entropy(network(random_block_mask(target, block=4)), pseudo, share)
    >>> loss.backward()
    >>> teacher.update(network)                                          # after the optimizer's step
"""

from stuffinstance.losses.cross_entropy import weighted_cross_entropy
from stuffinstance.self_training.frozen_network import FrozenNetwork
from stuffinstance.self_training.mean_teacher import MeanTeacher
from stuffinstance.self_training.mixing import (
    ClassMixOutput,
    class_mix,
    confident_fraction,
    random_block_mask,
    random_token_mask,
)
from stuffinstance.self_training.resolution_fusion import fuse_resolutions

__all__ = [
    "ClassMixOutput",
    "FrozenNetwork",
    "MeanTeacher",
    "class_mix",
    "confident_fraction",
    "fuse_resolutions",
    "random_block_mask",
    "random_token_mask",
    "weighted_cross_entropy",
]
