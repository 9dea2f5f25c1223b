"""Features and regions to descriptors: the mean feature of every region, in one pass over the feature map."""

from stuffinstance.pooling.region_mean import region_mean

__all__ = ["region_mean"]
