"""Segmentation networks with one interface: features for matching, logits for everything else."""

from .building import NetworkName, build_network, network_options
from .network import NetworkOutput, SegmentationNetwork
from .segformer import weights_file
from .weights import WeightsError, WeightsReport

__all__ = [
    "NetworkName",
    "NetworkOutput",
    "SegmentationNetwork",
    "WeightsError",
    "WeightsReport",
    "build_network",
    "network_options",
    "weights_file",
]
