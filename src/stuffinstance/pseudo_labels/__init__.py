"""Target confidences to pseudo-labels."""

from stuffinstance.pseudo_labels.class_balanced import ClassBalancedThreshold

__all__ = ["ClassBalancedThreshold"]
