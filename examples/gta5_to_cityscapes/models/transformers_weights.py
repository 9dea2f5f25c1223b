"""What the package ``transformers`` does for networks built on it: classes, and tensors of published files by name."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor


def of_transformers(network: str) -> ModuleType:
    """The package, which is optional and slow to import.

    Raises:
        ModuleNotFoundError: If it is not installed; ``network`` is what the message says needs it.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the network {network} needs the package transformers: pip install -e '.[examples,transformers]'",
            name="transformers",
        ) from error
    return transformers


def read_by_transformers(
    model: Any, configuration: Any, tensors: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """State of a model made from ``tensors``, what is missing or of another shape, and names that it has no place for.

    Published files name their tensors as older releases did. The installed release knows how to read them.
    """
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # what it would print in a table is an error of the caller's
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
    state = {name: value.float() for name, value in read.state_dict().items()}
    return state, faults, sorted(info["unexpected_keys"])
