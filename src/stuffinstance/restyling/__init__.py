"""Source images made to look like target images, without training: the image-transfer stage."""

from stuffinstance.restyling.fourier import restyle_fourier
from stuffinstance.restyling.lab import restyle_lab

__all__ = ["restyle_fourier", "restyle_lab"]
