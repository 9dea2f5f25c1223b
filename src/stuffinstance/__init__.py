"""Stuff and instance matching for domain-adaptive semantic segmentation.

Modules in the order in which data flow through them::

    labels, logits -- label_space, label_maps -+
                                               +-> regions -> pooling -> banks -> losses -> sim
    features ----------------------------------+                                    ^
    target confidences -- pseudo_labels --------------------------------------------+

and beside them ``class_balance``, ``self_training``, ``style_transfer``, ``metrics`` and ``plotting``.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from torch.serialization import add_safe_globals

from stuffinstance._backends import BackendUnavailableError
from stuffinstance.banks import CategoryAnchors, ClassDistributions, InstanceBank, StuffBank, head_classifier
from stuffinstance.class_balance import RareClassSampler, class_weights, count_class_pixels
from stuffinstance.label_maps import correct_labels, majority_labels, merge_pseudo_labels, resize_labels
from stuffinstance.label_space import CITYSCAPES, SYNTHIA_13, SYNTHIA_16, LabelSpace
from stuffinstance.losses import (
    AnchorDistanceLoss,
    BankContrastLoss,
    DistributionContrastLoss,
    EntropyLoss,
    FeatureDistanceLoss,
    FineGrainedAdversarialLoss,
    FineGrainedDiscriminator,
    FoundationFeatureLoss,
    InstanceMatchingLoss,
    Matches,
    MaxSquareLoss,
    OutputAdversarialLoss,
    OutputDiscriminator,
    PrototypeContrastLoss,
    RegionContrastLoss,
    StuffMatchingLoss,
    anchor_distance_loss,
    entropy_map,
    instance_matching_loss,
    mrkld_regularizer,
    soft_cross_entropy,
    stuff_matching_loss,
    symmetric_cross_entropy,
    weighted_cross_entropy,
)
from stuffinstance.metrics.class_center_distance import ClassCenterDistance, class_center_distance
from stuffinstance.metrics.mean_iou import IoU, MeanIoU
from stuffinstance.metrics.unsupervised import PredictionEntropy, SoftNeighborhoodDensity
from stuffinstance.pooling import region_mean
from stuffinstance.pseudo_labels import (
    CBSTThreshold,
    ClassBalancedThreshold,
    FusedPrediction,
    IASTThreshold,
    PseudoLabelThreshold,
    SinkhornLabels,
    SymmetricConsistency,
    soft_labels,
)
from stuffinstance.regions import Regions, connected_components, instance_regions, stuff_regions
from stuffinstance.self_training import (
    ClassMixOutput,
    FrozenNetwork,
    MeanTeacher,
    class_mix,
    confident_fraction,
    fuse_resolutions,
    random_block_mask,
    random_token_mask,
)
from stuffinstance.sim import MatchingLosses, StuffInstanceMatching
from stuffinstance.style_transfer import fourier_amplitude_transfer, lab_color_transfer

if TYPE_CHECKING:
    from stuffinstance import plotting as plotting
else:  # hidden from type checkers: to them a __getattr__ would make every misspelt name a module

    def __getattr__(name: str) -> ModuleType:
        """``stuffinstance.plotting``, imported when it is first asked for."""
        if name == "plotting":
            return importlib.import_module(f"{__name__}.plotting")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "plotting"})


# torch.load(weights_only=True) reads these from checkpoints: results and settings, which hold data and run none of it.
add_safe_globals([IoU, LabelSpace, MatchingLosses, Matches, ClassMixOutput, Regions, FusedPrediction])

__version__ = "0.1.0.dev0"

__all__ = [
    "CITYSCAPES",
    "SYNTHIA_13",
    "SYNTHIA_16",
    "AnchorDistanceLoss",
    "BackendUnavailableError",
    "BankContrastLoss",
    "CBSTThreshold",
    "CategoryAnchors",
    "ClassBalancedThreshold",
    "ClassCenterDistance",
    "ClassDistributions",
    "ClassMixOutput",
    "DistributionContrastLoss",
    "EntropyLoss",
    "FeatureDistanceLoss",
    "FineGrainedAdversarialLoss",
    "FineGrainedDiscriminator",
    "FoundationFeatureLoss",
    "FrozenNetwork",
    "FusedPrediction",
    "IASTThreshold",
    "InstanceBank",
    "InstanceMatchingLoss",
    "IoU",
    "LabelSpace",
    "Matches",
    "MatchingLosses",
    "MaxSquareLoss",
    "MeanIoU",
    "MeanTeacher",
    "OutputAdversarialLoss",
    "OutputDiscriminator",
    "PredictionEntropy",
    "PrototypeContrastLoss",
    "PseudoLabelThreshold",
    "RareClassSampler",
    "RegionContrastLoss",
    "Regions",
    "SinkhornLabels",
    "SoftNeighborhoodDensity",
    "StuffBank",
    "StuffInstanceMatching",
    "StuffMatchingLoss",
    "SymmetricConsistency",
    "anchor_distance_loss",
    "class_center_distance",
    "class_mix",
    "class_weights",
    "confident_fraction",
    "connected_components",
    "correct_labels",
    "count_class_pixels",
    "entropy_map",
    "fourier_amplitude_transfer",
    "fuse_resolutions",
    "head_classifier",
    "instance_matching_loss",
    "instance_regions",
    "lab_color_transfer",
    "majority_labels",
    "merge_pseudo_labels",
    "mrkld_regularizer",
    "random_block_mask",
    "random_token_mask",
    "region_mean",
    "resize_labels",
    "soft_cross_entropy",
    "soft_labels",
    "stuff_matching_loss",
    "stuff_regions",
    "symmetric_cross_entropy",
    "weighted_cross_entropy",
]
