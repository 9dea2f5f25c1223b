"""Stand-ins for MMEngine's ``Runner`` and MMSegmentation's ``EncoderDecoder``: the interface that a hook meets.

They are no tests of those packages. Names and the order of calls are those that the packages document: ``before_run``,
then loading, then ``train_step`` per batch, in which the model's ``loss`` is called and what it names a loss is summed.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Hook:
    """Does nothing at every point."""

    def before_run(self, runner: Runner) -> None: ...


class Runner:
    """Trains for ``max_iters`` batches, and saves the model at the end."""

    def __init__(self, model: nn.Module, work_dir: str, train_dataloader: Any, train_cfg: Any, **words: Any) -> None:
        self.model, self.folder, self.loader, self.steps = (
            model,
            Path(work_dir),
            train_dataloader,
            train_cfg["max_iters"],
        )
        self.hooks = words.get("custom_hooks", [])
        self.load_from, self.lr = words.get("load_from"), words["optim_wrapper"]["optimizer"]["lr"]

    def train(self) -> None:
        optimiser = torch.optim.AdamW(self.model.parameters(), lr=self.lr)
        for hook in self.hooks:
            hook.before_run(self)
        if self.load_from is not None:
            self.model.load_state_dict(torch.load(self.load_from, weights_only=True)["state_dict"])
        batches = iter(self.loader)
        for _ in range(self.steps):
            data = self.model.data_preprocessor(next(batches), training=True)
            losses = self.model(**data, mode="loss")
            loss = sum(value for name, value in losses.items() if "loss" in name)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        torch.save({"state_dict": self.model.state_dict()}, self.folder / f"iter_{self.steps}.pth")


class DecodeHead(nn.Module):
    """Features, dropout, ``conv_seg``."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.channels = channels
        self.convs = nn.Sequential(nn.Conv2d(8, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.conv_seg(self.dropout(self.convs(features)))
        return logits

    def _stack_batch_gt(self, data_samples: list[Any]) -> Tensor:
        return torch.stack([sample.gt_sem_seg.data for sample in data_samples])


class EncoderDecoder(nn.Module):
    """Backbone and head behind ``forward(inputs, data_samples, mode)``."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
        self.decode_head = DecodeHead(8, num_classes)

    def data_preprocessor(self, data: Any, training: bool) -> dict[str, Any]:
        return {**data, "inputs": torch.stack(data["inputs"])}

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        return self.loss(inputs, data_samples) if mode == "loss" else self.decode_head(self.backbone(inputs))

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        labels = self.decode_head._stack_batch_gt(data_samples)[:, 0]
        logits = F.interpolate(self.decode_head(self.backbone(inputs)), labels.shape[1:], mode="bilinear")
        return {"decode.loss_ce": F.cross_entropy(logits, labels, ignore_index=255)}


def sample_of(labels: Tensor | None) -> SimpleNamespace:
    """The labels of a picture (H, W) as a data sample."""
    return SimpleNamespace() if labels is None else SimpleNamespace(gt_sem_seg=SimpleNamespace(data=labels[None]))
