"""The losses: matching, contrast, distances to anchors and frozen features, adversarial, entropy, cross-entropy."""

from stuffinstance.losses.adversarial import OutputAdversarialLoss, OutputDiscriminator
from stuffinstance.losses.anchors import AnchorDistanceLoss, anchor_distance_loss
from stuffinstance.losses.bank_contrast import BankContrastLoss
from stuffinstance.losses.class_contrast import DistributionContrastLoss, PrototypeContrastLoss
from stuffinstance.losses.cross_entropy import (
    mrkld_regularizer,
    soft_cross_entropy,
    symmetric_cross_entropy,
    weighted_cross_entropy,
)
from stuffinstance.losses.entropy_minimization import EntropyLoss, MaxSquareLoss, entropy_map
from stuffinstance.losses.feature_distance import FeatureDistanceLoss, FoundationFeatureLoss
from stuffinstance.losses.fine_grained import FineGrainedAdversarialLoss, FineGrainedDiscriminator
from stuffinstance.losses.matching import (
    InstanceMatchingLoss,
    Matches,
    MatchingLoss,
    StuffMatchingLoss,
    instance_matching_loss,
    stuff_matching_loss,
)
from stuffinstance.losses.region_contrast import RegionContrastLoss

__all__ = [
    "AnchorDistanceLoss",
    "BankContrastLoss",
    "DistributionContrastLoss",
    "EntropyLoss",
    "FeatureDistanceLoss",
    "FineGrainedAdversarialLoss",
    "FineGrainedDiscriminator",
    "FoundationFeatureLoss",
    "InstanceMatchingLoss",
    "Matches",
    "MatchingLoss",
    "MaxSquareLoss",
    "OutputAdversarialLoss",
    "OutputDiscriminator",
    "PrototypeContrastLoss",
    "RegionContrastLoss",
    "StuffMatchingLoss",
    "anchor_distance_loss",
    "entropy_map",
    "instance_matching_loss",
    "mrkld_regularizer",
    "soft_cross_entropy",
    "stuff_matching_loss",
    "symmetric_cross_entropy",
    "weighted_cross_entropy",
]
