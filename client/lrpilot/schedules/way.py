"""What a shape says of the way that an LR goes from one value to another.

Notation: `start` and `end` are LRs, at least 0; `done` is the part of the way that lies behind, from 0 to 1. The weight
of a way is what it makes of start = 1 and end = 0.
"""

from __future__ import annotations

import abc
from typing import ClassVar


class Way(abc.ABC):
    """The way of one shape. None of its LRs lies above both `start` and `end`, and none below zero."""

    words: str
    """How the LR moves, as it follows "the LR fell to 0.1" in a sentence."""
    moves: bool = True
    """Whether the LR ever leaves `start`."""
    defaults: ClassVar[tuple[float, ...]] = ()
    """The parameters where none are given."""

    @classmethod
    def filled(cls, given: tuple[float, ...]) -> tuple[float, ...]:
        """Parameters with the usual ones in the place of those that were left out at the end."""
        return (*given, *cls.defaults[len(given) :])

    @property
    def parameters(self) -> tuple[float, ...]:
        """All its parameters, in the order in which they are given."""
        return ()

    @property
    def turns(self) -> tuple[float, ...]:
        """The parts of the way at which the LR may turn from rising to falling or back."""
        return ()

    @abc.abstractmethod
    def lr(self, start: float, end: float, done: float) -> float:
        """The LR at one part of the way."""

    def fault(self, start: float, end: float) -> str:
        """Why there is no way between two such LRs; empty: there is one."""
        return ""

    def has_numbers(self, start: float, end: float) -> bool:
        """Whether floats can hold what the LRs of the way are computed from."""
        return True


class Weighted(Way):
    """A way that mixes both LRs, by a weight of `start` from 0 to 1."""

    @abc.abstractmethod
    def weight(self, done: float) -> float:
        """The weight of `start` at one part of the way."""

    def lr(self, start: float, end: float, done: float) -> float:
        """The mixture at one part of the way."""
        weight = self.weight(done)
        return start * weight + end * (1 - weight)
