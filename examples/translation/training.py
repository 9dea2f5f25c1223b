"""Training a translation: a folder of its own, which a later call with the same settings goes on in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from examples.gta5_to_cityscapes.atomic_io import read_json, write_json
from examples.gta5_to_cityscapes.checkpoint import CheckpointError, KeptCheckpoints, load_checkpoint
from examples.gta5_to_cityscapes.data import SegmentationDataset
from examples.gta5_to_cityscapes.data.training_data import files_of
from examples.gta5_to_cityscapes.input_files import InputFiles, changes, read_digests, write_digests
from examples.gta5_to_cityscapes.metrics_log import Metrics
from examples.gta5_to_cityscapes.run_dir import RunFolderError, differences
from examples.gta5_to_cityscapes.signals import Stopped, StopRequest
from examples.gta5_to_cityscapes.training.determinism import seed_everything

from .images import StepImages
from .networks import Generator, in_channels_last
from .settings import DOMAINS, Settings
from .step import Segment, TranslationStep

LOG_EVERY = 20
SAVE_EVERY = 100
INPUTS = "data_files.jsonl"  # beside settings.json, the digests of the images
KEPT_CHECKPOINTS = 2  # the last one, and the one before for when that is damaged

Progress = Callable[[int, int, str], None]  # (done, in all, note)


def no_progress(done: int, total: int, note: str) -> None:
    """Ignores the progress."""


def train(
    settings: Settings,
    source: SegmentationDataset,
    target: SegmentationDataset,
    out: Path,
    *,
    device: torch.device,
    segment: Segment | None = None,
    progress: Progress = no_progress,
    stop_after: int | None = None,
) -> Path:
    """Train to the last step, resuming from the last complete checkpoint in ``out`` if there is one.

    Args:
        settings: What to train.
        source: Source images at ``settings.size``; labels are not read.
        target: Target images likewise.
        out: Folder for ``settings.json``, ``metrics.jsonl``, ``last.pt`` and, named after its step, the one before.
        device: Where to compute.
        segment: The frozen segmentation that ``settings.segmentation`` names.
        progress: Called with the steps done, the steps in all and a note.
        stop_after: Stop and save after this step as Ctrl-C would.

    Returns:
        The checkpoint.

    Raises:
        RunFolderError: If ``out`` holds a translation of other settings, or of images of other content.
        Stopped: After Ctrl-C, once the state is saved.
        CheckpointError: If there are checkpoints, all of them damaged.
        UnwritableError: If the disk is full.
        FloatingPointError: If a loss is no longer finite; the last checkpoint is kept.
    """
    if (segment is None) != (settings.segmentation is None):
        raise ValueError("segment and settings.segmentation belong together: give both, or neither.")
    _claim(out, settings, source, target)
    with StopRequest() as request:
        return _Training(settings, source, target, out, device, segment, progress).run_to_the_end(request, stop_after)


def trained_generator(file: Path, device: torch.device) -> tuple[Settings, Generator]:
    """The settings and the generator's running mean of a checkpoint, for use."""
    saved = load_checkpoint(file)
    if "translation" not in saved:
        raise CheckpointError(f"checkpoint {file}: expected one of a translation, got one of another training.")
    settings = Settings.from_plain(saved["translation"])
    generator = Generator(settings.width, settings.blocks)
    prefix = "average.network."
    weights = {name.removeprefix(prefix): t for name, t in saved["networks"].items() if name.startswith(prefix)}
    generator.load_state_dict(weights)
    return settings, in_channels_last(generator.to(device)).eval()


