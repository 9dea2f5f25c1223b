"""SegFormer: a hierarchical transformer and its all-MLP decoder (Xie et al., NeurIPS 2021).

Its features are the decoder's fused map, one linear layer before the classes: (B, D, H/4, W/4), all stages in it. The
transformer is that of the package ``transformers``, built from a configuration; nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import DilatedHead, SegmentationNetwork
from .small import Norm, normalize
from .weights import FoundWeights, WeightsError

SMALLEST_SIDE = 32  # the first stage's keys are taken from 8×8 of its cells, 4 pixels each
_FILES = ("model.safetensors", "pytorch_model.bin")


class AllMlpFusion(nn.Module):
    """The decoder up to its last layer: each stage linearly to D, upsampled, put side by side, linearly to D.

    Eq. 4 of the paper, with the normalization and ReLU of its code after the second linear layer, and without its last
    line, the classifier, which is the network's head. The code's dropout between the two is omitted: rows of features
    must give the logits of their pixels.
    """

    def __init__(self, channels: Sequence[int], fused_dim: int, norm: Norm) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(each, fused_dim, 1) for each in channels)
        self.fuse = nn.Conv2d(len(channels) * fused_dim, fused_dim, 1, bias=False)
        self.norm = normalize(fused_dim, norm)
        nn.init.kaiming_normal_(self.fuse.weight, nonlinearity="relu")

    def forward(self, stages: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Stages (B, C_i, h_i, w_i) to (B, D, h, w) of the given size."""
        pairs = zip(self.projections, stages, strict=True)
        maps = [F.interpolate(project(stage), size, mode="bilinear", align_corners=False) for project, stage in pairs]
        fused: Tensor = F.relu(self.norm(self.fuse(torch.cat(maps, 1))))
        return fused


class SegformerBackbone(nn.Module):
    """The transformer and the fusion of its four stages, at the size of one of the first two."""

    def __init__(self, encoder: nn.Module, fusion: AllMlpFusion, stride: Literal[4, 8]) -> None:
        super().__init__()
        self.encoder = encoder
        self.fusion = fusion
        self.size_of_stage = {4: 0, 8: 1}[stride]

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < SMALLEST_SIDE:
            raise ValueError(
                f"images must be at least {SMALLEST_SIDE} by {SMALLEST_SIDE} pixels for a SegFormer, got "
                f"{tuple(x.shape)}."
            )
        stages = self.encoder(x, output_hidden_states=True).hidden_states
        height, width = stages[self.size_of_stage].shape[2:]
        fused: Tensor = self.fusion(stages, (height, width))
        return fused


class SegformerNetwork(SegmentationNetwork):
    """A SegFormer, whose fusion starts from random weights and trains as fast as the head."""

    def parameter_groups(self, lr: float, head_lr_mult: float = 10.0) -> list[dict[str, Any]]:
        """Transformer at ``lr``, fusion and head at ``head_lr_mult`` times that."""
        fresh = [*self.backbone.fusion.parameters(), *self.head.parameters()]
        return [
            {"params": [p for p in self.backbone.encoder.parameters() if p.requires_grad], "lr": lr},
            {"params": [p for p in fresh if p.requires_grad], "lr": head_lr_mult * lr},
        ]


