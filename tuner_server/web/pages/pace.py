"""How fast a job goes, and how long it still takes. Pure."""

from __future__ import annotations

import dataclasses
import math

from tuner_server.core.job.state import JobState
from tuner_server.history.words.numbers import about, count, number

MANY = 10.0
"""Steps a second from which on their fractions are nobody's business."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pace:
    """The mean pace of a job over all steps that it reported, and what follows from it."""

    steps_per_s: float | None
    """None: nothing was reported yet, or no time with it."""
    left_s: float | None
    """Seconds of training until its end; None: it has none, or nothing tells."""

    @classmethod
    def of(cls, state: JobState) -> Pace:
        """The pace of a job."""
        timed = state.run_steps > 0 and state.wall_time_s > 0
        pace = state.run_steps / state.wall_time_s if timed else None
        if not state.status.live:
            return cls(pace, None)
        if state.config.total_time_s is not None and state.total_steps is None:
            return cls(pace, max(state.config.total_time_s - state.wall_time_s, 0.0))
        left = state.remaining_steps
        return cls(pace, None if pace is None or left is None else left / pace)

    @property
    def left(self) -> str:
        """How long it still takes: `2 h 5 min`; empty: nothing tells."""
        return "" if self.left_s is None or not math.isfinite(self.left_s) else about(self.left_s)

    @property
    def short(self) -> str:
        """The pace in a list: `12/s`, `3.2 s each`; empty: nothing tells."""
        return self._told("/s", " s each")

    @property
    def words(self) -> str:
        """The pace in words: `12 steps/s`, `3.2 s a step`; empty: nothing tells."""
        return self._told(" steps/s", " s a step")

    def _told(self, often: str, seldom: str) -> str:
        pace = self.steps_per_s
        if pace is None or not math.isfinite(pace):
            return ""
        if pace < 1:
            return f"{number(1 / pace)}{seldom}"
        return f"{count(round(pace)) if pace >= MANY else number(pace)}{often}"
