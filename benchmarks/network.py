"""A training step of DeepLabV2 on ResNet-101, in float32 and bfloat16, without and with matching.

One source and one target image of the published sizes, cross-entropy on upsampled logits, no optimizer. Matching pools
the network's own features; what is where is that of a street, since a network with random weights would give noise.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

import stuffinstance as si
from benchmarks.measurement import Measurement, Settings
from benchmarks.step import NETWORK_STEP, OURS, PUBLISHED, case_of, city_inputs, warm_matching
from benchmarks.timing import peak_memory, time_in_turn
from examples.gta5_to_cityscapes.models.deeplab_v2 import deeplab_v2_resnet
from stuffinstance._backends import Backend
from stuffinstance.pooling.backends import BACKENDS as POOLING
from stuffinstance.regions.backends import BACKENDS as COMPONENTS

_TABLES: tuple[dict[str, Backend], ...] = (COMPONENTS, POOLING)


def run(settings: Settings) -> list[Measurement]:
    """Time the four steps, and a step of matching alone by each backend of a GPU."""
    source, target, feature_dim = ((32, 64), (32, 48), 128) if settings.quick else PUBLISHED
    case = case_of(source, target, feature_dim)
    if settings.device.type == "cpu" and not settings.quick:
        return [Measurement("network", case, NETWORK_STEP, None, None, {"note": "no card: skipped"})]
    smaller: dict[str, Any] = {"blocks": (1, 1, 1, 1), "width": 4} if settings.quick else {}
    network = deeplab_v2_resnet(19, **smaller).to(settings.device)
    inputs = city_inputs(source, target, feature_dim, settings.device)
    sim = warm_matching(si.CITYSCAPES, feature_dim, settings.device)
    images = [torch.rand(1, 3, *size, device=settings.device) for size in (source, target)]
    pseudo_labels = F.interpolate(inputs.target_logits, target, mode="bilinear").argmax(1)

    def one(image: torch.Tensor, labels: torch.Tensor, precision: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(settings.device.type, precision, enabled=precision != torch.float32):
            seen = network(image)
            upsampled = F.interpolate(seen.logits, labels.shape[1:], mode="bilinear", align_corners=True)
            loss = F.cross_entropy(upsampled.float(), labels.to(torch.int64), ignore_index=255)
        return seen.features, loss

    def step(precision: torch.dtype, matching: bool) -> None:
        network.zero_grad(set_to_none=True)
        features, loss = one(images[0], inputs.source_labels, precision)
        if matching:
            sim.update(features.detach(), inputs.source_labels, inputs.source_logits)
        loss.backward()  # type: ignore[no-untyped-call]
        features, loss = one(images[1], pseudo_labels, precision)
        if matching:
            losses = sim(features, inputs.target_logits)
            loss = loss + losses.stuff + losses.instance
        loss.backward()

    ways: dict[str, Callable[[], object]] = {
        f"{NETWORK_STEP}, {name}{', matching' if matching else ''}": partial(step, precision, matching)
        for name, precision in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
        for matching in (False, True)
    }

    def matching_alone(backend: str) -> None:
        features = inputs.target_features
        with preferring(backend):
            sim.update(inputs.source_features, inputs.source_labels, inputs.source_logits)
            losses = sim(features, inputs.target_logits)
        torch.autograd.grad(losses.stuff + losses.instance, features)

    if settings.device.type == "cuda" or settings.interpreted:
        ways |= {f"{OURS} {backend}": partial(matching_alone, backend) for backend in ("torch", "triton")}
    timings = time_in_turn(ways, settings)
    return [
        Measurement("network", case, way, timing, None, {"peak_mib": round(peak_memory(ways[way], settings.device), 1)})
        for way, timing in timings.items()
    ]


@contextmanager
def preferring(backend: str) -> Iterator[None]:
    """Let ``backend="auto"`` take this one within the block, wherever labels and features are."""
    before: list[Mapping[str, Backend]] = [dict(table) for table in _TABLES]
    try:
        for table, listed in zip(_TABLES, before, strict=True):
            table.clear()
            table[backend] = replace(listed[backend], devices=None)
        yield
    finally:
        for table, listed in zip(_TABLES, before, strict=True):
            table.clear()
            table.update(listed)
