"""Class imbalance: pixels per class of a data set, loss weights from them, rare-class sampling."""

from stuffinstance.class_balance.class_pixels import class_weights, count_class_pixels
from stuffinstance.class_balance.rare_class_sampler import RareClassSampler

__all__ = ["RareClassSampler", "class_weights", "count_class_pixels"]
