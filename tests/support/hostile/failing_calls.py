"""Bugs that a test puts into the client: a function that raises at some of its calls."""

from __future__ import annotations

import contextlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock


@contextlib.contextmanager
def before_calls_of(name: str, strike: Callable[[int], None]) -> Iterator[None]:
    """Has `strike`, which may raise, called with the number of every call of a function, from 1, before that call.

    `name` is the function's full name.
    """
    owner, _, attribute = name.rpartition(".")
    original = getattr(pkgutil.resolve_name(owner), attribute)
    calls = 0

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        strike(calls)
        return original(*arguments, **keywords)

    with mock.patch(name, counted):
        yield
