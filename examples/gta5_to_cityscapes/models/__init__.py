"""Segmentation networks with one interface: features for matching, logits for everything else."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from .deeplab_v2 import deeplab_v2_resnet, deeplab_v2_vgg16
from .efficientnet_lite import as_efficientnet_weights, efficientnet_lite, imagenet_file
from .network import NetworkOutput, SegmentationNetwork
from .segformer import as_encoder_weights, segformer
from .small import small_network
from .timm_encoder import as_timm_weights, timm_network
from .vit import as_vit_weights, read_config, vit
from .weights import FoundWeights, WeightsError, WeightsReport, load_weights, read_weights

__all__ = [
    "IMAGENET",
    "NetworkName",
    "NetworkOutput",
    "SegmentationNetwork",
    "WeightsError",
    "WeightsReport",
    "build_network",
    "network_options",
    "read_config",
    "weights_file",
]

NetworkName = Literal[
    "deeplabv2_resnet101", "deeplabv2_vgg16", "small", "segformer", "efficientnet_lite", "vit", "timm"
]

_BUILDERS: Mapping[str, Callable[..., SegmentationNetwork]] = {
    "deeplabv2_resnet101": deeplab_v2_resnet,
    "deeplabv2_vgg16": deeplab_v2_vgg16,
    "small": small_network,
    "segformer": segformer,
    "efficientnet_lite": efficientnet_lite,
    "vit": vit,
    "timm": timm_network,
}
# Published encoders whose tensors go by other names than here.
_RENAMING: Mapping[str, Callable[[FoundWeights, SegmentationNetwork], FoundWeights]] = {
    "segformer": as_encoder_weights,
    "efficientnet_lite": as_efficientnet_weights,
    "vit": as_vit_weights,
    "timm": as_timm_weights,
}

IMAGENET = "imagenet"  # in place of a file: the weights that come as a package


def network_options(name: NetworkName) -> tuple[str, ...]:
    """The options of :func:`build_network` for that network."""
    parameters = inspect.signature(_BUILDERS[name]).parameters.values()
    return (*(each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY), "resolutions")


def weights_file(weights: str | Path, name: str, options: Mapping[str, Any]) -> Path:
    """The file that ``weights`` means for a network with these options.

    A file is itself; of a folder as ``transformers`` writes them it is the one with the weights; the word
    ``"imagenet"`` is the file of an installed package.

    Raises:
        WeightsError: If there is no package of ImageNet weights for this network.
        ModuleNotFoundError: If there is one, and it is not installed.
    """
    if str(weights) == IMAGENET:
        if name != "efficientnet_lite":
            raise WeightsError(
                f"network.weights={IMAGENET} is for the network efficientnet_lite, got {name}; give a file of weights."
            )
        return imagenet_file(options.get("variant", 0))
    path = Path(weights)
    files = (path / each for each in ("model.safetensors", "pytorch_model.bin"))
    return next((each for each in files if each.is_file()), path)


def build_network(
    name: NetworkName, num_classes: int, *, weights: str | Path | None = None, resolutions: int = 1, **options: Any
) -> SegmentationNetwork:
    """Build a network and load its weights.

    Args:
        name: Which network.
        num_classes: Channels K of the logits.
        weights: A ``.pth`` or ``.safetensors`` file: Caffe-style DeepLab, torchvision, or a checkpoint of
            this trainer; for ``"segformer"`` and ``"vit"`` a file or a folder of the package ``transformers``; for
            ``"timm"`` a file that timm wrote; for
            ``"efficientnet_lite"`` also the word ``"imagenet"``. Nothing is ever downloaded. The report is kept as
            ``network.weights_report``.
        resolutions: 1, or 2 for a network that sees images at half their size and parts of them in full (HRDA).
        **options: Passed to the builder. ``style`` of the full-size networks follows from ``weights`` unless
            given; give it for Caffe-trained VGG16 weights, whose names are those of torchvision.

    Raises:
        WeightsError: If the file cannot be read safely or does not fit the backbone.
    """
    if name not in _BUILDERS:
        raise ValueError(f"name must be one of {sorted(_BUILDERS)}, got {name!r}.")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
    if type(resolutions) is not int or resolutions not in (1, 2):
        raise ValueError(f"resolutions must be 1 or 2, got {resolutions!r}.")
    found = None if weights is None else read_weights(weights_file(weights, name, options))
    if found is not None and name in ("deeplabv2_resnet101", "deeplabv2_vgg16"):
        options.setdefault("style", found.style)
    network = _BUILDERS[name](num_classes, **options)
    if resolutions == 2:
        network.see_two_resolutions()
    if found is not None and name in _RENAMING:
        found = _RENAMING[name](found, network)
    if found is not None:
        network.weights_report = load_weights(network, found)
    return network
