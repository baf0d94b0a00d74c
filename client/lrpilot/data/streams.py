"""What a training loop iterates over: all batches of a run, or those of one epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Self, TypeVar

Batch = TypeVar("Batch", covariant=True)


class Batches(Iterator[Batch]):
    """The batches of a run, to its end. Its length is how many are left, with one batch a step; search included."""

    def __init__(self, drawn: Iterator[Batch], left: Callable[[], int | None]) -> None:
        """Gives what `drawn` gives; `left` counts the steps that are left (None: no end is known)."""
        self._drawn = drawn
        self._left = left

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        return next(self._drawn)

    def __len__(self) -> int:
        """How many steps are left. Raises: TypeError: no end of the run is known."""
        left = self._left()
        if left is None:
            raise TypeError("batches: no end of the run is known, so it has no length")
        return left


class Epoch(Generic[Batch]):
    """One pass over the data, in committed steps; the batches of probes on the way come with it.

    Attributes:
        number: of the epoch, from 0.
    """

    def __init__(self, number: int, drawn: Iterator[Batch], over: Callable[[], bool], left: Callable[[], int]) -> None:
        """Gives what `drawn` gives until it is `over`; `left` counts the batches that are left of it."""
        self.number = number
        self._drawn = drawn
        self._over = over
        self._left = left

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._over():
            raise StopIteration
        return next(self._drawn)

    def __len__(self) -> int:
        """How many batches are left of it, those of probes not counted."""
        return self._left()

    def __repr__(self) -> str:
        return f"<epoch {self.number}, {len(self)} batches left>"
