"""Target confidences to pseudo-labels."""

from stuffinstance.pseudo_labels.cbst import CBSTThreshold, soft_labels
from stuffinstance.pseudo_labels.class_balanced import ClassBalancedThreshold
from stuffinstance.pseudo_labels.iast import IASTThreshold
from stuffinstance.pseudo_labels.sinkhorn import SinkhornLabels
from stuffinstance.pseudo_labels.symmetric import FusedPrediction, SymmetricConsistency
from stuffinstance.pseudo_labels.threshold import PseudoLabelThreshold

__all__ = [
    "CBSTThreshold",
    "ClassBalancedThreshold",
    "FusedPrediction",
    "IASTThreshold",
    "PseudoLabelThreshold",
    "SinkhornLabels",
    "SymmetricConsistency",
    "soft_labels",
]
