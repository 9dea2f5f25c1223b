"""The matching step of one training iteration, beside the reference implementation, its floor and the network's step.

A step is ``update`` with the source's features and labels, then both losses of the target and their gradient with
respect to the target's features. Sizes are the published ones: source 720x1280 and target 512x1024, features at an
eighth of that (90x160 and 64x128), D = 2048, 19 classes, banks full of rows and past their warm-up.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import stuffinstance as si
from benchmarks.label_maps import city_labels
from benchmarks.measurement import Floor, Measurement, Settings, WrongResult
from benchmarks.reference_implementation import ReferenceImplementation
from benchmarks.timing import Timing, peak_memory, time_in_turn
from examples.gta5_to_cityscapes.models.deeplab_v2 import deeplab_v2_resnet
from examples.gta5_to_cityscapes.models.efficientnet_lite import efficientnet_lite
from examples.gta5_to_cityscapes.models.network import SegmentationNetwork
from stuffinstance.label_maps import resize_labels
from stuffinstance.losses import distances
from stuffinstance.pooling.backends import BACKENDS as POOLING
from stuffinstance.regions.backends import BACKENDS as COMPONENTS

PUBLISHED = ((720, 1280), (512, 1024), 2048)
NETWORK_STEP = "DeepLabV2 ResNet-101"
NETWORKS: Mapping[str, tuple[Callable[..., SegmentationNetwork], int]] = {
    "EfficientNet-Lite 0": (efficientnet_lite, 128),
    NETWORK_STEP: (deeplab_v2_resnet, 2048),
}
"""Networks of the example pipeline and the D of their features."""
REFERENCE = "reference implementation"
OURS = "stuffinstance"
PLAIN = f"{OURS}, without the extra fast"

# What torch's profiler calls the launch of a kernel, by whichever interface it was launched.
_LAUNCHES = {"cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch"}
# Operators that hand a value of a tensor to Python or size a tensor by values: on a GPU each waits for the device.
_READS = {"aten::_local_scalar_dense", "aten::nonzero"}


class StepInputs(NamedTuple):
    """What one step gets: features (B, D, h, w), source labels (B, H, W), logits (B, K, h, w)."""

    source_features: Tensor
    source_labels: Tensor
    source_logits: Tensor
    target_features: Tensor
    target_logits: Tensor


def run(settings: Settings) -> list[Measurement]:
    """Time the step; first make sure that the reference implementation computes the same.

    Raises:
        WrongResult: If losses, gradients or banks of the two differ by more than 1e-5.
    """
    source, target, feature_dim = ((144, 256), (128, 256), 16) if settings.quick else PUBLISHED
    case = case_of(source, target, feature_dim)
    inputs = city_inputs(source, target, feature_dim, settings.device)
    sim = warm_matching(si.CITYSCAPES, feature_dim, settings.device)
    released = ReferenceImplementation.with_banks_of(sim)
    check_same_step(sim, released, inputs)

    def ours() -> Tensor:
        return matching_step(sim, inputs)

    def theirs() -> Tensor:
        return matching_step(released, inputs)

    def update() -> None:
        sim.update(inputs.source_features, inputs.source_labels, inputs.source_logits)

    @torch.no_grad()
    def losses() -> si.MatchingLosses:
        result: si.MatchingLosses = sim(inputs.target_features, inputs.target_logits)
        return result

    predicted, fixed = inputs.target_logits.argmax(1), inputs.target_features.detach()
    things = si.instance_regions(predicted, sim.space.things, sim.instance_bank.max_instances)
    descriptors = si.region_mean(fixed, things)

    def match_things() -> Tensor:
        return sim.instance_loss._of_rows(descriptors, things.valid)

    @torch.no_grad()
    def bound() -> tuple[Tensor, Tensor, Tensor]:
        target = inputs.target_features
        return inputs.source_features.sum(), target.sum(), torch.full_like(target, 1.0)

    ways: dict[str, Callable[[], object]] = {
        OURS: ours,
        f"{OURS}, update alone": update,
        f"{OURS}, losses without gradient": losses,
        f"{OURS}, matching of things alone": match_things,
        REFERENCE: theirs,
        "floor": bound,
    }
    timings = time_in_turn(ways, settings)
    moved = inputs.source_features.nbytes + 2 * inputs.target_features.nbytes
    floor = Floor("read both feature maps once, write the gradient once", timings.pop("floor").median_ms, bytes=moved)
    extra = {name: memory_and_launches(ways[name], settings.device) for name in (OURS, REFERENCE)}
    extra[OURS] |= content(inputs)
    measurements = [
        Measurement("step", case, way, timing, floor if way in (OURS, REFERENCE) else None, extra.get(way, {}))
        for way, timing in timings.items()
    ]
    measurements.append(Measurement("step", case, NETWORK_STEP, network_step(source, target, settings)))
    return measurements if settings.device.type == "cuda" else [*measurements, *shares(settings)]


def shares(settings: Settings) -> list[Measurement]:
    """Matching beside the training step of two networks, images of 512x1024, with and without the extra ``fast``."""
    size = (64, 128) if settings.quick else (512, 1024)
    measurements = []
    for name, (make, feature_dim) in NETWORKS.items():
        feature_dim = 16 if settings.quick else feature_dim
        inputs = city_inputs(size, size, feature_dim, settings.device)
        sim = warm_matching(si.CITYSCAPES, feature_dim, settings.device)
        ways = {OURS: partial(matching_step, sim, inputs), PLAIN: partial(_plain_step, sim, inputs)}
        timings = time_in_turn(ways, settings)
        network = network_step(size, size, settings, make)
        case = f"{name}, {case_of(size, size, feature_dim)}"
        measurements.append(Measurement("step", case, name, network))
        for way, timing in timings.items():
            percent = 100 * timing.median_ms / (timing.median_ms + network.median_ms)
            extra: dict[str, float | int | str] = {"percent_of_a_training_step": round(percent, 3)}
            measurements.append(Measurement("step", case, way, timing, None, extra))
    return measurements


def _plain_step(sim: si.StuffInstanceMatching, inputs: StepInputs) -> Tensor:
    with without_extra():
        return matching_step(sim, inputs)


@contextmanager
def without_extra() -> Iterator[None]:
    """Within the block numba compiles nothing, as where the extra ``fast`` is not installed."""
    compiled = [table["numba"] for table in (COMPONENTS, POOLING)] + [distances._COMPILED]
    before = [backend.installed for backend in compiled]
    try:
        for backend in compiled:
            object.__setattr__(backend, "installed", False)
        yield
    finally:
        for backend, installed in zip(compiled, before, strict=True):
            object.__setattr__(backend, "installed", installed)


def case_of(source: tuple[int, int], target: tuple[int, int], feature_dim: int) -> str:
    """The case's name.

    >>> case_of(*PUBLISHED)
    'city, source 720x1280, target 512x1024, D=2048'
    """
    return f"city, source {source[0]}x{source[1]}, target {target[0]}x{target[1]}, D={feature_dim}"


def city_inputs(
    source: tuple[int, int], target: tuple[int, int], feature_dim: int, device: torch.device, batch: int = 1
) -> StepInputs:
    """City scenes as labels and as logits that are mostly right; features are random and not negative, as after ReLU.

    Args:
        source, target: (H, W) of the images; features have an eighth of that.
        feature_dim: D.
        device: Where the tensors are made.
        batch: B, every image another scene.
    """
    source_labels = city_labels(batch, *source).to(device)
    target_labels = city_labels(batch + 1, *target)[1:].to(device)  # other streets
    small_source, small_target = ((size[0] // 8, size[1] // 8) for size in (source, target))
    generator = torch.Generator(device).manual_seed(0)

    def features(size: tuple[int, int]) -> Tensor:
        return torch.randn(batch, feature_dim, *size, device=device, generator=generator).relu_()

    return StepInputs(
        features(small_source),
        source_labels,
        mostly_right_logits(resize_labels(source_labels, small_source), generator),
        features(small_target).requires_grad_(),
        mostly_right_logits(resize_labels(target_labels, small_target), generator),
    )


def mostly_right_logits(labels: Tensor, generator: torch.Generator, classes: int = 19) -> Tensor:
    """Logits (B, K, h, w) whose argmax is ``labels`` (B, h, w) but for patches and single pixels, as of a network.

    Ignored pixels are decided by the noise alone.
    """
    batch, height, width = labels.shape
    device = labels.device
    right = F.one_hot(labels.clamp(0, classes - 1).to(torch.int64), classes) * (labels < classes)[..., None]
    coarse = torch.randn(batch, classes, -(-height // 8), -(-width // 8), device=device, generator=generator)
    patches = F.interpolate(coarse, (height, width), mode="bilinear")
    pixels = torch.randn(batch, classes, height, width, device=device, generator=generator)
    return 3.5 * right.permute(0, 3, 1, 2) + patches + 0.3 * pixels


def warm_matching(
    space: si.LabelSpace, feature_dim: int, device: torch.device, capacity: int = 50
) -> si.StuffInstanceMatching:
    """The module with full banks, every class past its warm-up and at another slot."""
    sim = si.StuffInstanceMatching(space, feature_dim, capacity=capacity).to(device)
    generator = torch.Generator(device).manual_seed(1)
    for bank in (sim.stuff_bank, sim.instance_bank):
        bank.features.normal_(0.4, 0.1, generator=generator)
        bank.written.copy_(bank.capacity + 1 + torch.arange(len(bank.classes), device=device))
    return sim


def matching_step(way: si.StuffInstanceMatching | ReferenceImplementation, inputs: StepInputs) -> Tensor:
    """One step; the gradient of both losses with respect to the target's features."""
    way.update(inputs.source_features, inputs.source_labels, inputs.source_logits)
    losses = way(inputs.target_features, inputs.target_logits)
    (gradient,) = torch.autograd.grad(losses.stuff + losses.instance, inputs.target_features)
    return gradient


