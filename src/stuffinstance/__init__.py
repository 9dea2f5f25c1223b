"""Stuff and instance matching for domain-adaptive semantic segmentation."""

from stuffinstance.adaptation import MatchingLosses, StuffInstanceMatching
from stuffinstance.banks import InstanceBank, StuffBank
from stuffinstance.errors import BackendUnavailableError
from stuffinstance.label_maps import correct_labels, merge_pseudo_labels, resize_labels
from stuffinstance.labelspace import CITYSCAPES, SYNTHIA_13, SYNTHIA_16, LabelSpace
from stuffinstance.losses import (
    InstanceMatchingLoss,
    OutputAdversarialLoss,
    OutputDiscriminator,
    StuffMatchingLoss,
)
from stuffinstance.mean_iou import IoU, MeanIoU
from stuffinstance.pooling import region_mean
from stuffinstance.pseudo_labels import ClassBalancedThreshold
from stuffinstance.regions import Regions, connected_components, instance_regions, stuff_regions
from stuffinstance.restyling import restyle_fourier, restyle_lab

__version__ = "0.1.0.dev0"

__all__ = [
    "CITYSCAPES",
    "SYNTHIA_13",
    "SYNTHIA_16",
    "BackendUnavailableError",
    "ClassBalancedThreshold",
    "InstanceBank",
    "InstanceMatchingLoss",
    "IoU",
    "LabelSpace",
    "MatchingLosses",
    "MeanIoU",
    "OutputAdversarialLoss",
    "OutputDiscriminator",
    "Regions",
    "StuffBank",
    "StuffInstanceMatching",
    "StuffMatchingLoss",
    "connected_components",
    "correct_labels",
    "instance_regions",
    "merge_pseudo_labels",
    "region_mean",
    "resize_labels",
    "restyle_fourier",
    "restyle_lab",
    "stuff_regions",
]
