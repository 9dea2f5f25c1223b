"""The losses: matching of stuff and instances, distance to anchors, adversaries of output and features, certainty."""

from stuffinstance.losses.adversarial import OutputAdversarialLoss, OutputDiscriminator
from stuffinstance.losses.anchor_distance import AnchorDistanceLoss, anchor_distance_loss, pixel_anchor_distance_loss
from stuffinstance.losses.entropy import EntropyLoss, entropy_map
from stuffinstance.losses.fine_grained import FineGrainedAdversarialLoss, FineGrainedDiscriminator
from stuffinstance.losses.instance_matching import InstanceMatchingLoss, instance_matching_loss
from stuffinstance.losses.matching_loss import MatchingLoss
from stuffinstance.losses.max_square import MaxSquareLoss
from stuffinstance.losses.stuff_matching import StuffMatchingLoss, stuff_matching_loss

__all__ = [
    "AnchorDistanceLoss",
    "EntropyLoss",
    "FineGrainedAdversarialLoss",
    "FineGrainedDiscriminator",
    "InstanceMatchingLoss",
    "MatchingLoss",
    "MaxSquareLoss",
    "OutputAdversarialLoss",
    "OutputDiscriminator",
    "StuffMatchingLoss",
    "anchor_distance_loss",
    "entropy_map",
    "instance_matching_loss",
    "pixel_anchor_distance_loss",
    "stuff_matching_loss",
]
