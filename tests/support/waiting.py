"""Waiting for what comes about in another process or thread."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 60.0


def wait_until(true: Callable[[], bool]) -> None:
    """Until it is so. Raises: AssertionError: it does not come about."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
