"""Memories of source features: per class a ring of the last rows written, or one running mean."""

from stuffinstance.banks.anchors import CategoryAnchors
from stuffinstance.banks.classifier import Classifier
from stuffinstance.banks.instance import InstanceBank
from stuffinstance.banks.memory import Candidates, MemoryBank
from stuffinstance.banks.stuff import StuffBank

__all__ = ["Candidates", "CategoryAnchors", "Classifier", "InstanceBank", "MemoryBank", "StuffBank"]
