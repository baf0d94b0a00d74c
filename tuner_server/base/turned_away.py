"""Tells the log of connections that a port has no room for: in one line now and then, however many there are."""

from __future__ import annotations

import structlog

LOG_S = 10.0
"""Seconds between two lines about the same port."""

log = structlog.get_logger(__name__)


class TurnedAway:
    """Counts the connections that one port has turned away since the last line."""

    def __init__(self, port: str, limit: int) -> None:
        """`port` is the setting that the port has, which may have `limit` connections."""
        self._port, self._limit = port, limit
        self.refused = self.ended = 0
        """Connections that were not let in, and that were let in and ended since."""
        self._due_s = 0.0

    def look(self, now_s: float) -> None:
        """Writes a line, if there is something to tell and the last one is old enough, on the monotonic clock."""
        if (self.refused or self.ended) and now_s >= self._due_s:
            log.warning(
                "connections turned away", port=self._port, refused=self.refused, ended=self.ended, limit=self._limit
            )
            self.refused = self.ended = 0
            self._due_s = now_s + LOG_S
