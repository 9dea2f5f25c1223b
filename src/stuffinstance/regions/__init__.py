"""Label maps to regions: connected components, and the stuff and instance regions of an image."""

from stuffinstance.regions.connected_components import connected_components
from stuffinstance.regions.region_table import (
    Regions,
    count_rows,
    instance_regions,
    most_regions,
    stuff_regions,
)

__all__ = [
    "Regions",
    "connected_components",
    "count_rows",
    "instance_regions",
    "most_regions",
    "stuff_regions",
]
