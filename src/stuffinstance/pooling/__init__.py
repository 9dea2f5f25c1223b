"""Region pooling: the mean feature of every region."""

from stuffinstance.pooling.region_mean import region_mean

__all__ = ["region_mean"]
