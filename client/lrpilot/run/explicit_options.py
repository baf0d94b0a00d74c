"""Options of a job, shown one by one where a signature has only `**job`, and an answer to one that is unknown."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from lrpilot.run.driver import Driver
from lrpilot.run.options import JobOptions

P = ParamSpec("P")
R = TypeVar("R")

ALIKE = 0.6
"""How much of a name is right if another one may have been meant: what `difflib` takes by itself."""
_OTHER_NAMES = {
    **dict.fromkeys(("max_steps", "num_steps", "n_steps", "num_training_steps", "max_iters"), "total_steps"),
    **dict.fromkeys(("max_epochs", "num_epochs", "n_epochs"), "epochs"),
    **dict.fromkeys(("lr_range", "min_lr", "max_lr", "lr_min", "lr_max", "bounds"), "lr_bounds"),
    **dict.fromkeys(("callbacks", "loggers", "logger"), "observers"),
    **dict.fromkeys(("address", "host", "url", "target"), "server"),
    **dict.fromkeys(("options", "policy_kwargs"), "policy_options"),
    "random_state": "seed",
    "time_limit": "total_time_s",
}
"""What other libraries call the same."""


def with_explicit_options(function: Callable[P, R]) -> Callable[P, R]:
    """A function with `**job` that shows the options of `JobOptions` one by one, as `help` and a notebook's `?` do.

    Args:
        function: a function, or the `__init__` of a class.

    Returns:
        The same. It raises TypeError for an argument that it does not know, and tells which one may have been meant.
    """
    signature = inspect.signature(function)
    defaults = inspect.signature(Driver.__init__).parameters
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name].default, annotation=defaults[name].annotation
        )
        for name in JobOptions.__annotations__
    ]
    explicit = signature.replace(parameters=[*own, *options])
    name = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for given in kwargs:
            if given not in explicit.parameters:
                raise TypeError(f"{name}() has no argument {given!r}{_meant(given, explicit)}")
        return function(*args, **kwargs)

    call.__signature__ = explicit  # type: ignore[attr-defined]  # what `inspect.signature` looks for first
    return call


def _meant(given: str, signature: inspect.Signature) -> str:
    """The end of a sentence on an argument that is unknown."""
    names: list[Any] = [name for name in signature.parameters if name != "self"]
    near = difflib.get_close_matches(given, names, n=1, cutoff=ALIKE)
    meant = _OTHER_NAMES.get(given) or next(iter(near), None)
    return f"; did you mean {meant!r}?" if meant in names else f"; it has {', '.join(names)}"