class _Training:
    """State of one training; all of it is saved and restored, or follows from the settings."""

    def __init__(
        self,
        settings: Settings,
        source: SegmentationDataset,
        target: SegmentationDataset,
        out: Path,
        device: torch.device,
        segment: Segment | None,
        progress: Progress,
    ) -> None:
        self.settings, self.device, self.progress = settings, device, progress
        self.checkpoints = KeptCheckpoints(out)
        self.source = StepImages(source, settings, DOMAINS["source"])
        self.target = StepImages(target, settings, DOMAINS["target"])
        seed_everything(settings.seed)
        self.take_step = TranslationStep(settings, segment).to(device)
        self.step = 0
        self.seconds = 0.0
        self.saved_at: int | None = None
        if (saved := self.checkpoints.load()) is not None:
            self._resume(saved)
        self.metrics = Metrics(out / "metrics.jsonl", None, self.step)

    def run_to_the_end(self, request: StopRequest, stop_after: int | None) -> Path:
        """The loop itself."""
        total = self.settings.steps
        started = time.monotonic() - self.seconds
        self.progress(self.step, total, "")
        try:
            while self.step < total:
                source, target = (each.draw(self.step).to(self.device) for each in (self.source, self.target))
                losses = self.take_step(source, target, self.step)
                self.step += 1
                last = self.step == total
                stop = (request.asked or self.step == stop_after) and not last
                if last or stop or self.step % LOG_EVERY == 0:
                    values = self._finite({name: float(value) for name, value in losses.items()})
                    self.seconds = time.monotonic() - started
                    rate = self.settings.learning_rate(self.step - 1)
                    curves = {f"loss/{name}": value for name, value in values.items()}
                    self.metrics.write(self.step, "train", **curves, lr=rate, seconds=self.seconds)
                    self.progress(
                        self.step, total, f"fooled {values['real_fake']:.2f}, back {values['reconstruction']:.3f}"
                    )
                if last or stop or self.step % SAVE_EVERY == 0:
                    self._save()
                if stop:
                    raise Stopped(
                        f"stopped at step {self.step} of {total}, saved in {self.checkpoints.newest}. "
                        "Give the same command again to go on."
                    )
            return self.checkpoints.newest
        finally:
            self.metrics.close()

    def _finite(self, values: dict[str, float]) -> dict[str, float]:
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise FloatingPointError(
                f"translation, step {self.step}: loss {', '.join(broken)} is no longer a finite number ({values}). "
                "Lower --lr and use another --out."
            )
        return values

    def _save(self) -> None:
        self.checkpoints.save(
            {
                "translation": self.settings.as_plain(),
                "step": self.step,
                "seconds": self.seconds,
                "networks": self.take_step.state_dict(),
                "optimizers": {name: each.state_dict() for name, each in self.take_step.optimizers.items()},
            },
            keep=KEPT_CHECKPOINTS,
            replaced=self.saved_at,
        )
        self.saved_at = self.step

    def _resume(self, saved: dict[str, Any]) -> None:
        if saved.get("translation") != self.settings.as_plain():
            raise CheckpointError(
                f"checkpoint {self.checkpoints.newest}: expected one of the translation in its folder's settings.json, "
                "it is of another. Delete it; the training will start again."
            )
        self.take_step.load_state_dict(saved["networks"])
        for name, optimizer in self.take_step.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        self.step, self.seconds = int(saved["step"]), float(saved["seconds"])
        self.saved_at = self.step


def _claim(out: Path, settings: Settings, source: SegmentationDataset, target: SegmentationDataset) -> None:
    """Take the folder for these settings and the content of these images, or raise with what differs."""
    known = read_digests(out / INPUTS)
    sets = {name: {"images": files_of(dataset)["images"]} for name, dataset in (("source", source), ("target", target))}
    inputs = InputFiles(sets)
    file, plain = out / "settings.json", settings.as_plain()
    kept = read_json(file) if file.is_file() else {}
    asked = plain | inputs.identity()
    found = differences(kept, asked) if kept else []
    if known and any(each.startswith(tuple(sets)) for each in found):
        found = [each for each in found if not each.startswith(tuple(sets))] + changes(known, inputs)
    if found:
        raise RunFolderError(
            f"folder {out}: expected a translation of the settings that are asked for, it holds one that differs "
            f"(folder -> asked): {'; '.join(found)}. Choose another --out, ask for the same, or delete that folder."
        )
    write_digests(out / INPUTS, inputs.digests)
    write_json(file, asked)