def check_same_step(sim: si.StuffInstanceMatching, released: ReferenceImplementation, inputs: StepInputs) -> None:
    """Take one step with each, from equal banks; losses, gradients and banks must agree to 1e-5.

    Raises:
        WrongResult: If they do not, or if a loss is zero: then nothing was matched, and nothing is compared.
    """
    found: dict[str, list[Tensor]] = {}
    for way in (sim, released):
        way.update(inputs.source_features, inputs.source_labels, inputs.source_logits)
        losses = way(inputs.target_features, inputs.target_logits)
        stuff, instance = (float(loss.detach()) for loss in losses)
        if not (stuff > 0 and instance > 0):
            raise WrongResult(f"the losses are {stuff:.3g} and {instance:.3g}: no comparison.")
        (gradient,) = torch.autograd.grad(losses.stuff + losses.instance, inputs.target_features)
        for name, value in (("stuff loss", losses.stuff), ("instance loss", losses.instance), ("gradient", gradient)):
            found.setdefault(name, []).append(value.detach())
    found["stuff bank"] = [sim.stuff_bank.features, torch.stack(list(released.stuff_rows.values()))]
    found["instance bank"] = [sim.instance_bank.features, torch.stack(list(released.instance_rows.values()))]
    for name, (ours, theirs) in found.items():
        scale, error = float(theirs.abs().max()), float((ours - theirs).abs().max())
        if not error <= 1e-5 * scale:
            raise WrongResult(
                f"{name}: the library differs from the reference implementation by {error:.3g}, largest {scale:.3g}."
            )


