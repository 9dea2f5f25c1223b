"""A procedural city: the small run needs two domains, and no data set can be shipped with a library."""

from .generation import generate_city
from .statistics import CAMERA_CITY, GAME_CITY, DomainStatistics

__all__ = ["CAMERA_CITY", "GAME_CITY", "DomainStatistics", "generate_city"]
