"""What the step numbers in a directive mean: which bar counts from where, and what they are in the rest of it. Pure.

Directives are messages on the client and values of the core on the server. Both sides count by these functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar


class Bar(Protocol):
    """What the reports from some step of a directive on are held to."""

    @property
    def from_step(self) -> int:
        """The step of the directive from which on it counts."""


AnyBar = TypeVar("AnyBar", bound=Bar)


def bar_of(promise: Sequence[AnyBar], begin: int) -> AnyBar | None:
    """The bar that a report which begins with step `begin` is held to: the last one it has reached; None: nothing."""
    return next((bar for bar in reversed(promise) if bar.from_step <= begin), None)


def bar_begins(from_step: int, done: int) -> int:
    """The step of what is left after `done` steps from which on a bar counts; one that counts already goes on to."""
    return max(from_step - done, 0)


def validations_left(validate_at: Iterable[int], done: int) -> list[int]:
    """The steps of what is left after `done` steps that a validation follows on; those that are over are left out."""
    return [step - done for step in validate_at if step > done]
