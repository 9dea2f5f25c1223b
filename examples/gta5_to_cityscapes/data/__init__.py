"""Data sets of a run, endless batches of them, style transfer and augmentation."""

from .classes import Classes, class_file_names, default_class_file, read_classes
from .dataset import Sample, SegmentationDataset, image_tensor
from .image_files import DatasetError, read_id_map, read_image
from .inspection import (
    PUBLISHED_IMAGES,
    DatasetSummary,
    UnreadableFile,
    describe,
    mismatched_pairs,
    require_labels,
    unreadable_files,
)
from .layouts import Layout, open_dataset

__all__ = [
    "PUBLISHED_IMAGES",
    "Classes",
    "DatasetError",
    "DatasetSummary",
    "Layout",
    "Sample",
    "SegmentationDataset",
    "UnreadableFile",
    "class_file_names",
    "default_class_file",
    "describe",
    "image_tensor",
    "mismatched_pairs",
    "open_dataset",
    "read_classes",
    "read_id_map",
    "read_image",
    "require_labels",
    "unreadable_files",
]
