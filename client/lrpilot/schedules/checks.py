"""What parameters of shapes are held to."""

from __future__ import annotations

from collections.abc import Sequence


def count_at_most(parameters: Sequence[float], count: int, form: str) -> None:
    """Refuses more parameters than a shape has. Raises: ValueError."""
    if len(parameters) > count:
        raise ValueError(f"{len(parameters)} parameters for {form}, which has {count}")


def between(value: float, low: float, high: float, what: str) -> None:
    """Refuses a parameter outside a range, whose ends are in it. Raises: ValueError."""
    if not low <= value <= high:
        raise ValueError(f"{what} {value:g} is not from {low:g} to {high:g}")


def at_least(value: float, low: float, what: str) -> None:
    """Refuses a parameter that is too low. Raises: ValueError."""
    if not value >= low:
        raise ValueError(f"{what} {value:g} is below {low:g}")
