"""The kinds of a tuner's arguments, before anything is made of them: in words that say what would be right."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lrpilot.errors import ConfigError
from lrpilot.run.observer import Observer


class _Kind(NamedTuple):
    """What an argument may be."""

    is_right: Callable[[Any], bool]
    words: str
    """What would be right."""
    may_be_none: bool = True


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_duration(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_observers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, Observer) for each in value)


KINDS: Mapping[str, _Kind] = {
    "total_steps": _Kind(_is_whole, "a whole number of optimizer steps, as 10_000"),
    "total_time_s": _Kind(_is_duration, "a number of seconds above 0, as 3600"),
    "timeout_s": _Kind(_is_duration, "a number of seconds above 0, as 30", may_be_none=False),
    "seed": _Kind(_is_whole, "a whole number", may_be_none=False),
    "name": _Kind(_is_text, "a string", may_be_none=False),
    "family": _Kind(_is_text, "a string", may_be_none=False),
    "policy": _Kind(_is_text, 'the name of a policy, as "budget"'),
    "observers": _Kind(_are_observers, "a list of observers, such as those of lrpilot.loggers", may_be_none=False),
}
"""Arguments whose kind is told here; others are read by what uses them."""


def maximises(mode: Any, *, validates: bool) -> bool:
    """Whether what is validated is maximised. Raises: ConfigError: `mode` says nothing known, or of nothing."""
    if mode not in ("min", "max"):
        raise ConfigError(
            f'mode: {mode!r}; give "min" where validate gives a loss, or "max" where it gives an accuracy'
        )
    if mode == "max" and not validates:
        raise ConfigError('mode: "max" tells what validate gives, and there is no validate; give it, or leave mode out')
    return bool(mode == "max")


def check_kinds(**arguments: Any) -> None:
    """Looks at arguments by name. Raises: ConfigError: one is of a wrong kind."""
    for name, value in arguments.items():
        kind = KINDS[name]
        if not (kind.is_right(value) or (value is None and kind.may_be_none)):
            raise ConfigError(f"{name}: {value!r} ({type(value).__name__}); give {kind.words}")
