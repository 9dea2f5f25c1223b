"""
Thresholds: which predictions become labels
===========================================

The second stage of the method trains on the target with labels that the network gave it. A
threshold for each class decides which predictions are sure enough. This page trains a
very small network on streets of the game city for a few seconds, lets it predict the
camera city, and compares the three rules on the same predictions.
"""

import sys

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import stuffinstance as si
from stuffinstance import plotting

sys.path.append(".")  # to be run from the root of a clone: finds its examples/

from examples.generated_city import CAMERA_CITY, GAME_CITY
from examples.tutorials.streets import draw_streets

torch.manual_seed(0)
space = si.CITYSCAPES
source_images, source_labels = draw_streets(GAME_CITY, count=12, seed=1)
target_images, target_labels = draw_streets(CAMERA_CITY, count=8, seed=1)


def with_height(images):
    """A fourth channel: how high a pixel is, which so small a network could not see."""
    height = torch.linspace(-1, 1, images.shape[2])[:, None].expand_as(images[:, :1])
    return torch.cat([images, height], dim=1)


network = nn.Sequential(
    nn.Conv2d(4, 24, 5, stride=4, padding=2),
    nn.GroupNorm(3, 24),
    nn.ReLU(),
    nn.Conv2d(24, 32, 3, padding=2, dilation=2),
    nn.GroupNorm(4, 32),
    nn.ReLU(),
    nn.Conv2d(32, space.num_classes, 3, padding=4, dilation=4),
)
optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
for _ in range(80):
    batch = torch.randint(len(source_images), (4,))
    transferred = si.lab_color_transfer(
        source_images[batch], target_images[torch.randint(len(target_images), (4,))]
    )
    logits = F.interpolate(
        network(with_height(transferred)), source_labels.shape[1:], mode="bilinear"
    )
    loss = F.cross_entropy(logits, source_labels[batch], ignore_index=255)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# Softmax first, then upsampling: what is compared with a threshold is then still a mean
# of probabilities.
with torch.no_grad():
    probabilities = F.interpolate(
        network(with_height(target_images)).softmax(1),
        target_labels.shape[1:],
        mode="bilinear",
    )
confidence, predicted = probabilities.max(1)
right = (predicted == target_labels)[target_labels != 255].float().mean()
print(f"the network is right on {100 * float(right):.0f} % of the pixels")

# %%
# Confidences of each class
# -------------------------
#
# A network is surer of some classes than of others. One threshold for all would keep the
# sky and lose the rest. The rule of SIM takes the median of each class instead, but never
# more than 0.9 (Eq. 9). It reads predictions as they come, image by image, and keeps
# counts of a fixed size.

medians = si.ClassBalancedThreshold(space.num_classes)
for batch in probabilities.split(1):
    medians.update(batch)
thresholds = medians.compute()

most = medians.counts().argsort(descending=True)[:6].tolist()
figure, ax = plt.subplots(figsize=(7, 4.6), layout="constrained")
plotting.plot_confidences(medians, space, classes=most, ax=ax)

# %%
# Three rules on the same predictions
# -----------------------------------
#
# ``CBSTThreshold`` (CBST) takes the most confident fifth of each class and compares
# classes by how much surer than usual they are. ``IASTThreshold`` (IAST) needs no
# separate pass: its thresholds follow the predictions batch by batch. All three are the
# same to the trainer.

rules = {
    "class medians": medians,
    "portion of 20 %": si.CBSTThreshold(space.num_classes, portion=0.2),
    "adaptive": si.IASTThreshold(space.num_classes),
}
labels = {}
for name, rule in rules.items():
    if rule is not medians:
        for batch in probabilities.split(1):
            rule.update(batch)
    labels[name] = rule.pseudo_labels(probabilities, rule.compute())

figure, axes = plt.subplots(3, 2, figsize=(8, 6.4), layout="constrained")
axes[0, 0].imshow(target_images[0].movedim(0, 2).numpy())
axes[0, 0].axis("off")
panels = {"ground truth": target_labels, "all predictions": predicted, **labels}
for ax, (name, label_map) in zip(axes.flat[1:], panels.items(), strict=True):
    plotting.plot_label_map(label_map, space, legend=False, ax=ax)
    ax.set_title(name, fontsize=9)

# %%
# What a rule keeps, and how much of that is right
# ------------------------------------------------
#
# On data of your own the ground truth is not there to look at; here it is. Keeping less is only
# worth something where what is kept is right more often.

ground_truth_known = target_labels != 255
for name, kept in {"all predictions": predicted, **labels}.items():
    chosen = (kept != 255) & ground_truth_known
    share = float(chosen.sum() / ground_truth_known.sum())
    right = float((kept == target_labels)[chosen].float().mean())
    print(
        f"{name:>15}: keeps {100 * share:3.0f} %, of which {100 * right:.0f} % are right"
    )

# %%
# The share kept of each class is what the rules differ in most:

figure, ax = plt.subplots(figsize=(8, 3), layout="constrained")
for place, (name, kept) in enumerate(labels.items()):
    share = [float((kept == k).sum() / medians.counts()[k].clamp(min=1)) for k in most]
    ax.bar(
        [k + 0.27 * (place - 1) for k in range(len(most))], share, width=0.25, label=name
    )
ax.set_xticks(range(len(most)), [space.names[k] for k in most])
ax.set_ylabel("labels over predictions")
ax.legend(fontsize=8)
