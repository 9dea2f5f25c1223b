"""Memories of source features: per class a ring of the last rows written, or one running mean or distribution."""

from stuffinstance.banks.class_anchors import CategoryAnchors
from stuffinstance.banks.class_distributions import ClassDistributions
from stuffinstance.banks.classifier import Classifier, head_classifier
from stuffinstance.banks.feature_banks import InstanceBank, MemoryBank, StuffBank

__all__ = [
    "CategoryAnchors",
    "ClassDistributions",
    "Classifier",
    "InstanceBank",
    "MemoryBank",
    "StuffBank",
    "head_classifier",
]
