"""What a step sees: the data sets of a run, endless batches of them, style transfer and augmentation."""

from .image_files import DatasetError, read_id_map, read_image
from .inspection import (
    PUBLISHED_PICTURES,
    DatasetSummary,
    UnreadableFile,
    describe,
    mismatched_pairs,
    require_labels,
    unreadable_files,
)
from .layouts import Layout, open_dataset
from .samples import Sample, SegmentationDataset, image_tensor

__all__ = [
    "PUBLISHED_PICTURES",
    "DatasetError",
    "DatasetSummary",
    "Layout",
    "Sample",
    "SegmentationDataset",
    "UnreadableFile",
    "describe",
    "image_tensor",
    "mismatched_pairs",
    "open_dataset",
    "read_id_map",
    "read_image",
    "require_labels",
    "unreadable_files",
]
