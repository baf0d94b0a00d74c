"""Jobs that are too short for a search are told first to train to their end. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lrpilot.wire.phase import Phase
from lrpilot.wire.schedule_data import Segment


class StepCounts(Protocol):
    """The steps of a job, as its state and the message on it count them."""

    @property
    def committed_steps(self) -> int:
        """Steps that are in the model."""

    @property
    def search_steps(self) -> int:
        """Steps that were rolled back."""

    @property
    def given_back_steps(self) -> int:
        """The part of `search_steps` that was committed first."""


def probe_steps(job: StepCounts) -> int:
    """Steps of probes and range tests: what the search costs where nothing diverges in committed steps."""
    return job.search_steps - job.given_back_steps


def unsearched_so_far(job: StepCounts, *, trains: bool) -> bool:
    """Whether a job has committed steps, or has them under way (`trains`), and had no search before them."""
    return probe_steps(job) == 0 and (trains or job.committed_steps > 0)


def was_unsearched(job: StepCounts, segments: Sequence[Segment], *, begins_unsearched: bool) -> bool:
    """Whether a job had no search: it was too short for one, or its policy tries no LRs.

    Args:
        job: whose steps count.
        segments: what it has committed.
        begins_unsearched: whether its directive is the first one of such a job, which tells it before the first report.
    """
    if probe_steps(job) > 0:
        return False
    if not segments:
        return begins_unsearched
    # A client that had no server at its beginning told itself stage 0.
    return segments[0].phase is Phase.TRAIN and segments[0].stage >= 1


def begins_unsearched(number: int, n_steps: int, stage: int, total_steps: int | None, *, trains: bool) -> bool:
    """Whether a directive is the first one of a job that is too short for a search: it trains to the job's end.

    Args:
        number: the directive's.
        n_steps: the directive's.
        stage: the directive's, from 1; 0 is a client's that tells itself what to do without a server.
        total_steps: the job's; None: no end is known.
        trains: whether the directive's phase is TRAIN.
    """
    return trains and number == 1 and stage >= 1 and n_steps == total_steps
