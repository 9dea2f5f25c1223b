"""Everything a run needs to go on as if it had never stopped, in one file that is whole or absent."""

from __future__ import annotations

import hashlib
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .written_files import written_beside

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that is absent, damaged, or of another kind."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors, numbers, strings, lists, dicts) so that ``weights_only`` can read it."""
    # Opened here: given a path, torch would not say that the disk is full.
    with written_beside(path, durable=True) as beside, beside.open("wb") as file:
        torch.save({"format": FORMAT, **content}, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint into ordinary memory, whichever device wrote it; nothing in it can run code."""
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint {path}: expected a file written by `train`, there is none. "
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
    """Put a checkpoint's weights into a network of the same architecture."""
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
    """SHA-256 of a network's state alone: the same weights, the same digest, however long they took to train."""
    digest = hashlib.sha256()
    for name in sorted(network):
        tensor = network[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def random_state() -> dict[str, Any]:
    """The state of every generator that training may draw from."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every generator back to where :func:`random_state` found it; GPUs that are not there now are passed over."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
    np.random.set_state(
        (
            numpy["name"],
            numpy["keys"].cpu().numpy().astype(np.uint32),
            numpy["position"],
            numpy["has_gauss"],
            numpy["cached"],
        )
    )
    torch.set_rng_state(state["torch"].cpu())
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index, one in enumerate(state["cuda"][:present]):
        torch.cuda.set_rng_state(one.cpu(), index)


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch; loaders have generators of their own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
