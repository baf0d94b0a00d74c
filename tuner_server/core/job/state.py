"""The state of a job between two events, and what an event did. Pure values: `core.job.machine` moves them.

Nothing here knows a policy, so whoever only looks at a job need not wait for what a search needs (SciPy).
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Literal

from lrpilot.wire import unsearched

from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.job.plan import Plan
from tuner_server.core.job.standing import Standing
from tuner_server.core.messages import Decision, Directive, Ending, Phase, PlanChange, Report
from tuner_server.core.search.prior import Prior


class Status(enum.StrEnum):
    """The status of a job in its life."""

    WARM_UP = "warm_up"
    SEARCHING = "searching"
    TRAINING = "training"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def live(self) -> bool:
        """Whether the job goes on by itself. One that has finished can be extended."""
        return self not in _ENDS


_ENDS = {Status.FINISHED, Status.CANCELLED, Status.FAILED}
TRANSITIONS: dict[Status, set[Status]] = {
    # A search (range test) may come before the warm-up; a search always ends in committed steps, or in an end.
    Status.WARM_UP: {Status.WARM_UP, Status.SEARCHING, Status.TRAINING, *_ENDS},
    Status.SEARCHING: {Status.SEARCHING, Status.WARM_UP, Status.TRAINING, *_ENDS},
    Status.TRAINING: {Status.TRAINING, Status.SEARCHING, *_ENDS},
    # Whose end is moved.
    Status.FINISHED: {Status.SEARCHING, Status.TRAINING, Status.FINISHED, Status.FAILED},
    Status.CANCELLED: set(),
    Status.FAILED: set(),
}


class JobState(Standing):
    """The whole state of a job between two events; its standing is that of the committed steps."""

    format: Literal[1] = 1
    """The format of this JSON; a later one brings a migration of stored states."""
    config: JobConfig
    prior: Prior | None = None
    """What earlier jobs of its family told when it was opened."""
    status: Status
    directive: Directive
    """The outstanding one."""
    lease: Directive
    """The directive as the policy gave it; `directive` is what is left of it when it is reported in parts."""
    committed_steps: int = 0
    search_steps: int = 0
    """Steps that were rolled back."""
    given_back_steps: int = 0
    """The part of `search_steps` that was committed first, and rolled back after a divergence or a broken promise."""
    snapshot_step: int | None = None
    """Committed steps when the client's snapshot was taken."""
    snapshot_standing: Standing = Standing()
    """The standing when the client's snapshot was taken."""
    bounds: LrBounds | None = None
    first_loss: float | None = None
    """The untrained model's, or nearly: the first one that was reported."""
    first_validation: float | None = None
    """The first validation that was reported, that of a probe's beginning included: nearly the untrained model's."""
    wall_time_s: float = 0.0
    plan: Plan | None = None
    """The plan of the run since it has changed; None: that of the config."""
    requested: tuple[PlanChange, ...] = ()
    """Changes of the plan that wait until steps are committed, in the order in which they were asked for."""
    request_ids: tuple[str, ...] = ()
    """The names of the latest requests for changes of the plan."""
    resume_ids: tuple[str, ...] = ()
    """The names of the latest times that a client took the job back; the last one is whose reports are taken."""
    policy_state: dict[str, Any] | None = None
    """The state of the policy as JSON; None: it has not started (range test)."""
    message: str = ""
    unrepeatable: str = ""
    """The note of the report that ended the search, since a rollback was not complete; empty: none did."""
    ending: Ending | None = None
    """What came of the average of the weights, where the last directive had one."""

    @property
    def resumed_as(self) -> str:
        """The name of the last time that a client took the job back; empty: none did."""
        return self.resume_ids[-1] if self.resume_ids else ""

    @property
    def present_plan(self) -> Plan:
        """The plan of the run as it is now."""
        return self.plan or Plan(total_steps=self.config.total_steps)

    @property
    def run_steps(self) -> int:
        """Steps that were run, search included."""
        return self.committed_steps + self.search_steps

    @property
    def probe_steps(self) -> int:
        """Steps of probes and range tests: what the search costs where nothing diverges in committed steps."""
        return unsearched.probe_steps(self)

    @property
    def unsearched(self) -> bool:
        """Whether the job has committed steps, or has them under way, and had no search before them."""
        return unsearched.unsearched_so_far(self, trains=self.directive.phase is Phase.TRAIN)

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of the run as it is planned now, search included; None: no end is known."""
        return self.present_plan.total_steps

    @property
    def remaining_steps(self) -> int | None:
        """Steps that may still be run; None: no end is known."""
        return None if self.total_steps is None else self.total_steps - self.run_steps

    @property
    def progress(self) -> float | None:
        """The part of the steps that were run, from 0 to 1; None: no end is known."""
        return None if self.total_steps is None else self.run_steps / self.total_steps


@dataclasses.dataclass(frozen=True, slots=True)
class Transition:
    """What an event did."""

    state: JobState
    directive: Directive
    decision: Decision | None = None
    report: Report | None = None
    """The report as it was taken: with the change that somebody had asked for meanwhile. None: a job was opened."""
