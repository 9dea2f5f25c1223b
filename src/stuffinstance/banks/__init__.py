"""Memories of source features: per class a ring of the last rows written, or one running mean."""

from stuffinstance.banks.class_anchors import CategoryAnchors
from stuffinstance.banks.feature_banks import Candidates, Classifier, InstanceBank, MemoryBank, StuffBank

__all__ = ["Candidates", "CategoryAnchors", "Classifier", "InstanceBank", "MemoryBank", "StuffBank"]
