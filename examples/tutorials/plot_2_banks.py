"""
Banks: what is remembered
=========================

A bank keeps the last mean features of each class in a ring. Features of a network cannot
be looked at, colors can: on this page the image itself is the feature map, with three
channels, and so each row of a bank is a color.
"""

import sys

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import stuffinstance as si
from stuffinstance import plotting

sys.path.append(".")  # to be run from the root of a clone: finds its examples/

from examples.generated_city import CAMERA_CITY, GAME_CITY
from examples.tutorials.streets import draw_streets

space = si.CITYSCAPES
images, labels = draw_streets(GAME_CITY, count=12, seed=1)

# %%
# Filling a ring
# --------------
#
# Every image gives one row for each stuff class that is in it, and one for each of the
# largest regions of each thing class. The rings here are small, so that they are written
# over while we look.

stuff_bank = si.StuffBank(space.stuff, feature_dim=3, capacity=8)
instance_bank = si.InstanceBank(
    space.things, feature_dim=3, capacity=24, max_instances=10
)
for image, label_map in zip(images.split(1), labels.split(1), strict=True):
    stuff_bank.update(image, label_map)
    instance_bank.update(image, label_map)

# %%
# Here are the rings, a color for each row. A white slot was never written, and the mark
# is where the next row goes:

figure, axes = plt.subplots(
    1, 2, figsize=(9, 3.6), width_ratios=(8, 20), layout="constrained"
)
for ax, bank in zip(axes, (stuff_bank, instance_bank), strict=True):
    colors = torch.where(bank.filled[:, :, None], bank.features, 1.0)
    ax.imshow(colors.numpy(), aspect="auto", interpolation="none")
    ax.set_yticks(
        range(len(bank.classes)), [space.names[class_id] for class_id in bank.classes]
    )
    ax.scatter(
        bank.written % bank.capacity,
        range(len(bank.classes)),
        marker="d",
        c="white",
        edgecolors="black",
    )
    ax.set_xlabel("slot")

# %%
# ``written`` counts all rows ever written; from it follow the next slot and which slots
# are filled. So the two buffers are the whole state, and a resumed run goes on as if it
# had never stopped. Some classes have gone round their ring already, others have hardly
# been seen. That is why the published sizes are 50 and 500.

figure, ax = plt.subplots(figsize=(7, 5), layout="constrained")
plotting.plot_bank_fill([stuff_bank, instance_bank], space, ax=ax)

# %%
# Colors have three channels, features of a network have hundreds. For those there is a
# plane in which rows that are alike lie together:

figure, ax = plt.subplots(figsize=(7, 5), layout="constrained")
plotting.plot_bank_rows([stuff_bank, instance_bank], space, ax=ax)

# %%
# Only what the network gets right
# --------------------------------
#
# In training, a pixel whose prediction is wrong is taken out first (Eq. 4), so that a
# bank remembers what the network already recognizes. Here a prediction that is right but
# calls the whole left half a road:

logits = (
    F.one_hot(labels[:1].where(labels[:1] != 255, 0), space.num_classes)
    .movedim(3, 1)
    .float()
)
logits[:, 0, :, : labels.shape[2] // 2] = 2
correct = si.correct_labels(labels[:1], logits)

figure, axes = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
plotting.plot_label_map(labels[:1], space, legend=False, ax=axes[0])
plotting.plot_label_map(correct, space, legend=False, ax=axes[1])
axes[0].set_title("ground truth")
axes[1].set_title("where the prediction agrees with it")

# %%
# Drawing a target towards the bank
# ---------------------------------
#
# Each region of a target image is matched with the nearest row of its class:

target, ground_truth = draw_streets(CAMERA_CITY, count=1, seed=3)
loss = si.InstanceMatchingLoss(instance_bank)
matches = loss.matches(target, ground_truth)
figure, ax = plt.subplots(figsize=(9, 3.2), layout="constrained")
plotting.plot_matches(matches, instance_bank, space, image=target, most=16, ax=ax)

# %%
# The loss is the mean of these distances over the regions of a class, summed over the
# classes. Its gradient flows into the target's features alone; the bank is a memory and
# is not trained.

regions = matches.regions
per_class = matches.distance[0].sum(1) / regions.valid[0].sum(1).clamp(min=1)
with torch.no_grad():  # only to look at the value
    print(f"the loss: {float(loss(target, ground_truth)):.6f}")
print(f"by hand:  {float(per_class.sum()):.6f}")
