"""
Your own data set with two classes
==================================

This page adapts between two microscopes. Cells in the images of the first are labeled,
those in the images of the second are to be segmented. It shows what to decide for your
own data: what is stuff, what is a thing, how large the banks are, and how the second
stage labels the target.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import stuffinstance as si
from stuffinstance import plotting

SIZE = 48

# %%
# What is stuff, what is a thing
# ------------------------------
#
# Cells are countable and look different from each other: things. The background only
# covers area: stuff.

space = si.LabelSpace(
    names=("background", "cell"),
    stuff=("background",),
    things=("cell",),
    palette=((235, 235, 235), (106, 61, 154)),
)
ROWS, COLUMNS = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")


def draw_cells(random):
    """One label map (H, W) with three to six cells, ellipses of any direction."""
    labels = torch.zeros(SIZE, SIZE, dtype=torch.long)
    for _ in range(int(torch.randint(3, 7, (), generator=random))):
        down, across = torch.randint(4, SIZE - 4, (2,), generator=random)
        angle, longer, shorter = torch.rand(3, generator=random) * torch.tensor(
            [3.1, 3.0, 2.0]
        )
        along = (COLUMNS - across) * angle.cos() + (ROWS - down) * angle.sin()
        beside = (ROWS - down) * angle.cos() - (COLUMNS - across) * angle.sin()
        labels[(along / (5 + longer)) ** 2 + (beside / (3.5 + shorter)) ** 2 <= 1] = 1
    return labels


def draw_batch(count, random, second_microscope=False):
    """Images (B, 3, H, W) in 0 .. 1 and labels (B, H, W)."""
    labels = torch.stack([draw_cells(random) for _ in range(count)])
    stain = torch.tensor([[0.95, 0.85, 0.9], [0.55, 0.3, 0.65]]) + 0.05 * torch.randn(
        count, 2, 3, generator=random
    )
    if second_microscope:  # a weaker, bluer stain under a yellow lamp
        stain = stain * torch.tensor([0.75, 0.8, 0.55]) + torch.tensor([0.1, 0.1, 0.05])
        stain[:, 1] = 0.4 * stain[:, 1] + 0.6 * stain[:, 0]
    images = torch.stack(
        [table[ids] for table, ids in zip(stain, labels, strict=True)]
    ).movedim(3, 1)
    images = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = images + (0.06 if second_microscope else 0.03) * torch.randn(
        images.shape, generator=random
    )
    return images.clamp(0, 1), labels


random = torch.Generator().manual_seed(0)
source_images, source_labels = draw_batch(48, random)
target_images, _ = draw_batch(48, random, second_microscope=True)
test_images, test_labels = draw_batch(48, random, second_microscope=True)

figure, axes = plt.subplots(1, 4, figsize=(8, 2.3), layout="constrained")
axes[0].imshow(source_images[0].movedim(0, 2).numpy())
plotting.plot_label_map(source_labels, space, legend=False, ax=axes[1])
plotting.plot_regions(
    si.instance_regions(source_labels, space.things), image=source_images, ax=axes[2]
)
axes[3].imshow(target_images[0].movedim(0, 2).numpy())
for ax, title in zip(
    axes, ("first microscope", "labels", "its cells", "second microscope"), strict=True
):
    ax.set_title(title, fontsize=9)
    ax.axis("off")

# %%
# Cells that touch are one region, as in the reference implementation. That is harmless
# for matching: their mean is that of two cells. There is no minimum area.
#
# The first stage
# ---------------
#
# Half of the steps go without matching, so that banks hold features of a partly trained
# network. A batch of 8 has 8 backgrounds and about 35 cells, so small banks are
# enough: ``capacity=32`` rows for the background, ten times as many for cells.


def make_network():
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.GroupNorm(2, 16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.GroupNorm(3, 24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=2, dilation=2),
        nn.ReLU(),
    )
    return nn.ModuleDict(
        {"backbone": backbone, "head": nn.Conv2d(24, space.num_classes, 1)}
    )


def predict(network, images):
    """Features (B, 24, h, w) and logits (B, 2, h, w)."""
    features = network["backbone"](images)
    return features, network["head"](features)


def upsampled(maps):
    return F.interpolate(maps, (SIZE, SIZE), mode="bilinear")


def train(matching_weight=0.0, pseudo_labels=None, steps=80):
    network = make_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    sim = si.StuffInstanceMatching(space, feature_dim=24, capacity=32)
    for step in range(steps):
        batch = torch.randint(48, (8,), generator=random)
        source_features, source_logits = predict(network, source_images[batch])
        loss = F.cross_entropy(upsampled(source_logits), source_labels[batch])
        sim.update(source_features, source_labels[batch], source_logits)
        if matching_weight:
            batch = torch.randint(48, (8,), generator=random)
            labels = None if pseudo_labels is None else pseudo_labels[batch]
            target_features, target_logits = predict(network, target_images[batch])
            if step >= steps // 2:
                matching = sim(target_features, target_logits, labels)
                loss = loss + matching_weight * (matching.stuff + matching.instance)
            if labels is not None:
                loss = loss + F.cross_entropy(
                    upsampled(target_logits), labels, ignore_index=255
                )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


@torch.no_grad()
def evaluate(network):
    score = si.MeanIoU(space.num_classes)
    score.update(upsampled(predict(network, test_images)[1]), test_labels)
    return score.compute()


source_only = train()
first_stage = train(matching_weight=0.1)

# %%
# The second stage
# ----------------
#
# The network of the first stage labels the target: of each class the more confident half.
# Then training starts again from the start weights, now with these labels too.

with torch.no_grad():
    probabilities = upsampled(predict(first_stage, target_images)[1].softmax(1))
rule = si.ClassBalancedThreshold(space.num_classes)
rule.update(probabilities)
pseudo_labels = rule.pseudo_labels(probabilities)
second_stage = train(matching_weight=0.1, pseudo_labels=pseudo_labels)

figure, axes = plt.subplots(1, 3, figsize=(8, 2.8), layout="constrained")
axes[0].imshow(target_images[0].movedim(0, 2).numpy())
axes[0].axis("off")
plotting.plot_label_map(probabilities.argmax(1), space, legend=False, ax=axes[1])
plotting.plot_label_map(pseudo_labels, space, ax=axes[2])
axes[1].set_title("all predictions", fontsize=9)
axes[2].set_title("labels for the second stage", fontsize=9)

# %%
# On the second microscope's test images:

scores = {
    "source only": evaluate(source_only),
    "with matching": evaluate(first_stage),
    "second stage": evaluate(second_stage),
}
for name, score in scores.items():
    print(f"{name:>13}: mIoU {100 * score.mean:.1f}")
figure, ax = plt.subplots(figsize=(7, 2.2), layout="constrained")
plotting.plot_iou(scores, space, ax=ax)
