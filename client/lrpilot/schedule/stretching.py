"""A schedule at another length: every part of the run keeps its share, and the LRs their places in it."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from lrpilot.errors import ScheduleError
from lrpilot.wire.profile import Profile
from lrpilot.wire.schedule_data import ScheduleData, Segment

S = TypeVar("S", bound=ScheduleData)


def stretched(schedule: S, total_steps: int, lr_factor: float) -> S:
    """The LRs of a schedule over so many steps; what was seen in the run is left out, as it is not of this one.

    Args:
        schedule: with steps.
        total_steps: committed steps of what is made, at least 1.
        lr_factor: what all LRs are multiplied by.

    Raises:
        ScheduleError: the schedule has no steps.
    """
    if not schedule.n_steps:
        raise ScheduleError("stretch: the schedule has no steps")
    segments: list[Segment] = []
    for segment in schedule.segments:
        begin, end = (
            round(step * total_steps / schedule.n_steps)
            for step in (segment.start_step, segment.start_step + segment.n_steps)
        )
        if end > begin:
            profile = _profile(segment.profile, (end - begin) / segment.n_steps, lr_factor)
            segments.append(dataclasses.replace(segment, start_step=begin, n_steps=end - begin, profile=profile))
    return dataclasses.replace(
        schedule,
        total_steps=total_steps,
        segments=tuple(segments),
        losses=(),
        validations=(),
        probes=(),
        ending=None,
        replans=(),
    )


def _profile(profile: Profile, ratio: float, lr_factor: float) -> Profile:
    """A profile stretched to `ratio` times its steps."""
    warmup = round(profile.warmup * ratio)
    try:
        return dataclasses.replace(
            profile,
            start_lr=profile.start_lr * lr_factor,
            end_lr=profile.end_lr * lr_factor,
            length=max(round(profile.length * ratio), warmup + 1),
            offset=round(profile.offset * ratio),
            warmup=warmup,
        )
    except ValueError as error:
        raise ScheduleError(f"stretch: LRs times {lr_factor:g}: {error}") from error
