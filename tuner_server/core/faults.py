"""Code that others wrote, run so that what it raises is a fault of its own and nothing more.

Such code may raise `SystemExit` as well as `ValueError`, and an exception may have no message that can be read or sent.
"""

from __future__ import annotations

import threading
from types import TracebackType

import pydantic

from tuner_server.core.errors import PolicyError

MAX_SAID = 1000
"""Characters of an exception's message that are repeated: it becomes a job's message and a directive's reason."""


def _findings(error: pydantic.ValidationError) -> str:
    """What pydantic refuses, in one line."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join([error.title, *map(str, item['loc'])])}: {item['msg']}" for item in found)


class guarded:  # it is used like a function
    """Turns what is raised inside it, and is no `Exception`, into a `PolicyError`.

    What is the user's own (`users_own`) passes.
    """

    def __init__(self, what: str) -> None:
        """Names the guarded code in the error, as "`advance`"."""
        self._what = what

    def __enter__(self) -> None:
        """Begins the guarded code."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: TracebackType | None) -> None:
        """Ends the guarded code. Raises: PolicyError."""
        if error is None or isinstance(error, Exception) or users_own(error):
            return
        raise PolicyError(f"{self._what} raised {described(error)}") from None


def users_own(error: BaseException) -> bool:
    """Whether an exception is the user's, who wants the process to end: Python raises that one in the main thread."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def described(error: BaseException) -> str:
    """The type and the message of an exception, as text that can be stored and sent, whatever the exception is."""
    name = type(error).__name__
    try:
        with guarded("its message"):
            text = "".join([f"{name}: {_findings(error) if isinstance(error, pydantic.ValidationError) else error}"])
    except Exception:
        text = f"{name}, whose message can't be read"
    text = text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= MAX_SAID else text[: MAX_SAID - 3] + "..."
