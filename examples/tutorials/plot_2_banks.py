"""
Banks: what is remembered
=========================

A bank keeps the last mean features of each class in a ring. Features of a network cannot be looked at, colours can: on
this page the picture itself is the feature map, with three channels, and so each row of a bank is a colour.
"""

import matplotlib.pyplot as plt
import torch

import stuffinstance as si
from examples.generated_city import CAMERA_CITY, GAME_CITY
from examples.tutorials.streets import draw_streets

space = si.CITYSCAPES
pictures, labels = draw_streets(GAME_CITY, count=12, seed=1)

# %%
# Filling a ring
# --------------
#
# Every picture gives one row for each stuff class that is in it, and one for each of the largest regions of each thing
# class. The rings here are small, so that they are written over while we look.

stuff_bank = si.StuffBank(space.stuff, feature_dim=3, capacity=8)
instance_bank = si.InstanceBank(space.things, feature_dim=3, capacity=24, max_instances=10)
history = []
for picture, label_map in zip(pictures.split(1), labels.split(1), strict=True):
    stuff_bank.update(picture, label_map)
    instance_bank.update(picture, label_map)
    history.append(torch.cat([stuff_bank.written, instance_bank.written]))


def show(ax, bank):
    """One line of slots per class; a white slot was never written."""
    ax.imshow(torch.where(bank.filled[:, :, None], bank.features, 1.0), aspect="auto", interpolation="none")
    ax.set_yticks(range(len(bank.classes)), [space.names[class_id] for class_id in bank.classes])
    for line, written in enumerate(bank.written.tolist()):
        ax.plot(written % bank.capacity, line, marker=4, color="black", clip_on=False)  # where the next row goes
    ax.set_xlabel("slot")


figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(8, 16), layout="constrained")
for ax, bank, title in zip(axes, (stuff_bank, instance_bank), ("stuff", "things"), strict=True):
    show(ax, bank)
    ax.set_title(f"{title} after 12 pictures (mark: the next slot)")

# %%
# ``written`` counts all rows ever written; from it follow the next slot and which slots are filled. So the two buffers
# are the whole state, and a resumed run goes on as if it had never stopped. In 12 pictures roads have gone round a
# ring of 8, while trains may not have come by at all. That is why the published sizes are 50 and 500.

figure, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
counts = torch.stack(history)
order = counts[-1].argsort(descending=True).tolist()
names = [space.names[class_id] for class_id in (*space.stuff, *space.things)]
for place in order[:6]:
    ax.plot(range(1, len(history) + 1), counts[:, place], label=names[place])
ax.set_xlabel("pictures")
ax.set_ylabel("rows ever written")
ax.legend(fontsize=8)

# %%
# Only what the network gets right
# --------------------------------
#
# In training, a pixel whose prediction is wrong is taken out first (Eq. 4). The mean of a class then is the mean of
# what the network already recognises. Here a prediction that calls the whole left half a road:

logits = torch.nn.functional.one_hot(labels[:1].where(labels[:1] != 255, 0), space.num_classes).movedim(3, 1).float()
logits[:, 0, :, : labels.shape[2] // 2] = 2
correct = si.correct_labels(labels[:1], logits)
for name, label_map in (("all of the truth", labels[:1]), ("where the prediction agrees", correct)):
    print(f"{name}: {int((label_map != 255).sum())} pixels")

# %%
# Drawing a target towards the bank
# ---------------------------------
#
# Each region of a target picture is matched with the nearest row of its class. Its colour, the colour it is drawn to,
# and how far the two are apart:

target, truth = draw_streets(CAMERA_CITY, count=1, seed=3)
regions = si.instance_regions(truth, space.things, max_regions=10)
rows = si.region_mean(target, regions)[0]
pairs = []
for row, valid in enumerate(regions.valid.flatten().tolist()):
    line = row // regions.valid.shape[2]
    kept = instance_bank.features[line][instance_bank.filled[line]]
    if valid and len(kept):
        distances = (kept - rows[row]).abs().mean(1)  # "l1_mean", the distance of the released code
        pairs.append((space.names[space.things[line]], rows[row], kept[distances.argmin()], float(distances.min())))

pairs.sort(key=lambda pair: pair[3])
figure, ax = plt.subplots(figsize=(8, 2.4), layout="constrained")
ax.imshow(torch.stack([torch.stack([pair[1] for pair in pairs]), torch.stack([pair[2] for pair in pairs])]))
ax.set_yticks((0, 1), ("region", "nearest row"))
ax.set_xticks(range(len(pairs)), [f"{name} {distance:.2f}" for name, _, _, distance in pairs], rotation=90, fontsize=7)
ax.set_title("from the best match to the worst")

# %%
# The loss is the mean of these distances over the regions of a class, summed over the classes. Its gradient flows into
# the target's features alone; the bank is a memory and is not trained. :class:`~stuffinstance.InstanceMatchingLoss`
# does all of this in one call, and gives the number that the picture's distances give:

loss = si.InstanceMatchingLoss(instance_bank)(target, truth)
by_class: dict[str, list[float]] = {}
for name, _, _, distance in pairs:
    by_class.setdefault(name, []).append(distance)
print(f"the library: {float(loss):.6f}")
print(f"by hand:     {sum(sum(d) / len(d) for d in by_class.values()):.6f}")
