"""Target confidences to pseudo-labels."""

from stuffinstance.pseudo_labels.adaptive import AdaptiveThreshold
from stuffinstance.pseudo_labels.class_balanced import ClassBalancedThreshold
from stuffinstance.pseudo_labels.confidence_regularisation import mrkld_regulariser, soft_cross_entropy, soft_labels
from stuffinstance.pseudo_labels.portion import PortionThreshold
from stuffinstance.pseudo_labels.symmetric import SymmetricConsistency, SymmetricPrediction
from stuffinstance.pseudo_labels.threshold_rule import ThresholdRule

__all__ = [
    "AdaptiveThreshold",
    "ClassBalancedThreshold",
    "PortionThreshold",
    "SymmetricConsistency",
    "SymmetricPrediction",
    "ThresholdRule",
    "mrkld_regulariser",
    "soft_cross_entropy",
    "soft_labels",
]
