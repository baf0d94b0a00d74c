"""The project on whose behalf a call is made, and what the call may do."""

from __future__ import annotations

import dataclasses
import enum

DEFAULT_PROJECT = "default"
"""The project of all jobs on a server that asks for no tokens. It is made with the database."""


class Scope(enum.StrEnum):
    """What a token allows, within its project."""

    READ = "read"
    """Look at jobs: GetJob, ListJobs, GetSchedule, WatchJob."""
    TRAIN = "train"
    """Be a training job: CreateJob, Advance, ResumeJob, Beat, LeaveJob."""
    CANCEL = "cancel"
    """End the tuning of a job: CancelJob."""
    PLAN = "plan"
    """Change the plan of a job: ChangePlan."""
    EDIT = "edit"
    """Name a job, and note something on it: DescribeJob."""
    DELETE = "delete"
    """Delete a job: DeleteJob."""


@dataclasses.dataclass(frozen=True, slots=True)
class Principal:
    """Whoever makes a call."""

    project: str
    scopes: frozenset[Scope]
    token_id: str = ""
    """Empty on a server that asks for no tokens."""
    max_calls_per_s: float | None = None
    """The limit of the project, for training and for reading each; None: there is none."""


ANYONE = Principal(DEFAULT_PROJECT, frozenset(Scope))
"""The caller of a server that asks for no tokens."""
