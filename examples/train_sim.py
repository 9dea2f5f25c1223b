"""SIM (https://arxiv.org/abs/2003.08040) in one file: both training stages in plain PyTorch, to copy into your project.

Stage 1 trains on labeled source images and pulls the features of unlabeled target images towards the source features of
their class. Then the trained network labels the target images, with one confidence threshold per class. Stage 2 trains
again from the same start weights, on the source labels and on these pseudo-labels.

Replace two functions to use your own data and network: :func:`open_domains` and :func:`build_model`. As they are, they
read GTA5 and Cityscapes (or the generated city, which has their folder layout) and build a small network that two CPU
cores can train:

    python -m examples.generated_city --out city
    python -m examples.train_sim --source city/gta5 --target city/cityscapes --out runs/sim

The pipeline in ``examples/gta5_to_cityscapes`` does the same with discriminators, other methods, resumable runs,
several GPUs and a report.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import stuffinstance as si
from examples.gta5_to_cityscapes.console import escape_unprintable
from examples.gta5_to_cityscapes.data import open_dataset
from examples.gta5_to_cityscapes.data.image_files import read_id_map
from examples.gta5_to_cityscapes.models import build_network

SPACE = si.CITYSCAPES


# --- what to replace by your own ------------------------------------------------------------------------------------


def open_domains(args: argparse.Namespace) -> tuple[Dataset[Any], Dataset[Any], Dataset[Any]]:
    """Labeled source images, unlabeled target images and labeled validation images of the target.

    Each item has ``image`` (3, H, W) uint8, ``labels`` (H, W) uint8 with 255 where unlabeled, and ``name``.
    """
    size = (args.height, args.width)
    source = open_dataset("gta5", args.source, size=size)
    target = open_dataset("cityscapes", args.target, split="train", size=size, labels=False)
    validation = open_dataset("cityscapes", args.target, split="val", size=size)
    return source, target, validation


def build_model() -> nn.Module:
    """A segmentation network that returns ``features`` (B, D, h, w) and ``logits`` (B, K, h, w) of equal size.

    ``feature_dim`` is D, and ``classify`` maps feature rows (N, D) to logits (N, K), as its head does for one cell.
    """
    return build_network("small", SPACE.num_classes, norm="batch")


# --- the method -----------------------------------------------------------------------------------------------------


def train(model: nn.Module, source: Dataset[Any], target: Dataset[Any], args: argparse.Namespace, stage: int) -> None:
    """One training stage, in place. In stage 2 the target's labels are pseudo-labels."""
    sim = si.StuffInstanceMatching(
        SPACE,
        model.feature_dim,
        preset=args.preset,
        capacity=args.capacity,
        classifier=model.classify,  # the agreement filter of the reference implementation; None switches it off
    ).to(args.device)
    matching_weight = args.matching_weight if stage == 1 else args.matching_weight_stage2
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, args.steps, power=0.9)
    source_batches, target_batches = batches(source, args), batches(target, args)

    model.train()
    for step in range(1, args.steps + 1):
        images, labels = next(source_batches)
        target_images, pseudo_labels = next(target_batches)
        if args.style_transfer:
            images = si.lab_color_transfer(images, target_images)

        # Source: segmentation loss (Eq. 1), then the banks (Eq. 4, 5 and Algorithm 1).
        out = model(images)
        loss_seg = segmentation_loss(out.logits, labels)
        sim.update(out.features, labels, out.logits)
        loss_seg.backward()

        # Target: matching (Eq. 6 and 8); in stage 2 also the pseudo-labels (Eq. 10 and 11).
        out = model(target_images)
        matching = sim(out.features, out.logits, pseudo_labels if stage == 2 else None)
        loss_target = matching_weight * (matching.stuff + matching.instance)
        if stage == 2:
            loss_target = loss_target + segmentation_loss(out.logits, pseudo_labels)
        loss_target.backward()

        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if step % args.log_every == 0 or step == args.steps:
            print(
                f"stage {stage} step {step:5d}: segmentation {loss_seg.item():.3f}, stuff {matching.stuff.item():.4f}, "
                f"instance {matching.instance.item():.4f}",
                flush=True,
            )


@torch.no_grad()
def write_pseudo_labels(model: nn.Module, target: Dataset[Any], folder: Path, args: argparse.Namespace) -> None:
    """Pseudo-labels of all target images (Eq. 9): first the class thresholds over the whole set, then the labels."""
    folder.mkdir(parents=True, exist_ok=True)
    threshold = si.ClassBalancedThreshold(SPACE.num_classes).to(args.device)
    model.eval()
    for images, _, _ in in_order(target, args):
        threshold.update(probabilities(model, images))
    kept = pixels = 0
    values = threshold.compute()
    for images, _, names in in_order(target, args):
        labels = threshold.pseudo_labels(probabilities(model, images), thresholds=values)
        kept, pixels = kept + int((labels != SPACE.ignore_index).sum()), pixels + labels.numel()
        for name, label_map in zip(names, labels.to(torch.uint8).cpu().numpy(), strict=True):
            beside = folder / f".{name}.png"  # renamed once it is whole: an interrupted run leaves no half file
            Image.fromarray(label_map).save(beside)
            beside.replace(folder / f"{name}.png")
    print(f"pseudo-labels: {100 * kept / max(1, pixels):.1f} % of the target's pixels, in {folder}")


