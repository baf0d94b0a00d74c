"""The life of a job: whether its client is still there, as far as anybody can know from the signs that it gives.

A job's status says where its policy is. Its life says where its client is, and follows from three columns and the time.
Nothing has to run for it to change, and any sign of the client revives the job.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from datetime import datetime, timedelta
from typing import Self

from tuner_server.core.job.state import Status

SILENT_AFTER_S = 300.0
"""Seconds without a sign after which a client counts as silent: five times what it lets pass between two signs."""
ABANDONED_AFTER_S = 86_400.0
"""Seconds without a sign after which a job counts as abandoned: a day, in which somebody will have looked."""
GRAINS = 30
"""A sign is written again when the one before is older than this part of `silent_after`; before, it tells nothing."""
_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


class Life(enum.StrEnum):
    """Where the client of a job is that has not ended."""

    ALIVE = "alive"
    SILENT = "silent"
    STOPPED = "stopped"
    ABANDONED = "abandoned"


@dataclasses.dataclass(frozen=True, slots=True)
class Signs:
    """What a client has let the server know of itself. Times are aware."""

    sign_time: datetime
    """The time of its last sign of life."""
    leave_time: datetime | None = None
    """The time when it said that it leaves; None: it did not, or it came back."""


@dataclasses.dataclass(frozen=True, slots=True)
class Vitals:
    """The life of a job at a moment."""

    life: Life | None
    """Where its client is; None: the job has ended."""
    silence: timedelta = timedelta()
    """How long ago its client's last sign was."""

    @property
    def dead(self) -> bool:
        """Whether nobody works on the job: it has ended, was left, or is abandoned."""
        return self.life not in (Life.ALIVE, Life.SILENT)

    @property
    def troubled(self) -> bool:
        """Whether the job has not ended, and its client is not there."""
        return self.life not in (Life.ALIVE, None)

    @property
    def ago(self) -> str:
        """How long ago the last sign was, as people say it: `12 minutes ago`."""
        return f"{in_words(self.silence)} ago"

    @property
    def since(self) -> str:
        """Since when its client is not there, after the word for that: `for 12 minutes`; empty: it is there."""
        if not self.troubled:
            return ""
        return self.ago if self.life is Life.STOPPED else f"for {in_words(self.silence)}"

    @property
    def sentence(self) -> str:
        """What is to be said of the client; empty: it is there, or the job has ended."""
        match self.life:
            case Life.SILENT:
                return f"Its client is silent: the last sign came {self.ago}."
            case Life.STOPPED:
                return f"Its client left {self.ago}, before the end of the run."
            case Life.ABANDONED:
                return f"It is abandoned: the last sign of its client came {self.ago}."
        return ""


UNTOLD = Vitals(None)
"""The life of a job of whose client nothing is said."""


@dataclasses.dataclass(frozen=True, slots=True)
class LifeLimits:
    """How long a sign of a client counts."""

    silent_after: timedelta = timedelta(seconds=SILENT_AFTER_S)
    abandoned_after: timedelta = timedelta(seconds=ABANDONED_AFTER_S)

    @classmethod
    def of_seconds(cls, silent_after_s: float, abandoned_after_s: float) -> Self:
        """The limits as settings give them."""
        return cls(timedelta(seconds=silent_after_s), timedelta(seconds=abandoned_after_s))

    @property
    def grain(self) -> timedelta:
        """How much older than the truth a sign may be that is kept."""
        return self.silent_after / GRAINS

    def vitals(self, status: Status, signs: Signs, now: datetime) -> Vitals:
        """The life of a job with this status.

        A sign from the future was written by a clock that has been set back since. It counts as one of now, unless it
        is further ahead than `silent_after`: then nothing is known of the client, and it counts as silent.
        """
        silence = now - signs.sign_time
        shown = max(silence, timedelta())
        if not status.live:
            return Vitals(None, shown)
        if signs.leave_time is not None:
            return Vitals(Life.STOPPED, shown)
        if abs(silence) <= self.silent_after:
            return Vitals(Life.ALIVE, shown)
        return Vitals(Life.ABANDONED if silence > self.abandoned_after else Life.SILENT, shown)

    def kept_sign(self, signs: Signs, now: datetime) -> datetime:
        """The time to keep as that of a sign of now: the former one, where a newer one would tell nothing."""
        fresh = timedelta() <= now - signs.sign_time < self.grain
        return signs.sign_time if fresh else now


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """Which jobs a listing shows, by what is said of them in a word; without any, all.

    A job whose client is silent, left or abandoned it is shown as that, and else by its status.
    """

    statuses: tuple[Status, ...] = ()
    """The statuses of jobs that have ended, or whose client is there."""
    lives: tuple[Life, ...] = ()
    """The lives of jobs that have not ended."""

    @property
    def everything(self) -> bool:
        """Whether all jobs are shown."""
        return not (self.statuses or self.lives)

    def __or__(self, other: Shown) -> Shown:
        """What either shows, where both are about some jobs."""
        return Shown(
            tuple(dict.fromkeys(self.statuses + other.statuses)), tuple(dict.fromkeys(self.lives + other.lives))
        )

    def shows(self, status: Status, life: Life | None) -> bool:
        """Whether a job of this status and life is among them."""
        by_status = status in self.statuses and life in (Life.ALIVE, None)
        return self.everything or by_status or life in self.lives


_ENDED = tuple(status for status in Status if not status.live)
SHOWN: dict[str, Shown] = {
    "live": Shown(lives=tuple(Life)),
    "ended": Shown(statuses=_ENDED),
    **{status.value: Shown(statuses=(status,)) for status in Status},
    **{life.value: Shown(lives=(life,)) for life in Life},
}
"""What can be asked for by a word: all that has not ended, all that has, a status, or a life."""


ALL_SHOWN = Shown()


def in_words(length: timedelta) -> str:
    """A length of time in its largest unit: `1 minute`, `3 hours`."""
    seconds = max(length.total_seconds(), 0.0)
    for size, unit in _UNITS:
        if seconds >= size or unit == "second":
            value = math.floor(seconds / size)
            return f"{value} {unit}{'' if value == 1 else 's'}"
    raise AssertionError(seconds)  # the last unit takes all


def shown_word(status: Status, life: Life | None) -> str:
    """What is said of a job in a word: its status, or that its client is not there."""
    return (status if life in (Life.ALIVE, None) else life).value.replace("_", "-")
