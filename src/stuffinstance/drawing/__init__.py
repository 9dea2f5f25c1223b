"""Pictures of what matching sees and keeps: label maps, regions, matches, banks, scores, thresholds.

Needs matplotlib (``pip install 'stuffinstance[draw]'``), which is imported by the first function that draws. Every
function takes tensors or objects of this library and returns matplotlib's ``Axes``: the caller's, given as ``ax``, or
those of a new ``Figure`` that pyplot does not know of. Save it with ``ax.figure.savefig("picture.png", dpi=150)``; in a
notebook end the cell with ``ax.figure``. Colours of text and lines follow matplotlib's ``rcParams``, so a style or
``matplotlib.rc_context`` changes them; no function does.
"""

from stuffinstance.drawing.bank_fill import draw_bank_fill
from stuffinstance.drawing.bank_rows import draw_bank_rows
from stuffinstance.drawing.confidences import draw_confidences
from stuffinstance.drawing.iou import draw_iou
from stuffinstance.drawing.kept_shares import draw_kept_shares
from stuffinstance.drawing.label_map import draw_label_map
from stuffinstance.drawing.matches import draw_matches
from stuffinstance.drawing.region_map import draw_regions

__all__ = [
    "draw_bank_fill",
    "draw_bank_rows",
    "draw_confidences",
    "draw_iou",
    "draw_kept_shares",
    "draw_label_map",
    "draw_matches",
    "draw_regions",
]
