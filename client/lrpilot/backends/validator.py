"""The user's validation function, called so that training doesn't notice."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, SupportsFloat

from lrpilot.arguments import as_number, shown
from lrpilot.errors import ConfigError
from lrpilot.rng import preserved
from lrpilot.wire.limits import MAX_VALIDATION_LOSS

P = ParamSpec("P")
log = logging.getLogger("lrpilot")


class Validator:
    """A validation function, and what it may change besides the random state."""

    def __init__(
        self,
        function: Callable[[], SupportsFloat],
        unchanged: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Calls the function once, to see that it works, before anything depends on it.

        Args:
            function: the user's.
            unchanged: gives a context that puts back at its end what the function may change.

        Raises:
            ConfigError: it raises, or gives no finite number.
        """
        if not callable(function):
            raise ConfigError(f"validate: {shown(function)}; give a function without arguments that returns one number")
        self._function = function
        self._unchanged = unchanged
        self._said = False
        try:
            loss = self._call()
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"validate: it raised {type(error).__name__}: {error}") from error
        if not math.isfinite(loss):
            raise ConfigError(f"validate: it returned {loss}; a finite validation loss is needed")

    def loss(self) -> float | None:
        """The validation loss; None if it shows a divergence. What the function raises is not worth a run."""
        try:
            loss = self._call()
        except Exception:
            level, self._said = logging.DEBUG if self._said else logging.WARNING, True
            log.log(level, "lrpilot: validate raised, its result is left out, as it will be each time", exc_info=True)
            return None
        return loss if math.isfinite(loss) and abs(loss) <= MAX_VALIDATION_LOSS else None

    def _call(self) -> float:
        """The function's result; all is as before. Raises: ConfigError: it is no number."""
        with self._unchanged(), preserved():
            result = self._function()
            return _number(result)


def minimised(validate: Callable[P, SupportsFloat] | None, mode: object) -> Callable[P, SupportsFloat] | None:
    """What is minimised where `validate` is given: that, or minus it, where `mode` is "max"."""
    if not callable(validate) or mode != "max":
        return validate

    def negated(*args: P.args, **kwargs: P.kwargs) -> float:
        metric = _number(validate(*args, **kwargs))
        if not math.isfinite(metric):
            raise ConfigError(f"validate: it returned {metric}; a finite metric is needed")
        return -metric

    return negated


def _number(result: Any) -> float:
    """A validation's result. Raises: ConfigError: it is no number."""
    try:
        return as_number(result)
    except ValueError:
        raise ConfigError(f"validate: it returned {_shown(result)}; {_MUST}") from None


_MUST = "it must return the validation loss, one number"


def _shown(result: object) -> str:
    if result is None:
        return "None (is a `return` missing?)"
    shape = getattr(result, "shape", None)
    return f"a {type(result).__name__}" + ("" if shape is None else f" of shape {tuple(shape)}")
