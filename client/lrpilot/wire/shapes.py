"""How an LR gets from one value to another: one class for each shape.

A new shape is a class here, its name and its line in `lrpilot.wire.profile`, and a value of the contract's
`ProfileShape`. A shape says itself what there is to know of it: no other module asks for one by name to learn that.

Notation: `start` and `end` are LRs, at least 0; `done` is the part of the way that lies behind, from 0 to 1.
"""

from __future__ import annotations

import abc
import math
from typing import ClassVar


class Way(abc.ABC):
    """The way of one shape. All its LRs lie between `start`, where it begins, and `end`."""

    words: ClassVar[str]
    """How the LR moves, as it follows "the LR fell to 0.1" in a sentence."""
    moves: ClassVar[bool] = True
    """Whether the LR ever leaves `start`."""

    @abc.abstractmethod
    def lr(self, start: float, end: float, done: float) -> float:
        """The LR at one part of the way."""

    def highest(self, start: float, end: float, first: float, last: float) -> float:
        """The highest LR from the part `first` of the way to the part `last`; a way that turns around says where."""
        return max(self.lr(start, end, first), self.lr(start, end, last))

    def fault(self, start: float, end: float) -> str:
        """Why there is no way between two such LRs; empty: there is one."""
        return ""

    def has_numbers(self, start: float, end: float) -> bool:
        """Whether floats can hold what the LRs of the way are computed from."""
        return True


class Constant(Way):
    """The LR stays where it is."""

    words = "at a constant LR"
    moves = False

    def lr(self, start: float, end: float, done: float) -> float:
        """The LR that it began with."""
        return start


class Linear(Way):
    """The LR moves by the same amount at every step."""

    words = "along a line"

    def lr(self, start: float, end: float, done: float) -> float:
        """The LR on the line."""
        return start + (end - start) * done


class Exponential(Way):
    """The LR moves by the same factor at every step."""

    words = "exponentially"

    def lr(self, start: float, end: float, done: float) -> float:
        """The LR after that part of the factors."""
        return float(start * (end / start) ** done)

    def fault(self, start: float, end: float) -> str:
        """Refuses zero, which no factor leads to or away from."""
        return "an exponential never reaches zero" if 0 in (start, end) else ""

    def has_numbers(self, start: float, end: float) -> bool:
        """Whether the factor of the whole way is a number."""
        return 0 < end / start < math.inf


class Cosine(Way):
    """The LR follows half a wave: it leaves slowly, and arrives slowly."""

    words = "along a cosine"

    def lr(self, start: float, end: float, done: float) -> float:
        """The LR on the wave."""
        weight = (1 + math.cos(math.pi * done)) / 2
        return start * weight + end * (1 - weight)
