"""The messages of errors as text: every public call with wrong arguments, and what goes wrong between two of them.

``python -m tests.contracts.error_messages`` writes the list anew. Tests elsewhere assert the type of an error and the
argument that it names.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

import stuffinstance as si
from stuffinstance import plotting
from tests.label_maps import IGNORE
from tests.public_calls import CALLS, SPACE, D, K, Maps, anchors, matching
from tests.wrong_arguments import wrong_in_short

STORED = Path(__file__).with_suffix(".txt")
ERRORS = (TypeError, ValueError, si.BackendUnavailableError, NotImplementedError)
M = Maps()
LABELS, FEATURES = M.labels, M.features
MASK, REGIONS = LABELS == 0, si.instance_regions(LABELS, (1, 2), 3)
IMAGE = torch.rand(1, 3, 4, 5)
UNFOLDED = nn.Sequential(nn.Conv2d(D, K, 1), nn.Upsample(scale_factor=8))


def frozen_half() -> nn.Module:
    return nn.Linear(2, 2).to(torch.bfloat16)


def teacher(**options: Any) -> si.MeanTeacher:
    return si.MeanTeacher(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), **options)


def tied() -> nn.Module:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    return network


# What no single wrong argument of the table shows.
MORE: tuple[Callable[[], object], ...] = (
    # regions and pooling
    lambda: si.connected_components(MASK, classes=(0, 1)),
    lambda: si.connected_components(MASK, ignore_index=1),
    lambda: si.connected_components(LABELS, classes=(2, IGNORE)),
    lambda: si.connected_components(LABELS, connectivity=6),
    lambda: si.instance_regions(LABELS, (0,), 2**40),
    lambda: si.stuff_regions(MASK, (0,)),
    lambda: si.stuff_regions(LABELS[:, None].byte(), (0,)),
    lambda: si.stuff_regions(LABELS[:, None].float(), (0,)),
    lambda: si.stuff_regions(LABELS.float(), (0,)),
    lambda: si.stuff_regions(LABELS[0], (0,)),
    lambda: si.stuff_regions(M.logits, (0,)),
    lambda: si.region_mean(FEATURES, M.labels.clamp(max=K) + 2, 2),
    lambda: si.region_mean(FEATURES, M.labels + 2**40),
    lambda: si.region_mean(FEATURES, si.stuff_regions(LABELS, (1, 2)), 3),
    lambda: si.region_mean(FEATURES.to("meta"), LABELS.to("meta")),
    # spaces, banks and matching
    lambda: si.LabelSpace(("a", "b"), (0, 1), (1,)),
    lambda: si.LabelSpace(("a", "a")),
    lambda: si.LabelSpace(()),
    lambda: si.LabelSpace(("a",), 0),
    lambda: si.LabelSpace(stuff=(0.9,)),
    lambda: si.LabelSpace(("a",), palette=((0.5, 0.5, 0.9),)),
    lambda: si.LabelSpace(("a", "b", "c"), palette=((0, 0, 0),)),
    lambda: si.CITYSCAPES.ids(["lorry"]),
    lambda: si.InstanceBank(SPACE, D),
    lambda: si.StuffBank((1, 2), 2, names=("a",)),
    lambda: si.StuffBank((1, 2), 2, names=("a", "a")),
    lambda: si.InstanceBank((1, 2), 2, names="ab"),
    lambda: si.StuffBank((7, 2), 1, names=("sky", "road")).rows("car"),
    lambda: si.StuffBank((7, 2), 1).rows("sky"),
    lambda: si.StuffBank((7, 2), 1).rows(7.0),
    lambda: matching().stuff_bank.update(FEATURES, LABELS, lambda rows: rows[:, 0]),
    lambda: matching().instance_bank.update(FEATURES, LABELS, nn.Linear(D, 1)),
    lambda: matching().stuff_bank.update(FEATURES, LABELS, nn.Conv2d(D, K, 1)),
    lambda: matching().stuff_bank.update(FEATURES, LABELS, lambda rows: None),
    lambda: matching().stuff_bank.update(FEATURES, LABELS, si.head_classifier(UNFOLDED)),
    lambda: matching(validate_args=True).update(FEATURES * torch.nan, LABELS, M.logits),
    lambda: si.StuffMatchingLoss(si.InstanceBank((1,), 2)),
    lambda: si.InstanceMatchingLoss(si.StuffBank((1,), 2)),
    lambda: si.StuffMatchingLoss(si.StuffBank((0,), D), nn.CosineSimilarity(dim=-1)),
    lambda: si.StuffMatchingLoss(si.StuffBank((0,), D), lambda a, b: a - b),
    lambda: si.StuffMatchingLoss(si.StuffBank((0,), D), lambda a, b: 1.0),
    lambda: si.StuffMatchingLoss(si.StuffBank((0,), D), lambda a, b: {}[0]),
    lambda: si.head_classifier(lambda maps: maps),
    lambda: si.head_classifier(UNFOLDED)(torch.zeros(5, D)),
    lambda: anchors().assign(FEATURES, -1.0),
    # losses and thresholds
    lambda: si.EntropyLoss()(M.logits[:, :1]),
    lambda: si.EntropyLoss()(M.logits, LABELS),
    lambda: si.EntropyLoss(reduction="sum")(M.logits),
    lambda: si.OutputAdversarialLoss(si.OutputDiscriminator(K, 1)).generator_loss(M.logits),
    lambda: si.OutputAdversarialLoss(nn.AvgPool2d(2), reduction="none").discriminator_loss(M.logits, M.logits[:1]),
    lambda: si.FineGrainedAdversarialLoss(nn.Identity()).generator_loss(FEATURES, M.logits),
    lambda: si.FineGrainedDiscriminator(D, K, 5),
    lambda: si.IASTThreshold(2).merge(si.IASTThreshold(2)),
    lambda: si.CBSTThreshold(4).merge(si.ClassBalancedThreshold(4)),
    lambda: si.CBSTThreshold(4).merge(si.CBSTThreshold(4, bins=7)),
    lambda: si.CBSTThreshold(4, max_portion=0.1),
    lambda: si.soft_labels(M.probabilities, torch.zeros(K)),
    lambda: si.SymmetricConsistency(si.CBSTThreshold(4), "l1").merge(
        si.SymmetricConsistency(si.CBSTThreshold(4), "agreement")
    ),
    lambda: si.SymmetricConsistency(si.CBSTThreshold(4)).merge(si.CBSTThreshold(4)),
    # self-training and style
    lambda: si.MeanTeacher(frozen_half()),
    lambda: si.MeanTeacher(nn.LazyConv2d(4, 1)),
    lambda: si.MeanTeacher(tied()).update(nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))),
    lambda: teacher().update(nn.Sequential(nn.Conv2d(3, 4, 1))),
    lambda: teacher().update(nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5))),
    lambda: teacher().update(nn.ModuleDict({"module": nn.Conv2d(3, 4, 1)})),
    lambda: teacher(teacher=nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(1, 4))),
    lambda: teacher(teacher=nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double()),
    lambda: si.random_block_mask(M.images, fill=(0.1, 0.2)),
    lambda: si.lab_color_transfer(IMAGE, IMAGE[:0]),
    # metrics
    lambda: si.MeanIoU(K, names=si.CITYSCAPES.names),
    lambda: si.MeanIoU(2, names=("car", "car")),
    lambda: si.MeanIoU(2, names=(1, 2)),
    lambda: si.MeanIoU(2, names=("road", "car")).compute(["bus"]),
    lambda: si.MeanIoU(2).compute(["car"]),
    lambda: si.PredictionEntropy(1),
    lambda: si.PredictionEntropy(3).merge(si.PredictionEntropy(4)),
    lambda: si.SoftNeighborhoodDensity().merge(si.PredictionEntropy(4)),
    lambda: si.ClassCenterDistance(5, 3).merge(si.ClassCenterDistance(5, 2)),
    # plots
    lambda: plotting.plot_bank_fill(["bank"], SPACE),
    lambda: plotting.plot_bank_rows(si.StuffBank((7,), 2), SPACE),
    lambda: plotting.plot_bank_rows([si.StuffBank((0,), 2), si.StuffBank((1,), 3)], SPACE),
    lambda: plotting.plot_bank_rows(matching().stuff_bank, SPACE, projection="tsne"),
    lambda: plotting.plot_bank_rows(matching().stuff_bank, SPACE, projection=lambda given: given),
    lambda: plotting.plot_iou({}, SPACE),
    lambda: plotting.plot_iou({"a": torch.zeros(4)}, SPACE),
    lambda: plotting.plot_iou(si.IoU(0.5, torch.zeros(4)), SPACE),
    lambda: plotting.plot_iou(si.IoU(0.5, torch.zeros(K)), SPACE, classes=(4,)),
    lambda: plotting.plot_confidences(si.IASTThreshold(K), SPACE),
    lambda: plotting.plot_confidences(si.ClassBalancedThreshold(2), SPACE),
    lambda: plotting.plot_kept_fractions(torch.rand(K), torch.rand(4), SPACE),
    lambda: plotting.plot_label_map(LABELS + 4, SPACE),
    lambda: plotting.plot_label_map(LABELS, SPACE, item=2),
    lambda: plotting.plot_label_map(LABELS, SPACE, opacity=1.5),
    lambda: plotting.plot_label_map(LABELS, SPACE, image=9 * torch.randn(2, 3, 4, 5)),
    lambda: plotting.plot_label_map(LABELS, SPACE, ax=Figure()),
    lambda: plotting.plot_regions(LABELS),
    lambda: plotting.plot_regions(REGIONS, number="area"),
    lambda: plotting.plot_matches(matching().instance_loss.matches(FEATURES, LABELS), si.InstanceBank((2,), D), SPACE),
    lambda: plotting.plot_matches(FEATURES, matching().instance_bank, SPACE),
)


def message_of(call: Callable[[], object]) -> str | None:
    """The error of a call on one line, without what a part of another package says of itself."""
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            call()
    except ERRORS as error:
        text = re.sub(r"np\.\w+\((.*?)\)", r"\1", " ".join(str(error).split()))  # numpy 1 shows the number alone
        return f"{type(error).__name__}: " + re.sub(r"(failed, got \w+: ).*?(\. [A-Z]|$)", r"\1...\2", text)
    return None


def messages() -> Iterator[str]:
    for call in CALLS.values():
        right = call.arguments(M)
        for argument, value in right.items():
            for wrong in wrong_in_short(value):
                message = message_of(lambda: call.bound()(**{**right, argument: wrong}))  # noqa: B023
                if message is not None:
                    yield message
    for more in MORE:
        message = message_of(more)
        assert message is not None, f"{more.__code__.co_firstlineno}: no error"
        yield message


def error_messages() -> str:
    """The whole list, as it is stored: of messages that differ only in what came, the first."""
    found: dict[str, str] = {}
    for message in messages():
        found.setdefault(re.sub(r"\b(got|with|in) .*?(?=[.;] [A-Zp]|\.?$)", r"\1", message), message)
    return "".join(f"{line}\n" for line in sorted(found.values()))


if __name__ == "__main__":
    STORED.write_text(error_messages(), encoding="utf-8")
