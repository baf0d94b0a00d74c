"""Whether somebody still waits for an answer: work for one who has left is not done to its end."""

from __future__ import annotations

import threading

from tuner_server.core.errors import AbandonedError


class Interest:
    """Somebody's interest in an answer, which ends when they leave. Thread-safe."""

    def __init__(self) -> None:
        self._ended = threading.Event()

    @property
    def lasts(self) -> bool:
        """Whether they still wait."""
        return not self._ended.is_set()

    def end(self) -> None:
        """They have left."""
        self._ended.set()

    def check(self) -> None:
        """Is called now and then by whoever works on the answer. Raises: AbandonedError: they have left."""
        if self._ended.is_set():
            raise AbandonedError("nobody waits for this answer any more")
