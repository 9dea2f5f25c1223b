"""Stuff and instance matching for domain-adaptive semantic segmentation."""

__version__ = "0.1.0.dev0"
