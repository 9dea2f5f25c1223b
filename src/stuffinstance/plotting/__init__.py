"""Plots of label maps, regions, matches, banks, scores and thresholds.

Needs matplotlib (``pip install 'stuffinstance[draw]'``), which is imported by the first function that draws. Every
function takes tensors or objects of this library and returns matplotlib's ``Axes``: the caller's, given as ``ax``, or
those of a new ``Figure`` that pyplot does not know of. Save it with ``ax.figure.savefig("image.png", dpi=150)``; in a
notebook end the cell with ``ax.figure``. Colors of text and lines follow matplotlib's ``rcParams``, so a style or
``matplotlib.rc_context`` changes them; no function does.
"""

from stuffinstance.plotting.banks import plot_bank_fill, plot_bank_rows
from stuffinstance.plotting.class_charts import plot_confidences, plot_iou, plot_kept_fractions
from stuffinstance.plotting.label_maps import plot_label_map
from stuffinstance.plotting.regions import plot_matches, plot_regions

__all__ = [
    "plot_bank_fill",
    "plot_bank_rows",
    "plot_confidences",
    "plot_iou",
    "plot_kept_fractions",
    "plot_label_map",
    "plot_matches",
    "plot_regions",
]
