"""Readers for GTA5, SYNTHIA and Cityscapes in the folder layouts they are published in."""

from .errors import DatasetError
from .inspection import (
    PUBLISHED_PICTURES,
    DatasetSummary,
    UnreadableFile,
    describe,
    mismatched_pairs,
    require_labels,
    unreadable_files,
)
from .opening import Layout, open_dataset
from .pictures import read_id_map, read_image
from .samples import Sample, SegmentationDataset, picture_tensor

__all__ = [
    "PUBLISHED_PICTURES",
    "DatasetError",
    "DatasetSummary",
    "Layout",
    "Sample",
    "SegmentationDataset",
    "UnreadableFile",
    "describe",
    "mismatched_pairs",
    "open_dataset",
    "picture_tensor",
    "read_id_map",
    "read_image",
    "require_labels",
    "unreadable_files",
]
