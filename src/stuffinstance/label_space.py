"""Label spaces: class ids, names and colors, and which classes are stuff and which are things."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stuffinstance._checks import MOST_CLASSES, check_kind, checked_ignore_index, describe, whole_number

Color = tuple[int, int, int]


@dataclass(frozen=True, init=False)
class LabelSpace:
    """Label space: the classes of a segmentation task, numbered 0 .. K-1.

    Stuff (road, sky) is matched by one mean feature per class and image; things (car, person) by one feature per
    connected region. A class may be neither: it is then segmented but not matched.

    Args:
        names: The K class names, in the order of their ids. Default: ``"class 0"``, ``"class 1"``, ... up to the
            largest id in ``stuff`` and ``things``.
        stuff: Ids or names of the stuff classes.
        things: Ids or names of the thing classes.
        ignore_index: The id of pixels without a class; may not be one of 0 .. K-1.
        palette: K colors (red, green, blue), 0 .. 255, for images; or None.

    Raises:
        TypeError: If ``names`` is not a sequence of strings, ``stuff`` or ``things`` is not one of whole numbers and
            names, or ``ignore_index`` is not a whole number.
        ValueError: If an id is outside 0 .. K-1, is both stuff and thing, or occurs twice; if names repeat; if
            ``ignore_index`` is a class; if the palette does not hold K colors.

    Example:
        >>> space = LabelSpace(names=("road", "sky", "car"), stuff=("road", "sky"), things=("car",))
        >>> space.num_classes, space.stuff, space.things
        (3, (0, 1), (2,))
        >>> space.ids(["car", "road"])
        (2, 0)
    """

    names: tuple[str, ...]
    stuff: tuple[int, ...]
    things: tuple[int, ...]
    ignore_index: int
    palette: tuple[Color, ...] | None

    def __init__(
        self,
        names: Sequence[str] | None = None,
        stuff: Iterable[int | str] = (),
        things: Iterable[int | str] = (),
        ignore_index: int = 255,
        palette: Sequence[Sequence[int]] | None = None,
    ) -> None:
        stuff, things = _listed("stuff", stuff), _listed("things", things)
        if names is None:
            names = _numbered_names(stuff + things)
        set_field = object.__setattr__
        set_field(self, "names", _listed("names", names, "class names"))
        set_field(self, "ignore_index", checked_ignore_index(ignore_index))
        self._check_names()
        set_field(self, "stuff", resolved_ids("stuff", stuff, self.names))
        set_field(self, "things", resolved_ids("things", things, self.names))
        both = sorted(set(self.stuff) & set(self.things))
        if both:
            raise ValueError(
                "stuff and things must not share a class, got both for "
                f"{[f'{c} ({self.names[c]})' for c in both]}. Keep each id in one of the two."
            )
        set_field(self, "palette", _checked_palette(palette, len(self.names)))

    def __reduce__(self) -> tuple[type[LabelSpace], tuple[Any, ...]]:
        """Pickle as the arguments, so that what a file holds is checked when it is loaded."""
        return type(self), (tuple(map(str, self.names)), self.stuff, self.things, self.ignore_index, self.palette)

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.names)

    def ids(self, names: Iterable[str]) -> tuple[int, ...]:
        """The ids of classes given by name (or id); an unknown one is a ``ValueError`` that lists the known ones."""
        return resolved_ids("names", names, self.names)

    def mapping_from(self, other: LabelSpace) -> tuple[int, ...]:
        """For each id of ``other`` the id of the same name here, or ``ignore_index`` where no class has that name.

        Example:
            >>> SYNTHIA_13.mapping_from(CITYSCAPES)[:4]
            (0, 1, 2, 255)
        """
        check_kind("other", other, LabelSpace)
        here = {name: number for number, name in enumerate(self.names)}
        return tuple(here.get(name, self.ignore_index) for name in other.names)

    def _check_names(self) -> None:
        if not self.names:
            raise ValueError("names must hold at least one class name, got none.")
        odd = [name for name in self.names if not isinstance(name, str)]
        if odd:
            raise TypeError(f"names must be strings, got {type(odd[0]).__name__} {odd[0]!r}.")
        if len(set(self.names)) != len(self.names):
            repeated = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"names must be distinct, got {repeated} more than once.")
        if 0 <= self.ignore_index < len(self.names):
            raise ValueError(
                f"ignore_index must not be a class id, got {self.ignore_index}, which is "
                f"{self.names[self.ignore_index]!r} of {len(self.names)} classes. Use -1 or 255, or 65535 for large K."
            )


def resolved_ids(argument: str, classes: Iterable[int | str], names: tuple[str, ...]) -> tuple[int, ...]:
    """Distinct ids of classes given by id or by name; ``argument`` is what messages call them.

    Raises:
        TypeError: If ``classes`` is not a sequence of whole numbers and strings.
        ValueError: If one is not a class, or occurs twice.
    """
    classes = _listed(argument, classes)
    numbers = {name: number for number, name in enumerate(names)}
    resolved = []
    for entry in classes:
        number = numbers.get(entry, -1) if isinstance(entry, str) else _index(argument, entry)
        if not 0 <= number < len(names):
            raise ValueError(
                f"{argument} must hold ids 0..{len(names) - 1} or names of classes, got {entry!r}. "
                f"The classes are {', '.join(names)}."
            )
        resolved.append(number)
    if len(set(resolved)) != len(resolved):
        raise ValueError(f"{argument} must hold each class once, got {classes!r}.")
    return tuple(resolved)


def _listed(argument: str, classes: Any, wanted: str = "ids or names") -> tuple[Any, ...]:
    if isinstance(classes, (str, bytes, Tensor)) or not isinstance(classes, Iterable):
        raise TypeError(f"{argument} must be a sequence of {wanted}, got {describe(classes)}. Pass ({classes!r},).")
    return tuple(classes)


def _index(argument: str, entry: Any) -> int:
    number = whole_number(entry)
    if number is None:
        raise TypeError(f"{argument} must hold whole numbers or names, got {type(entry).__name__} {entry!r}.")
    return number


def _numbered_names(classes: tuple[Any, ...]) -> tuple[str, ...]:
    """Names for a space given by ids alone."""
    if not classes or any(isinstance(entry, str) for entry in classes):
        raise ValueError("names must be given where stuff and things are empty or given by name, got names=None.")
    ids = [_index("stuff and things", entry) for entry in classes]
    if min(ids) < 0 or max(ids) >= MOST_CLASSES:
        raise ValueError(f"stuff and things must hold ids 0..{MOST_CLASSES - 1}, got {min(ids)} to {max(ids)}.")
    return tuple(f"class {number}" for number in range(max(ids) + 1))


def _checked_palette(palette: Sequence[Sequence[int]] | None, num_classes: int) -> tuple[Color, ...] | None:
    if palette is None:
        return None
    try:
        whole = all(int(value) == value for color in palette for value in color)  # 0.5 is of another scale
        colors = tuple(tuple(int(value) for value in color) for color in palette)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise TypeError(
            f"palette must hold K = {num_classes} colors (red, green, blue) of whole numbers 0..255, got "
            f"{describe(palette)}."
        ) from None
    right = all(len(color) == 3 and all(0 <= value <= 255 for value in color) for color in colors)
    if len(colors) != num_classes or not right or not whole:
        raise ValueError(
            f"palette must hold K = {num_classes} colors (red, green, blue) of whole numbers 0..255, got "
            f"{len(colors)} entries: {palette!r}."
        )
    return colors  # type: ignore[return-value]  # the length of each color was checked above


# Cityscapes' 19 train ids, their colors, and SIM's division of them: stuff covers area, things are counted.
_CITYSCAPES: tuple[tuple[str, bool, Color], ...] = (
    ("road", False, (128, 64, 128)),
    ("sidewalk", False, (244, 35, 232)),
    ("building", False, (70, 70, 70)),
    ("wall", False, (102, 102, 156)),
    ("fence", False, (190, 153, 153)),
    ("pole", True, (153, 153, 153)),
    ("traffic light", True, (250, 170, 30)),
    ("traffic sign", True, (220, 220, 0)),
    ("vegetation", False, (107, 142, 35)),
    ("terrain", False, (152, 251, 152)),
    ("sky", False, (70, 130, 180)),
    ("person", True, (220, 20, 60)),
    ("rider", True, (255, 0, 0)),
    ("car", True, (0, 0, 142)),
    ("truck", True, (0, 0, 70)),
    ("bus", True, (0, 60, 100)),
    ("train", True, (0, 80, 100)),
    ("motorcycle", True, (0, 0, 230)),
    ("bicycle", True, (119, 11, 32)),
)


def _street_space(without: frozenset[str] = frozenset()) -> LabelSpace:
    kept = [entry for entry in _CITYSCAPES if entry[0] not in without]
    return LabelSpace(
        names=[name for name, _, _ in kept],
        stuff=[number for number, (_, is_thing, _) in enumerate(kept) if not is_thing],
        things=[number for number, (_, is_thing, _) in enumerate(kept) if is_thing],
        palette=[color for _, _, color in kept],
    )


CITYSCAPES = _street_space()
"""Cityscapes' 19 evaluated classes with their train ids."""

SYNTHIA_16 = _street_space(frozenset({"terrain", "truck", "train"}))
"""The 16 classes that SYNTHIA shares with Cityscapes, numbered 0 .. 15 in Cityscapes' order."""

SYNTHIA_13 = _street_space(frozenset({"terrain", "truck", "train", "wall", "fence", "pole"}))
"""The 13 of them that most papers score, numbered 0 .. 12 in Cityscapes' order."""
