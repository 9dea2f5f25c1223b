"""Checkpoints: everything a run needs to resume, in one file that is complete or absent."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .atomic_io import written_beside

FORMAT = 2
logger = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that is absent, damaged, or of another kind."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors, numbers, strings, tuples, lists, dicts) so that ``weights_only`` can read it."""
    # Opened here: given a path, torch would not say that the disk is full.
    with written_beside(path, durable=True) as beside, beside.open("wb") as file:
        torch.save({"format": FORMAT, **content}, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint into ordinary memory, whichever device wrote it; nothing in it can run code."""
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint {path}: expected a file written by `train`, found none. "
            "Train that recipe first (where its folder holds a result without a checkpoint, delete that folder), "
            "or pass the folder of a run that has checkpoints/last.pt."
        )
    try:
        with zipfile.ZipFile(path) as parts:  # torch reads past their checksums
            damaged = parts.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is another")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, PermissionError):  # the file may well be whole
        raise
    except Exception as error:  # torch.load raises many kinds for one thing: this file cannot be used
        raise CheckpointError(
            f"checkpoint {path}: expected a file written by `train`, could not read it ({type(error).__name__}). "
            "Give another checkpoint, such as a step*.pt beside it; or delete its run folder, and that run will start "
            "again."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {path}: expected one written by `train` (format {FORMAT}), got something else. "
            "Weights of other origin go into network.weights."
        )
    return content


def restore_network(network: nn.Module, saved: dict[str, Any], path: Path) -> None:
    """Load a checkpoint's weights into a network of the same architecture."""
    try:
        network.load_state_dict(saved["network"])
    except (RuntimeError, KeyError) as error:
        recipe = saved.get("recipe", {})
        raise CheckpointError(
            f"checkpoint {path}: expected weights of the network that its recipe names ({recipe.get('network')}), "
            f"they do not fit ({str(error).splitlines()[-1].strip()}). It was written by another version of the "
            "network: train again into another --out."
        ) from error


def digest_of_weights(network: Mapping[str, Tensor]) -> str:
    """SHA-256 of a network's state dict: the same weights give the same digest."""
    digest = hashlib.sha256()
    for name in sorted(network):
        tensor = network[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class KeptCheckpoints:
    """``last.pt`` in a folder, beside it the ones before it, named after their steps."""

    folder: Path

    @property
    def newest(self) -> Path:
        """Where the last checkpoint lies."""
        return self.folder / "last.pt"

    @property
    def earlier(self) -> list[Path]:
        """The ones before it, the latest first."""
        return sorted(self.folder.glob("step*.pt"), key=lambda path: (len(path.name), path.name), reverse=True)

    def save(self, content: dict[str, Any], *, keep: int, replaced: int | None) -> None:
        """Write the newest; at every moment one exists.

        Args:
            content: As for :func:`save_checkpoint`.
            keep: How many stay, this one among them.
            replaced: Step of the checkpoint that is the newest until now, if any.
        """
        if replaced is not None and keep > 1:
            _give_second_name(self.newest, self.folder / f"step{replaced:06}.pt")
        save_checkpoint(self.newest, content)
        for path in self.earlier[keep - 1 :]:
            path.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The content of the newest complete checkpoint, which then is ``newest``; None without any.

        Damaged ones are logged and set aside, with ``.damaged`` added to their names.

        Raises:
            CheckpointError: If all are damaged.
        """
        damaged: dict[Path, object] = {}
        for path in (self.newest, *self.earlier):
            if not path.is_file():
                continue
            try:
                content = load_checkpoint(path)
            except CheckpointError as error:
                damaged[path] = error.__cause__ or error
                continue
            if path != self.newest:
                for each in damaged:
                    each.replace(each.with_name(f"{each.name}.damaged"))
                path.replace(self.newest)
                logger.warning(
                    "checkpoints %s: %s cannot be read, going on from the one before, of step %d. What is damaged has "
                    ".damaged added to its name and can be deleted.",
                    self.folder,
                    " and ".join(each.name for each in damaged) or self.newest.name,
                    content["step"],
                )
            return content
        if damaged:
            reasons = "; ".join(f"{path.name} ({problem})" for path, problem in damaged.items())
            raise CheckpointError(
                f"checkpoints {self.folder}: expected one to go on from, could not read any: {reasons}. "
                "Put a copy of one in their place, or delete that folder, and the run will start again."
            )
        return None


def _give_second_name(path: Path, name: Path) -> None:
    """Keep the content of ``path``, which is about to be replaced, as ``name``."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:  # a file system without links
        with written_beside(name) as beside:
            shutil.copyfile(path, beside)