@torch.no_grad()
def evaluate(model: nn.Module, validation: Dataset[Any], args: argparse.Namespace) -> si.IoU:
    """IoU per class and mIoU over the whole validation set."""
    metric = si.MeanIoU(SPACE.num_classes, SPACE.ignore_index).to(args.device)
    model.eval()
    for images, labels, _ in in_order(validation, args):
        metric.update(probabilities(model, images), labels)
    return metric.compute()


# --- data and losses ------------------------------------------------------------------------------------------------


class PseudoLabeled(Dataset[Any]):
    """Target images with the pseudo-labels that :func:`write_pseudo_labels` wrote."""

    def __init__(self, images: Dataset[Any], folder: Path) -> None:
        self.images, self.folder = images, folder

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        sample = self.images[index]
        return sample._replace(labels=torch.from_numpy(read_id_map(self.folder / f"{sample.name}.png")))


def batches(dataset: Dataset[Any], args: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless shuffled batches: images in 0..1 and labels, each pair mirrored half of the time."""
    generator = torch.Generator().manual_seed(args.seed)
    loader: DataLoader[Any] = DataLoader(
        dataset, args.batch_size, shuffle=True, drop_last=True, num_workers=args.num_workers, generator=generator
    )
    if len(loader) == 0:
        raise SystemExit(f"a batch of {args.batch_size} needs as many images, the data set has {len(dataset)}.")  # type: ignore[arg-type]
    while True:
        for sample in loader:
            images, labels = sample.image.to(args.device).float() / 255, sample.labels.to(args.device).long()
            if torch.rand((), generator=generator) < 0.5:
                images, labels = images.flip(3), labels.flip(2)
            yield images, labels


def in_order(dataset: Dataset[Any], args: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor, tuple[str, ...]]]:
    """All images once, with labels and names."""
    for sample in DataLoader(dataset, args.batch_size, num_workers=args.num_workers):
        yield sample.image.to(args.device).float() / 255, sample.labels.to(args.device), sample.name


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at the labels' size; 0 where no pixel has a label."""
    upsampled = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=True)
    total = F.cross_entropy(upsampled, labels, ignore_index=SPACE.ignore_index, reduction="sum")
    return total / (labels != SPACE.ignore_index).sum().clamp(min=1)


def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """Class probabilities (B, K, H, W) at the images' size: softmax first, then bilinear, as the reference does."""
    return F.interpolate(model(images).logits.softmax(1), images.shape[2:], mode="bilinear", align_corners=True)


# --- both stages ----------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train both stages and write weights and pseudo-labels to ``--out``; returns the mIoU of each stage."""
    args = parse(argv)
    torch.manual_seed(args.seed)
    source, target, validation = open_domains(args)
    model = build_model().to(args.device)
    start = copy.deepcopy(model.state_dict())
    args.out.mkdir(parents=True, exist_ok=True)
    scores: dict[str, float] = {}
    for stage in (1, 2):
        if stage == 2:
            write_pseudo_labels(model, target, args.out / "pseudo_labels", args)
            target = PseudoLabeled(target, args.out / "pseudo_labels")
            model.load_state_dict(start)
        train(model, source, target, args, stage)
        beside = args.out / f".stage{stage}.pt"
        torch.save(model.state_dict(), beside)
        beside.replace(args.out / f"stage{stage}.pt")
        iou = evaluate(model, validation, args)
        scores[f"stage {stage}"] = iou.mean
        per_class = ", ".join(
            f"{name} {100 * value:.1f}"
            for name, value in zip(SPACE.names, iou.per_class.tolist(), strict=True)
            if not math.isnan(value)  # neither in the ground truth nor predicted
        )
        print(f"stage {stage}: mIoU {100 * iou.mean:.1f} ({per_class})")
    return scores


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder with GTA5's layout")
    parser.add_argument("--target", type=Path, required=True, help="folder with Cityscapes' layout")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--height", type=int, default=120)
    parser.add_argument("--width", type=int, default=240)
    parser.add_argument("--steps", type=int, default=1300, help="of each stage")
    parser.add_argument("--batch-size", type=int, default=4, help="images of each domain in a step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--preset", choices=("code", "paper"), default="code", help="of StuffInstanceMatching")
    parser.add_argument("--capacity", type=int, default=20, help="bank rows per stuff class")
    parser.add_argument("--matching-weight", type=float, default=0.01)
    parser.add_argument("--matching-weight-stage2", type=float, default=0.001)
    parser.add_argument("--style-transfer", action=argparse.BooleanOptionalAction, default=True, help="LAB colors")
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


if __name__ == "__main__":
    escape_unprintable()  # class names that the terminal's encoding lacks
    main()
