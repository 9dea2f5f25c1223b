"""
Regions: what is matched
========================

Stuff (road, sky) is matched class by class, things (cars, people) region by region.
This page takes one image of the generated city, finds its regions and replaces each by
its mean.
"""

import sys

import matplotlib.pyplot as plt
import torch

import stuffinstance as si
from stuffinstance import plotting

sys.path.append(".")  # to be run from the root of a clone: finds its examples/

from examples.generated_city import GAME_CITY
from examples.tutorials.streets import draw_streets

images, labels = draw_streets(GAME_CITY, count=1, seed=15)
space = si.CITYSCAPES

figure, axes = plt.subplots(2, 1, figsize=(7, 7.6), layout="constrained")
axes[0].imshow(images[0].movedim(0, 2).numpy())
axes[0].axis("off")
plotting.plot_label_map(labels, space, ax=axes[1])

# %%
# Connected components
# --------------------
#
# :func:`~stuffinstance.connected_components` numbers the connected regions of all classes
# in one pass, in the order of their first pixels. Two pixels are connected when they have
# the same class and touch. With ``connectivity=8``, the default and the choice of the
# reference implementation, corners count as touching.


def count_of_regions(count):
    return f"{count} region{'' if count == 1 else 's'} of things"


for connectivity in (4, 8):
    numbers = si.connected_components(
        labels, classes=space.things, connectivity=connectivity
    )
    print(f"{connectivity} neighbors: {count_of_regions(int(numbers.max()))}")

# %%
# The largest of each class
# -------------------------
#
# Matching takes the ``max_regions`` largest regions of each thing class, ten by default.
# :func:`~stuffinstance.instance_regions` gives them in tensors whose shape does not
# depend on the image, so there is no synchronization with a GPU: here (images, classes,
# regions).

regions = si.instance_regions(labels, space.things, max_regions=5)
print("areas:", tuple(regions.area.shape))
for class_id, areas in zip(space.things, regions.area[0].tolist(), strict=True):
    if any(areas):
        print(f"{space.names[class_id]:>13}: {areas}")

# %%
# Each region in the image, with its rank within its class:

figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
plotting.plot_regions(regions, image=images, number="rank", ax=ax)

# %%
# Mean features
# -------------
#
# Banks keep, and matching compares, the mean feature of each region, which
# :func:`~stuffinstance.region_mean` computes in one pass. Any map can be the features.
# Here it is the image with its three channels, so the means are colors.

stuff = si.stuff_regions(labels, space.stuff)
stuff_rows = si.region_mean(images, stuff)[0]  # (8, 3), one row a stuff class
instance_rows = si.region_mean(images, regions)[0]  # (11 * 5, 3)
colors = torch.cat(
    [torch.ones(1, 3), stuff_rows, instance_rows]
)  # row 0, white: no region
row_of_pixel = torch.where(
    regions.region_map > 0, regions.region_map + stuff.num_rows, stuff.region_map
)[0]

figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
ax.imshow(colors[row_of_pixel].numpy())
ax.axis("off")

# %%
# A network's features are coarser, usually by 8. Labels are brought to their size by
# taking the nearest pixel, so the smallest regions vanish and thin ones fall apart:

for stride in (1, 4, 8):
    small = si.resize_labels(
        labels, (labels.shape[1] // stride, labels.shape[2] // stride)
    )
    count = int(si.connected_components(small, classes=space.things).max())
    height, width = small.shape[1:]
    print(f"stride {stride}: {height}x{width} pixels, {count_of_regions(count)}")
