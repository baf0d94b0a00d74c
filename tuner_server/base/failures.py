"""Tells the log why calls fail: when it begins, once a minute while it goes on, and when it has ended.

A database that is away fails every call, for the same reason. A line for each of them would bury the reason, and fill
the disk that may be what is missing.
"""

from __future__ import annotations

import dataclasses
import re
import threading
import time
import traceback
from collections.abc import Callable

import structlog

AGAIN_S = 60.0
"""Seconds between two lines about the same failure, and without it before it has ended."""
MAX_KINDS = 32
"""Failures that are told apart. Their words may come from outside; those beyond count together."""
_OTHERS = "others"
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|[0-9a-f]{8,}|\d+")
"""What differs between two failures for one reason: process ids, ports, addresses, jobs."""

log = structlog.get_logger(__name__)


@dataclasses.dataclass(slots=True)
class _Course:
    """What is known of a failure that goes on."""

    why: str
    began_s: float
    told_s: float
    last_s: float
    count: int = 1


class Failures:
    """The failures of one process. Thread-safe."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        """`now_s` is a clock that only goes forward."""
        self._now_s = now_s
        self._lock = threading.Lock()
        self._courses: dict[str, _Course] = {}
        self.total = 0
        """Failures of any kind since the start."""

    def because(self, error: BaseException) -> None:
        """A call failed because something that it needs can't be used; the error says what."""
        why = f"{type(error).__name__}: {error}"
        self._happened(_NUMBER.sub("#", why)[:200], why, None)

    def unforeseen(self, error: BaseException) -> None:
        """A call failed because of a fault of ours. Lines about it have the traceback."""
        place = traceback.extract_tb(error.__traceback__)[-1:]
        where = f"{place[0].filename}:{place[0].lineno}" if place else "unknown"
        self._happened(f"{type(error).__name__} at {where}", f"{type(error).__name__} at {where}", error)

    def look(self) -> None:
        """Tells of failures that have ended. To be called now and then."""
        now_s = self._now_s()
        with self._lock:
            ended = [key for key, course in self._courses.items() if now_s - course.last_s >= AGAIN_S]
            courses = [self._courses.pop(key) for key in ended]
        for course in courses:
            lasted_s = round(course.last_s - course.began_s)
            log.info("calls fail no longer", why=course.why, count=course.count, lasted_s=lasted_s)

    def _happened(self, key: str, why: str, error: BaseException | None) -> None:
        now_s = self._now_s()
        with self._lock:
            self.total += 1
            if key not in self._courses and len(self._courses) >= MAX_KINDS:
                key, why = _OTHERS, f"many reasons, such as {why}"
            course = self._courses.get(key)
            if course is None:
                self._courses[key] = course = _Course(why, now_s, now_s, now_s)
            else:
                course.count += 1
                course.last_s = now_s
                if now_s - course.told_s < AGAIN_S:
                    return
                course.told_s = now_s
            count = course.count
        if error is not None:
            log.error("a call failed", why=why, count=count, exc_info=error)
        else:
            log.warning("calls fail", why=why, count=count)


FAILURES = Failures()
"""Those of this process."""
