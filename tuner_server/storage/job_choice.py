"""Which jobs are meant: those of a listing, and those that nobody works on."""

from __future__ import annotations

import dataclasses
from datetime import datetime

from tuner_server.core.job.life import ALL_SHOWN, Shown


@dataclasses.dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs of a project are asked for."""

    shown: Shown = ALL_SHOWN
    """By what is said of them."""
    as_of: datetime | None = None
    """The time at which lives are looked at, aware; needed with `shown`."""
    family: str | None = None
    """Only jobs of this family; None: all."""
    called: str = ""
    """Only jobs of this name, or whose ids begin so; empty: all."""


ALL_JOBS = JobFilter()
HALF_DELETED = "half deleted"
"""What is said of a job that is gone, but whose history still takes space: its deletion was interrupted, or goes on."""


@dataclasses.dataclass(frozen=True, slots=True)
class DeadJobs:
    """Jobs that nobody works on: that have ended, were left, or are abandoned."""

    unchanged_since: datetime
    """Only jobs that have neither changed nor given a sign since; aware."""
    as_of: datetime
    """The time at which lives are looked at; aware."""
    project: str | None = None
    """Only jobs of this project; None: of all."""
    silent: bool = False
    """Also jobs whose client is silent, though not for so long that they are abandoned."""
