"""Stuff and instance matching for domain-adaptive semantic segmentation."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from torch.serialization import add_safe_globals

from stuffinstance.adaptation import MatchingLosses, StuffInstanceMatching
from stuffinstance.banks import CategoryAnchors, InstanceBank, StuffBank
from stuffinstance.class_centers import ClassCenterDistance, class_center_distance
from stuffinstance.errors import BackendUnavailableError
from stuffinstance.label_free import PredictionEntropy, SoftNeighbourhoodDensity
from stuffinstance.label_maps import correct_labels, merge_pseudo_labels, resize_labels
from stuffinstance.labelspace import CITYSCAPES, SYNTHIA_13, SYNTHIA_16, LabelSpace
from stuffinstance.losses import (
    AnchorDistanceLoss,
    EntropyLoss,
    FineGrainedAdversarialLoss,
    FineGrainedDiscriminator,
    InstanceMatchingLoss,
    MaxSquareLoss,
    OutputAdversarialLoss,
    OutputDiscriminator,
    StuffMatchingLoss,
    entropy_map,
)
from stuffinstance.losses.matching_loss import Matches
from stuffinstance.mean_iou import IoU, MeanIoU
from stuffinstance.pooling import region_mean
from stuffinstance.pseudo_labels import (
    AdaptiveThreshold,
    ClassBalancedThreshold,
    PortionThreshold,
    SymmetricConsistency,
    SymmetricPrediction,
    ThresholdRule,
    mrkld_regulariser,
    soft_cross_entropy,
    soft_labels,
)
from stuffinstance.regions import Regions, connected_components, instance_regions, stuff_regions
from stuffinstance.restyling import restyle_fourier, restyle_lab
from stuffinstance.self_training import (
    MeanTeacher,
    MixedDomains,
    class_mix,
    confident_share,
    mask_blocks,
    weighted_cross_entropy,
)

if TYPE_CHECKING:
    from stuffinstance import drawing as drawing
else:  # hidden from type checkers: to them a __getattr__ would make every misspelt name a module

    def __getattr__(name: str) -> ModuleType:
        """``stuffinstance.drawing``, imported when it is first asked for."""
        if name == "drawing":
            return importlib.import_module(f"{__name__}.drawing")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "drawing"})


# torch.load(weights_only=True) reads these from checkpoints: results and settings, which hold data and run none of it.
add_safe_globals([IoU, LabelSpace, MatchingLosses, Matches, MixedDomains, Regions, SymmetricPrediction])

__version__ = "0.1.0.dev0"

__all__ = [
    "CITYSCAPES",
    "SYNTHIA_13",
    "SYNTHIA_16",
    "AdaptiveThreshold",
    "AnchorDistanceLoss",
    "BackendUnavailableError",
    "CategoryAnchors",
    "ClassBalancedThreshold",
    "ClassCenterDistance",
    "EntropyLoss",
    "FineGrainedAdversarialLoss",
    "FineGrainedDiscriminator",
    "InstanceBank",
    "InstanceMatchingLoss",
    "IoU",
    "LabelSpace",
    "MatchingLosses",
    "MaxSquareLoss",
    "MeanIoU",
    "MeanTeacher",
    "MixedDomains",
    "OutputAdversarialLoss",
    "OutputDiscriminator",
    "PortionThreshold",
    "PredictionEntropy",
    "Regions",
    "SoftNeighbourhoodDensity",
    "StuffBank",
    "StuffInstanceMatching",
    "StuffMatchingLoss",
    "SymmetricConsistency",
    "SymmetricPrediction",
    "ThresholdRule",
    "class_center_distance",
    "class_mix",
    "confident_share",
    "connected_components",
    "correct_labels",
    "entropy_map",
    "instance_regions",
    "mask_blocks",
    "merge_pseudo_labels",
    "mrkld_regulariser",
    "region_mean",
    "resize_labels",
    "restyle_fourier",
    "restyle_lab",
    "soft_cross_entropy",
    "soft_labels",
    "stuff_regions",
    "weighted_cross_entropy",
]
