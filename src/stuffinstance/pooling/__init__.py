"""Features and regions to descriptors: the mean feature of every region, in one pass over the feature map."""

from stuffinstance.pooling.means import region_mean

__all__ = ["region_mean"]
