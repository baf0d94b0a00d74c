"""A limit of so many calls a second on average, of which as many may come at once as fit into a second."""

from __future__ import annotations


class TokenBucket:
    """Lets calls through at a rate (https://en.wikipedia.org/wiki/Token_bucket). It is full at first."""

    def __init__(self, rate: float, now: float) -> None:
        """Lets `rate` calls a second through; `now` in seconds, on any clock that never goes back."""
        self.rate = rate
        self._size = max(rate, 1.0)
        self._level = self._size
        self._time = now

    def take(self, now: float) -> float:
        """Lets a call through if it can: 0, or else the seconds until it could."""
        self._level = min(self._level + (now - self._time) * self.rate, self._size)
        self._time = now
        if self._level >= 1.0:
            self._level -= 1.0
            return 0.0
        return (1.0 - self._level) / self.rate
