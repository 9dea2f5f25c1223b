"""Style transfer between the domains: source images in the target's appearance (IT), or the other way round."""

from __future__ import annotations

from pydantic import Field

from ..config import Share
from .method import Method, MethodConfig, Part

IN_STEP = ("lab", "fourier", "lab+fourier")  # anything else is a folder


class StyleTransferConfig(MethodConfig):
    """Images of one domain in the other's appearance.

    ``method`` is ``"lab"``, ``"fourier"``, ``"lab+fourier"`` (each batch towards the other domain's batch of the same
    step, nothing to train) or a folder that holds the images already transferred. Either way each image of a step is
    the transferred one with ``probability``, else the original; a target from a folder is always the transferred one.
    """

    method: str = "lab"
    window: float = Field(default=0.01, ge=0.0, le=0.5)
    probability: Share = 1.0

    @property
    def in_step(self) -> bool:
        """Whether a step computes it, which takes images of the other domain; a folder of transferred ones does not."""
        return self.method in IN_STEP

    def uses_target(self) -> bool:
        return self.in_step


class TargetStyleTransferConfig(StyleTransferConfig):
    """Target images in the source's appearance (symmetric adaptation)."""

    def uses_target(self) -> bool:
        return True


class SourceStyleTransfer(Method):
    """Source images in the target's appearance; the data loader applies it."""

    group, config, rank = "style_transfer", StyleTransferConfig, 40
    parts = (Part("it", "IT", "source images in the target's appearance", mirror="tt"),)
    presets = {"small": StyleTransferConfig(probability=0.5)}
    cost = 0.1


class TargetStyleTransfer(Method):
    """Target images in the source's appearance; the data loader applies it."""

    group, config, rank = "target_style_transfer", TargetStyleTransferConfig, 50
    parts = (Part("tt", "TT", "target images in the source's appearance", mirror="it"),)
