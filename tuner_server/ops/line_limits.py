"""How many lines of a kind may be logged in a second, so that nobody can fill a disk by calling, or by failing."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

LINES_PER_S = 20.0
"""Lines of one kind, after the first LINES_AT_ONCE."""
LINES_AT_ONCE = 200.0
CALLS_PER_S = 500.0
"""Lines about calls that were answered: more than one process answers."""
CALLS_AT_ONCE = 2000.0
Kind = tuple[object, ...]
"""What tells lines of one kind from others."""
MAX_KINDS = 256
"""Kinds that are told apart; those beyond share one limit."""
_OTHERS: Kind = ("others",)


@dataclasses.dataclass(slots=True)
class _Bucket:
    """What one kind may still log."""

    left: float
    at_s: float
    left_out: int = 0


class LineLimits:
    """A bucket for each kind of line. Thread-safe."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        """`now_s` is a clock that only goes forward."""
        self._now_s = now_s
        self._lock = threading.Lock()
        self._buckets: dict[Kind, _Bucket] = {}

    def take(self, kind: Kind, *, answered_call: bool = False) -> int | None:
        """Whether a line may be written: how many of its kind were left out before it; None: it is left out itself."""
        per_s, at_once = (CALLS_PER_S, CALLS_AT_ONCE) if answered_call else (LINES_PER_S, LINES_AT_ONCE)
        with self._lock:
            now_s = self._now_s()
            if kind not in self._buckets and len(self._buckets) >= MAX_KINDS:
                kind = _OTHERS
            bucket = self._buckets.setdefault(kind, _Bucket(at_once, now_s))
            bucket.left = min(at_once, bucket.left + (now_s - bucket.at_s) * per_s)
            bucket.at_s = now_s
            if bucket.left < 1:
                bucket.left_out += 1
                return None
            bucket.left -= 1
            left_out, bucket.left_out = bucket.left_out, 0
            return left_out

    def left_out(self) -> dict[Kind, int]:
        """How many lines were left out, by their kinds, that no line has told of; they count as told then."""
        with self._lock:
            found = {kind: bucket.left_out for kind, bucket in self._buckets.items() if bucket.left_out}
            for kind in found:
                self._buckets[kind].left_out = 0
        return found
