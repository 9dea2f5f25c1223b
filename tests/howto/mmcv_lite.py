"""Import of ``mmseg.models`` beside mmcv-lite, which needs no compiler."""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

import pytest


def import_mmseg_models() -> Any:
    """``mmseg.models``; skips the calling test module where MMSegmentation is not installed.

    The import wants ``mmcv._ext``, the module of compiled operators that mmcv-lite lacks. A module of that name stands
    there meanwhile, whose operators raise when they are called.
    """
    pytest.importorskip("mmcv")
    pytest.importorskip("mmengine")
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setitem(sys.modules, "mmcv._ext", _Operators("mmcv._ext"))
        importlib.import_module("mmcv.ops")
        return importlib.import_module("mmseg.models")


class _Operators(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def operator(*_: object, **__: object) -> None:
            raise NotImplementedError(f"mmcv-lite lacks {name}.")

        return operator
