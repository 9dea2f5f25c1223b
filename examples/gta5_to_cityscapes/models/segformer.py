"""SegFormer: a hierarchical transformer and its all-MLP decoder (Xie et al., NeurIPS 2021).

The transformer is that of the package ``transformers``, built from a configuration; nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .all_mlp import AllMlpFusion, FusedBackbone, FusedNetwork, Stride
from .network import DilatedHead, SegmentationNetwork
from .small import Norm
from .transformers_weights import of_transformers, read_by_transformers
from .weights import FoundWeights, WeightsError, encoder_tensors

SMALLEST_SIDE = 32  # the first stage's keys are taken from 8×8 of its cells, 4 pixels each


class SegformerBackbone(FusedBackbone):
    """The transformer and the fusion of its four stages."""

    def stages(self, x: Tensor) -> Sequence[Tensor]:
        if min(x.shape[2:]) < SMALLEST_SIDE:
            raise ValueError(
                f"images must be at least {SMALLEST_SIDE} by {SMALLEST_SIDE} pixels for a SegFormer, got "
                f"{tuple(x.shape)}."
            )
        stages: Sequence[Tensor] = self.encoder(x, output_hidden_states=True).hidden_states
        return stages


def segformer(
    num_classes: int,
    *,
    depths: Sequence[int] = (2, 2, 2, 2),
    hidden_sizes: Sequence[int] = (32, 64, 160, 256),
    heads: Sequence[int] = (1, 2, 5, 8),
    fused_dim: int = 256,
    stride: Stride = 4,
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
    package = of_transformers("segformer")
    encoder = package.SegformerModel(
        package.SegformerConfig(
            depths=tuple(depths),
            hidden_sizes=tuple(hidden_sizes),
            num_attention_heads=tuple(heads),
            drop_path_rate=drop_path,
        )
    )
    backbone = SegformerBackbone(encoder, AllMlpFusion(hidden_sizes, fused_dim, norm), hidden_sizes, stride)
    head = DilatedHead(fused_dim, num_classes, dilations=(0,))
    return FusedNetwork(
        backbone, head, feature_dim=fused_dim, num_classes=num_classes, stride=stride, style="torchvision"
    )


def as_encoder_weights(found: FoundWeights, network: SegmentationNetwork) -> FoundWeights:
    """Weights of a published encoder under the names of this network's; a checkpoint of this trainer stays as it is.

    Published files name their tensors as older releases of ``transformers`` did. The installed release knows how to
    read them, so it does the renaming.

    Raises:
        WeightsError: If no tensor is a SegFormer encoder's, or one is missing or of another shape.
    """
    if found.origin == "checkpoint":
        return found
    tensors, skipped = encoder_tensors(found, ("encoder.", "stages."), "a SegFormer encoder (MiT)")
    encoder = network.backbone.encoder
    loaded, faults, unknown = read_by_transformers(type(encoder), encoder.config, tensors)
    faults += [f"{name} is unknown" for name in unknown]
    if faults:
        raise WeightsError(
            f"{found.path}: expected an encoder of depths {list(encoder.config.depths)} and hidden_sizes "
            f"{list(encoder.config.hidden_sizes)}; {len(faults)} tensors differ, first: {'; '.join(faults[:3])}. "
            "Set network.options.depths, .hidden_sizes and .heads to those of the weights."
        )
    renamed = {f"backbone.encoder.{name}": value for name, value in loaded.items()}
    return FoundWeights(found.path, "transformers", "torchvision", renamed, skipped)
