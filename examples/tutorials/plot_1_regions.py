"""
Regions
=======

Stuff is matched class by class, things region by region.
"""

import matplotlib.pyplot as plt
import torch

import stuffinstance as si

labels = torch.tensor([[[0, 5, 5, 0, 5]]])
regions = si.instance_regions(labels, classes=(5,))
print(regions.area)
fig, ax = plt.subplots()
ax.imshow(regions.map[0])