def content(inputs: StepInputs) -> dict[str, float | int | str]:
    """What is in the images: how many regions are pooled, and which share of the source is right."""
    known = resize_labels(inputs.source_labels, (inputs.source_logits.shape[2], inputs.source_logits.shape[3]))
    known_pixels = int((known != si.CITYSCAPES.ignore_index).sum())
    labels = si.correct_labels(inputs.source_labels, inputs.source_logits)
    predicted = inputs.target_logits.argmax(1)
    counts: dict[str, float | int | str] = {}
    for domain, ids in (("source", labels), ("target", predicted)):
        stuff, things = si.stuff_regions(ids, si.CITYSCAPES.stuff), si.instance_regions(ids, si.CITYSCAPES.things)
        counts[f"{domain}_regions"] = int(stuff.valid.sum() + things.valid.sum())
    counts["source_pixels_right"] = round(int((labels != si.CITYSCAPES.ignore_index).sum()) / known_pixels, 3)
    return counts


def memory_and_launches(call: Callable[[], object], device: torch.device) -> dict[str, float | int | str]:
    """Peak memory of a call, how often it reads a value back, and on a GPU how many kernels it launches.

    Counted by the profiler, which also sees inside custom operators and the backward pass. On a GPU a read is a copy
    to the host; on a CPU, where reading is free and nothing is copied, an operator that would be one.
    """
    peak = peak_memory(call, device)
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as record:
        call()
        if cuda:
            torch.cuda.synchronize(device)
    names = Counter(event.name for event in record.events())
    if not cuda:
        return {"peak_mib": peak, "value_reads": sum(names[name] for name in _READS)}
    reads = sum(count for name, count in names.items() if name.startswith("Memcpy DtoH"))
    return {"peak_mib": peak, "host_reads": reads, "launches": sum(names[name] for name in _LAUNCHES)}


def network_step(
    source: tuple[int, int],
    target: tuple[int, int],
    settings: Settings,
    make: Callable[..., SegmentationNetwork] = deeplab_v2_resnet,
) -> Timing:
    """Forward and backward of a network for one source and one target image, random weights.

    Cross-entropy on logits upsampled to the image, as in the source's loss and that of pseudo-labels; no optimizer.
    DeepLabV2 on ResNet-101 takes most of a minute on a CPU; there a network is run once.
    """
    tiny = settings.quick and make is deeplab_v2_resnet
    smaller: dict[str, Any] = {"blocks": (1, 1, 1, 1), "width": 8} if tiny else {}
    network = make(19, **smaller).to(settings.device)
    images = [torch.rand(1, 3, *size, device=settings.device) for size in (source, target)]
    labels = [torch.randint(0, 19, (1, *size), device=settings.device) for size in (source, target)]

    def step() -> None:
        network.zero_grad(set_to_none=True)
        for image, ground_truth in zip(images, labels, strict=True):
            logits = network(image).logits
            upsampled = F.interpolate(logits, ground_truth.shape[1:], mode="bilinear", align_corners=True)
            F.cross_entropy(upsampled, ground_truth).backward()  # type: ignore[no-untyped-call]

    if settings.device.type == "cuda" or settings.quick:
        return time_in_turn({NETWORK_STEP: step}, settings)[NETWORK_STEP]
    started = time.perf_counter()
    step()
    milliseconds = (time.perf_counter() - started) * 1e3
    return Timing(milliseconds, milliseconds, milliseconds, 1)
