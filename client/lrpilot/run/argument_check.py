"""A tuner's arguments before anything is made of them: each as it is meant, or refused in words that tell why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lrpilot.arguments import real, shown, truth, whole
from lrpilot.credentials import Credentials
from lrpilot.errors import ConfigError
from lrpilot.run.observer import Observer
from lrpilot.schedules.shape import Shape
from lrpilot.transport.base import Transport
from lrpilot.wire.limits import MAX_STEPS

MAX_NAME = 200
"""Characters of a name that servers keep."""
MAX_SEED = 2**63 - 1


def maximises(mode: Any, *, validates: bool) -> bool:
    """Whether what is validated is maximised. Raises: ConfigError: `mode` says nothing known, or of nothing."""
    if mode not in ("min", "max"):
        raise ConfigError(
            f'mode: {mode!r}; give "min" where validate gives a loss, or "max" where it gives an accuracy'
        )
    if mode == "max" and not validates:
        raise ConfigError('mode: "max" tells what validate gives, and there is no validate; give it, or leave mode out')
    return bool(mode == "max")


def checked(**arguments: Any) -> dict[str, Any]:
    """Arguments by name, each as it is meant; None where that may be left out.

    Raises:
        ConfigError: one is of a wrong kind, or out of its range.
    """
    return {
        name: None if value is None and name in _MAY_BE_NONE else _READ[name](value)
        for name, value in arguments.items()
    }


def _duration(field: str, example: int) -> Callable[[Any], float]:
    wanted = f"a number of seconds above 0, as {example}"

    def read(value: Any) -> float:
        seconds = real(field, value, wanted)
        if seconds <= 0:
            raise ConfigError(f"{field}: {shown(value)}; give {wanted}")
        return seconds

    return read


def _text(field: str, wanted: str = "a string") -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise ConfigError(f"{field}: {shown(value)}; give {wanted}")
        if len(value) > MAX_NAME:
            raise ConfigError(f"{field}: {len(value)} characters; give at most {MAX_NAME}")
        return value

    return read


def _of(field: str, kind: type, wanted: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ConfigError(f"{field}: {shown(value)}; give {wanted}")
        return value

    return read


def _observers(value: Any) -> tuple[Observer, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(each, Observer) for each in value):
        raise ConfigError(f"observers: {shown(value)}; give a list of observers, such as those of lrpilot.loggers")
    return tuple(value)


def _record(value: Any) -> tuple[str, ...]:
    """The names of what is recorded; of one string its letters would do."""
    if isinstance(value, str):
        raise ConfigError(f"record: {value!r} is a string; give names, as ({value!r},)")
    names = tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"record: {shown(value)} are no names; give some as ('gradient_norm',), or leave it out")
    return names


def _bounds(value: Any) -> tuple[float, float]:
    wanted = "the lowest and the highest LR, both above 0, as (1e-4, 1.0)"
    try:
        low, high = value
    except (TypeError, ValueError):
        raise ConfigError(f"lr_bounds: {shown(value)} is no pair; give {wanted}") from None
    bounds = (real("lr_bounds", low, wanted), real("lr_bounds", high, wanted))
    if not 0 < bounds[0] < bounds[1]:
        raise ConfigError(f"lr_bounds: {bounds[0]:g} and {bounds[1]:g}; give {wanted}")
    return bounds


def _options(value: Any) -> dict[str, Any]:
    """Options of a policy, with numbers as Python has them; the server knows which there are."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"policy_options: {shown(value)}; give options by name, as {{'probe_steps': 100}}")
    return {name: _option(name, option) for name, option in value.items()}


def _option(name: Any, value: Any) -> Any:
    if not isinstance(name, str):
        raise ConfigError(f"policy_options: {shown(name)} is no name; give options by name, as {{'probe_steps': 100}}")
    if value is None or isinstance(value, str | bool | int | float | list | tuple | Mapping):
        return value
    if isinstance(value, Shape):
        return str(value)
    field, wanted = f"policy_options.{name}", "a number, a string, True, False or None"
    return bool(value) if _stands_for_truth(value) else real(field, value, wanted)


def _stands_for_truth(value: Any) -> bool:
    try:
        return truth("", value) or True
    except ConfigError:
        return False


_READ: Mapping[str, Callable[[Any], Any]] = {
    "total_steps": lambda value: whole(
        "total_steps", value, "a whole number of optimizer steps, as 10_000", high=MAX_STEPS
    ),
    "total_time_s": _duration("total_time_s", 3600),
    "timeout_s": _duration("timeout_s", 30),
    "seed": lambda value: whole("seed", value, "a whole number", low=0, high=MAX_SEED),
    "name": _text("name"),
    "family": _text("family"),
    "policy": _text("policy", 'the name of a policy, as "budget"'),
    "policy_options": _options,
    "lr_bounds": _bounds,
    "record": _record,
    "observers": _observers,
    "strict": lambda value: truth("strict", value),
    "adopt": lambda value: truth("adopt", value),
    "population": lambda value: truth("population", value),
    "progress": lambda value: truth("progress", value),
    "credentials": _of("credentials", Credentials, "those of lrpilot.Credentials, as Credentials(token=...)"),
    "transport": _of("transport", Transport, "a Transport, or leave it out and name a server"),
}
"""Each reads what was given for one argument."""
_MAY_BE_NONE = {
    "total_steps",
    "total_time_s",
    "policy",
    "policy_options",
    "lr_bounds",
    "progress",
    "credentials",
    "transport",
}