def segformer(
    num_classes: int,
    *,
    depths: Sequence[int] = (2, 2, 2, 2),
    hidden_sizes: Sequence[int] = (32, 64, 160, 256),
    heads: Sequence[int] = (1, 2, 5, 8),
    fused_dim: int = 256,
    stride: Literal[4, 8] = 4,
    norm: Norm = "batch",
    drop_path: float = 0.1,
) -> SegmentationNetwork:
    """SegFormer, by default with the sizes of MiT-B0; needs the package ``transformers``.

    The larger ones are ``hidden_sizes=(64, 128, 320, 512)`` with ``depths`` (2, 2, 2, 2) for B1, (3, 4, 6, 3) for B2,
    (3, 4, 18, 3) for B3, (3, 8, 27, 3) for B4 and (3, 6, 40, 3) for B5, and ``fused_dim=768`` from B2 on. They are
    trained with AdamW at a rate of 6e-5, ten times that for decoder and head.

    Args:
        num_classes: Channels K of the logits.
        depths: Layers of the four stages.
        hidden_sizes: Channels of the four stages.
        heads: Attention heads of the four stages; each divides its channels.
        fused_dim: Channels D of the features.
        stride: Of the features: 4 as published, or 8 for a quarter of the cells to match.
        norm: Of the fusion: ``"batch"`` as published, or ``"group"``.
        drop_path: Probability with which a layer's branch is dropped in training, rising to this over the depth.

    Raises:
        ModuleNotFoundError: If ``transformers`` is not installed.
        ValueError: If the sizes do not fit each other.
    """
    for name, sizes in (("depths", depths), ("hidden_sizes", hidden_sizes), ("heads", heads)):
        if len(sizes) != 4 or min(sizes) < 1:
            raise ValueError(f"{name} must be four numbers of at least 1, got {list(sizes)}.")
    if any(size % count for size, count in zip(hidden_sizes, heads, strict=True)):
        raise ValueError(f"hidden_sizes must be multiples of heads {list(heads)}, got {list(hidden_sizes)}.")
    if stride not in (4, 8):
        raise ValueError(f"stride must be 4 or 8, got {stride!r}.")
    configuration, model = _transformers_parts()
    encoder = model(
        configuration(
            depths=tuple(depths),
            hidden_sizes=tuple(hidden_sizes),
            num_attention_heads=tuple(heads),
            drop_path_rate=drop_path,
        )
    )
    backbone = SegformerBackbone(encoder, AllMlpFusion(hidden_sizes, fused_dim, norm), stride)
    head = DilatedHead(fused_dim, num_classes, dilations=(0,))
    return SegformerNetwork(
        backbone, head, feature_dim=fused_dim, num_classes=num_classes, stride=stride, style="torchvision"
    )


def weights_file(path: Path) -> Path:
    """The file of weights in a folder as the package ``transformers`` writes them; a file is itself."""
    return next((path / name for name in _FILES if (path / name).is_file()), path)


def as_encoder_weights(found: FoundWeights, network: SegmentationNetwork) -> FoundWeights:
    """Weights of a published encoder under the names of this network's; a checkpoint of this trainer stays as it is.

    Published files name their tensors as older releases of ``transformers`` did. The installed release knows how to
    read them, so it does the renaming.

    Raises:
        WeightsError: If no tensor is a SegFormer encoder's, or one is missing or of another shape.
    """
    if found.origin == "checkpoint":
        return found
    plain = {name.removeprefix("backbone.").removeprefix("segformer."): value for name, value in found.tensors.items()}
    tensors = {name: value for name, value in plain.items() if name.startswith(("encoder.", "stages."))}
    if not tensors:
        raise WeightsError(
            f"{found.path}: expected weights of a SegFormer encoder (MiT), found none among {list(plain)[:3]}. "
            "Choose the network these weights belong to, or other weights."
        )
    encoder = network.backbone.encoder
    loaded, faults = _read_by_transformers(type(encoder), encoder.config, tensors)
    if faults:
        raise WeightsError(
            f"{found.path}: expected an encoder of depths {list(encoder.config.depths)} and hidden_sizes "
            f"{list(encoder.config.hidden_sizes)}; {len(faults)} tensors differ, first: {'; '.join(faults[:3])}. "
            "Set network.options.depths, .hidden_sizes and .heads to those of the weights."
        )
    left_aside = {name: "a head that this network does not have" for name in plain if name not in tensors}
    renamed = {f"backbone.encoder.{name}": value for name, value in loaded.items()}
    return FoundWeights(found.path, "transformers", "torchvision", renamed, found.ignored | left_aside)


def _read_by_transformers(
    model: Any, configuration: Any, tensors: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """State of a model made from ``tensors``, and what did not fit."""
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # what it would print in a table is an error below
    transformers_logging.disable_progress_bar()
    try:
        read, info = model.from_pretrained(
            None, config=configuration, state_dict=tensors, output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
    faults = [f"{name} is missing" for name in sorted(info["missing_keys"])]
    faults += [
        f"{name} is {tuple(there)} in the file, {tuple(here)} in the network"
        for name, there, here in sorted(info["mismatched_keys"])
    ]
    faults += [f"{name} is unknown" for name in sorted(info["unexpected_keys"])]
    return {name: value.float() for name, value in read.state_dict().items()}, faults


def _transformers_parts() -> tuple[Any, Any]:
    try:
        from transformers import SegformerConfig, SegformerModel  # an optional package, slow to import
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the network segformer needs the package transformers: pip install -e '.[examples,transformers]'",
            name="transformers",
        ) from error
    return SegformerConfig, SegformerModel
