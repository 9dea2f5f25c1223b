"""The losses: matching of stuff and of instances, and adversarial alignment of the output."""

from stuffinstance.losses.adversarial import OutputAdversarialLoss, OutputDiscriminator
from stuffinstance.losses.instance_matching import InstanceMatchingLoss, instance_matching_loss
from stuffinstance.losses.matching_loss import MatchingLoss
from stuffinstance.losses.stuff_matching import StuffMatchingLoss, stuff_matching_loss

__all__ = [
    "InstanceMatchingLoss",
    "MatchingLoss",
    "OutputAdversarialLoss",
    "OutputDiscriminator",
    "StuffMatchingLoss",
    "instance_matching_loss",
    "stuff_matching_loss",
]
