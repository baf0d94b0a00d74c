"""What users give as arguments, read as it was meant, or refused in a line that names field, value and remedy.

A number is one of Python, of NumPy, or a tensor of one element: whatever stands for one number. A string of digits and
a truth value stand for something else, and are refused.
"""

from __future__ import annotations

import math
import operator
import os
from pathlib import Path
from typing import Any

from lrpilot.errors import ConfigError, LRPilotError

LONGEST_SHOWN = 60
"""Characters of a value that a message has."""


def shown(value: object) -> str:
    """A value with its kind, as a message tells it: in one line, and cut where it is long."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whatever its own class makes of it
        text = "a value"
    text = text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"
    return f"{text} ({type(value).__name__})"


def whole(
    field: str,
    value: Any,
    wanted: str,
    *,
    low: int = 1,
    high: int | None = None,
    error: type[LRPilotError] = ConfigError,
) -> int:
    """A whole number within a range.

    Args:
        field: the argument, as the user knows it.
        value: what was given.
        wanted: what would be right, as "a whole number of steps, as 10_000".
        low: the least.
        high: the most; None: there is no limit.
        error: what is raised.

    Raises:
        LRPilotError: it is none, or out of the range; of the kind `error`.
    """
    try:
        if _is_truth(value):
            raise TypeError("a truth value")
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        raise error(f"{field}: {shown(value)}; give {wanted}") from None
    if number < low or (high is not None and number > high):
        bounds = f"at least {low:,}" if high is None or number < low else f"at most {high:,}"
        raise error(f"{field}: {number} is not {bounds}; give {wanted}")
    return number


def real(field: str, value: Any, wanted: str, *, error: type[LRPilotError] = ConfigError) -> float:
    """A number that is finite.

    Args:
        field: the argument, as the user knows it.
        value: what was given.
        wanted: what would be right.
        error: what is raised.

    Raises:
        LRPilotError: it is none; of the kind `error`.
    """
    try:
        number = as_number(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise error(f"{field}: {shown(value)}; give {wanted}")
    return number


def as_number(value: Any) -> float:
    """What stands for one number, be it finite or not. Raises: ValueError: it stands for something else."""
    if type(value) is float:
        return value
    if isinstance(value, str | bytes | bytearray | complex) or _is_truth(value) or value is None:
        raise ValueError(f"{type(value).__name__} is no number")
    if _dtype(value).startswith("complex"):
        raise ValueError("a complex number")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"{type(value).__name__} is no number") from None


def truth(field: str, value: Any) -> bool:
    """A truth value. Raises: ConfigError: it is none."""
    if not _is_truth(value):
        raise ConfigError(f"{field}: {shown(value)}; give True or False")
    return bool(value)


def file_path(value: Any, *, error: type[LRPilotError]) -> Path:
    """The path of a file. Raises: LRPilotError: it is none; of the kind `error`."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise error(f"path: {shown(value)}; give the name of a file")
    return Path(value)


def loss_number(loss: Any) -> float:
    """The loss of a step that is no array of a framework. Raises: ValueError: it is no number; says what to pass."""
    try:
        return as_number(loss)
    except ValueError:
        pass
    holds_it = hasattr(loss, "loss") or (isinstance(loss, dict) and "loss" in loss)
    remedy = "pass its loss" if holds_it else "pass a tensor of one element, or a number"
    raise ValueError(f"loss: {type(loss).__name__} is not a scalar; {remedy}")


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or _dtype(value) == "bool"


def _dtype(value: Any) -> str:
    """The name of an array's kind of elements, without the library's; empty: it is no array."""
    return str(getattr(value, "dtype", "")).rpartition(".")[2]
