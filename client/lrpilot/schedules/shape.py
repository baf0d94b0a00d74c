"""The shape of a way from one LR to another: a name and its parameters.

The text of a shape is its name, with the parameters in brackets where they are not the usual ones: `linear`,
`rex(0.9)`. Names of frames stand before what they are put around, and so do their parameters: `wsd/rex(0.2, 0.9)` is a
cooldown along `rex(0.9)` over the last 0.2 of the steps. Options, files and the command line have shapes as such texts.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable
from typing import ClassVar

from lrpilot.schedules import frames, plain_ways, ways_in_parts
from lrpilot.schedules.way import Way

_PLAIN: dict[str, type[Way]] = {
    "constant": plain_ways.Constant,
    "linear": plain_ways.Linear,
    "cosine": plain_ways.Cosine,
    "exponential": plain_ways.Exponential,
    "polynomial": plain_ways.Polynomial,
    "rex": plain_ways.Rex,
    "one_minus_sqrt": plain_ways.OneMinusSqrt,
    "one_minus_square": plain_ways.OneMinusSquare,
    "mirror_cosine": plain_ways.MirrorCosine,
    "half_life": plain_ways.HalfLife,
    "power_scheduler": plain_ways.PowerScheduler,
    "step": ways_in_parts.Step,
    "one_cycle": ways_in_parts.OneCycle,
    "infinite": ways_in_parts.Infinite,
    "points": ways_in_parts.Points,
}
_FRAMES: dict[str, type[frames.Frame]] = {
    "wsd": frames.Wsd,
    "warmed": frames.Warmed,
    "floored": frames.Floored,
}
NAMES = (*_PLAIN, *_FRAMES)
"""Every name that a shape may have, or a part of it."""
MAX_NAMES = 4
"""The most names that a shape is put together of."""
MAX_PARAMETERS = 2 * ways_in_parts.MAX_KNOTS + 8
"""The most parameters, of all its names together."""
WITHIN = "linear"
"""What a frame is put around where nothing is named."""
_TEXT = re.compile(r"\s*([a-z_]{1,20}(?:/[a-z_]{1,20})*)\s*(?:\(([^()]*)\)\s*)?")
_MOST_SHOWN = 60


@dataclasses.dataclass(frozen=True)
class Shape:
    """The form of the way from one LR to another.

    Attributes:
        name: one of `NAMES`, or some of them with `/` between them, all but the last of them frames.
        parameters: in the order of the names; those that are left out at the end have their usual values.
    """

    name: str
    parameters: tuple[float, ...] = ()

    CONSTANT: ClassVar[Shape]
    LINEAR: ClassVar[Shape]
    COSINE: ClassVar[Shape]
    EXPONENTIAL: ClassVar[Shape]

    def __post_init__(self) -> None:
        """Fills in what was left out. Raises: ValueError: no shape has that name, or such parameters."""
        names = self.name.split("/")
        if names[-1] in _FRAMES:
            names.append(WITHIN)
        if len(names) > MAX_NAMES or len(self.parameters) > MAX_PARAMETERS:
            raise ValueError(
                f"shape: {len(names)} names or {len(self.parameters)} parameters are more than {MAX_NAMES} and "
                f"{MAX_PARAMETERS}"
            )
        parameters = tuple(map(float, self.parameters))
        if not all(map(math.isfinite, parameters)):
            raise ValueError(f"shape: {self.name[:_MOST_SHOWN]} has a parameter that is not finite")
        way = _way(names, parameters)
        object.__setattr__(self, "name", "/".join(names))
        object.__setattr__(self, "parameters", way.parameters)
        object.__setattr__(self, "_way", way)

    @classmethod
    def parse(cls, text: str) -> Shape:
        """The shape of a text, such as `rex(0.9)`. Raises: ValueError: it is none."""
        found = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ValueError(f"shape: {repr(text)[:_MOST_SHOWN]} is no shape; give a name, as linear, or rex(0.9)")
        name, numbers = found[1], (found[2] or "").strip()
        try:
            parameters = tuple(map(float, numbers.split(","))) if numbers else ()
        except ValueError as error:
            raise ValueError(f"shape: {name} has parameters that are no numbers: {error}") from error
        return cls(name, parameters)

    @classmethod
    def points(cls, knots: Iterable[tuple[float, float]]) -> Shape:
        """Lines through given points, each a part of the way and a weight of the LR that it begins with.

        Args:
            knots: the first at 0, the last at 1, ascending; two at the same part make a jump. Weights are from 0 to 1.

        Raises:
            ValueError: they make no such lines.
        """
        return cls("points", tuple(itertools.chain.from_iterable(knots)))

    @property
    def way(self) -> Way:
        """What there is to know of the shape."""
        way: Way = self.__dict__["_way"]
        return way

    def weight(self, done: float) -> float:
        """The LR relative to the highest, where a part of the way to zero lies behind.

        Args:
            done: from 0 to 1; outside, the nearer end counts.

        Raises:
            ValueError: the shape never reaches zero.
        """
        if fault := self.way.fault(1.0, 0.0):
            raise ValueError(f"{self}: {fault}; give it a floor, as floored/{self.name}")
        return self.way.lr(1.0, 0.0, min(max(done, 0.0), 1.0))

    def at(self, step: int, total: int) -> float:
        """The weight at a step, from 0, of so many."""
        return self.weight(step / total)

    def __str__(self) -> str:
        """The text of the shape, which `parse` reads."""
        if self.parameters == _usual(self.name):
            return self.name
        return f"{self.name}({', '.join(map(_number, self.parameters))})"


def _way(names: list[str], parameters: tuple[float, ...]) -> Way:
    """The way of some names, the innermost last, with all their parameters."""
    name, *within = names
    if not within:
        if name not in _PLAIN:
            raise ValueError(f"shape: {name[:_MOST_SHOWN]!r} is not known; give one of {', '.join(NAMES)}")
        plain = _PLAIN[name]
        if parameters and plain.__init__ is object.__init__:
            raise ValueError(f"shape: {name} has no parameters, and was given {len(parameters)}")
        return plain(*plain.filled(parameters))
    if name not in _FRAMES:
        raise ValueError(
            f"shape: {name[:_MOST_SHOWN]!r} is put around {'/'.join(within)[:_MOST_SHOWN]!r}, and is none of "
            f"{', '.join(_FRAMES)}"
        )
    frame, n_own = _FRAMES[name], len(_FRAMES[name].defaults)
    return frame(frame.filled(parameters[:n_own]), _way(within, parameters[n_own:]))


def _usual(name: str) -> tuple[float, ...] | None:
    """The parameters of some names where none are given; None: there are no usual ones."""
    if name == "points":
        return None
    return tuple(
        itertools.chain.from_iterable((_FRAMES.get(part) or _PLAIN[part]).defaults for part in name.split("/"))
    )


def _number(value: float) -> str:
    """The shortest text of a float that reads back as the same one."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


Shape.CONSTANT = Shape("constant")
Shape.LINEAR = Shape("linear")
Shape.COSINE = Shape("cosine")
Shape.EXPONENTIAL = Shape("exponential")
