"""SYNTHIA-RAND-CITYSCAPES: ``RGB/0000000.png`` and ``GT/LABELS/0000000.png``.

A label map is 16-bit colour: the first channel holds the class, the second the instance.
"""

from collections.abc import Collection
from pathlib import Path

from .gta5 import list_flat_pairs
from .samples import PictureFiles

EXPECTED = "RGB/*.png|jpg and GT/LABELS/*.png"


def list_synthia(root: Path, split: str, *, labels: bool, exclude: Collection[str]) -> list[PictureFiles]:
    """Pairs sorted by name. The whole data set is one training split."""
    return list_flat_pairs(root, split, "synthia", EXPECTED, ("RGB", "GT/LABELS"), labels=labels, exclude=exclude)
