"""A decay that reaches zero when a time is over, made of pieces whose lengths follow the speed so far.

Nobody knows how many steps fit into a time: data come slowly, machines are shared. So the LR is laid over the time that
is left, and each piece of it is turned into steps at the speed that was seen last. What a piece takes too long, the
next ones are shorter by.
"""

from __future__ import annotations

from tuner_server.core.messages import Lr, Report, Value

PIECE_SHARE = 0.05
"""A piece takes this part of the time that is left,"""
SHORTEST_PIECE = 0.005
"""but no less than this part of all the time: each costs a report."""
LAST_SHARE = 0.02
"""What is left is one last piece, once it is no more than this part of all the time."""
FIRST_PIECES = 2
"""The first piece is as long as so many, as its first half is the warm-up."""
BLIND_STEPS = 20
"""Steps of a piece before any pace is known."""
NEWEST = 0.5
"""The weight of the last report's speed against those before."""


class TimeLine(Value):
    """A line from an LR to zero, over the time."""

    lr: Lr
    """The LR with which it begins."""
    left_s: float
    """Seconds from there to the end."""

    def lr_at(self, left_s: float) -> float:
        """The LR when so many seconds are left; that of the beginning, where it is earlier or the time is over."""
        if not 0 < left_s < self.left_s:
            return self.lr
        return self.lr * left_s / self.left_s


def pace(known: float | None, report: Report) -> float | None:
    """Seconds that a step takes, after one more report; None: it is not known yet."""
    if report.n_steps == 0 or not report.wall_time_s > 0:
        return known
    newest = report.wall_time_s / report.n_steps
    return newest if known is None else NEWEST * newest + (1 - NEWEST) * known


def is_last(left_s: float, total_s: float) -> bool:
    """Whether what is left is one piece."""
    return left_s <= LAST_SHARE * total_s


def piece_s(left_s: float, total_s: float, *, first: bool) -> float:
    """Seconds of the next piece, where more than the last one is left."""
    return max(PIECE_SHARE * left_s * (FIRST_PIECES if first else 1), SHORTEST_PIECE * total_s)


def steps_in(seconds: float, seconds_per_step: float | None) -> int:
    """How many steps fit into so many seconds; at an unknown pace a few, which tell it."""
    return BLIND_STEPS if seconds_per_step is None else max(int(seconds / seconds_per_step), 0)
