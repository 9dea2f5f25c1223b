"""Readers for GTA5, SYNTHIA and Cityscapes in the folder layouts they are published in."""

from .errors import DatasetError
from .inspection import DatasetSummary, describe, mismatched_pairs
from .opening import LAYOUTS, Layout, open_dataset
from .samples import Sample, SegmentationDataset

__all__ = [
    "LAYOUTS",
    "DatasetError",
    "DatasetSummary",
    "Layout",
    "Sample",
    "SegmentationDataset",
    "describe",
    "mismatched_pairs",
    "open_dataset",
]
