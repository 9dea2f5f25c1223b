"""Parts of self-training with a teacher, which stuff and instance matching can join: DACS, DAFormer and MIC share them.

One step on target images: the teacher labels them, source classes are pasted onto them, the network learns the mixture;
beside it the network learns the teacher's labels from images with blocks missing.

Example:
    >>> network = torch.nn.Conv2d(3, 4, 1)
    >>> teacher = MeanTeacher(network)
    >>> source, target, labels = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), torch.randint(0, 4, (2, 8, 8))
    >>> probabilities = teacher(target).softmax(1)
    >>> pseudo, share = probabilities.argmax(1), confident_share(probabilities, 0.3)
    >>> mixed = class_mix(source, labels, target, pseudo)
    >>> weights = torch.where(mixed.mask, 1.0, share[:, None, None])     # what was pasted is known for sure
    >>> loss = weighted_cross_entropy(network(mixed.images), mixed.labels, weights)
    >>> loss = loss + weighted_cross_entropy(network(mask_blocks(target, block=4)), pseudo, share)
    >>> loss.backward()
    >>> teacher.update(network)                                          # after the optimiser's step
"""

from stuffinstance.self_training.block_masks import mask_blocks
from stuffinstance.self_training.class_mix import MixedDomains, class_mix
from stuffinstance.self_training.confidence import confident_share
from stuffinstance.self_training.mean_teacher import MeanTeacher
from stuffinstance.self_training.weighted_cross_entropy import weighted_cross_entropy

__all__ = [
    "MeanTeacher",
    "MixedDomains",
    "class_mix",
    "confident_share",
    "mask_blocks",
    "weighted_cross_entropy",
]
