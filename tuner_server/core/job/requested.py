"""The changes of a run's plan that wait: somebody at the server asked for them, or a client did during a search. Pure.

One takes effect with each report on committed steps, in the order in which they were asked for.
"""

from __future__ import annotations

from typing import NamedTuple

from tuner_server.core.errors import InvalidInputError, PreconditionError
from tuner_server.core.job.plan import Plan, changed, check, resolved
from tuner_server.core.job.state import JobState
from tuner_server.core.messages import MAX_STEPS, ChangeKind, ChangeOrigin, Outcome, PlanChange, Report
from tuner_server.core.stop_evidence import Stopping

MAX_WAITING = 20
"""Changes of one job that wait at the same time."""
NAMES_KEPT = 100
"""Names of requests that are known again: those of the latest ones."""


def request(state: JobState, change: PlanChange) -> JobState:
    """The job with a change of its plan that somebody at the server asks for; what was asked already changes nothing.

    That is a request of a name that came before; without names, the same change as the latest one that waits.

    Raises:
        PreconditionError: the job has ended, or too many changes of it wait.
        InvalidInputError: the change can't be made, or only the training program can.
    """
    if not state.status.live:
        raise PreconditionError(f"job has ended ({state.status}); its plan can't change any more")
    if change.kind is ChangeKind.UNDO_ANNEALING:
        raise InvalidInputError.of("change.kind", "only the training program can undo an annealing")
    if change.request_id in state.request_ids:
        return state
    check(change, state.run_steps, _with_waiting(state), "change")
    change = change.model_copy(update={"origin": ChangeOrigin.OPERATOR})
    if not change.request_id and state.requested[-1:] == (change,):
        return state
    if len(state.requested) >= MAX_WAITING:
        raise PreconditionError(f"{MAX_WAITING} changes of the job's plan wait for its next report; ask again later")
    requested = (*state.requested, change)
    return state.model_copy(update={"requested": requested, "request_ids": _names_with(state, change)})


def _names_with(state: JobState, change: PlanChange) -> tuple[str, ...]:
    """The names of the latest requests, with that of one more."""
    if change.request_id in ("", *state.request_ids):
        return state.request_ids
    return (*state.request_ids, change.request_id)[-NAMES_KEPT:]


def _with_waiting(state: JobState) -> Plan:
    """The plan with the changes that wait, as far as it is known before they take effect."""
    plan = state.present_plan
    for change in state.requested:
        if change.kind is not ChangeKind.UNDO_ANNEALING:
            plan = changed(plan, resolved(change, plan, state.run_steps), state.run_steps, state.committed_steps)
    return plan


class Due(NamedTuple):
    """A change that takes effect."""

    state: JobState
    """The job, in which it waits no more."""
    report: Report
    """The report with which it takes effect, as the history has it."""
    change: PlanChange
    """As it takes effect."""
    evidence: Stopping | None = None
    """Why a run is stopped by it."""


def check_own(state: JobState, report: Report, *, waits: bool) -> None:
    """Refuses a client's own change that can't be made, or one too many that `waits`. Raises: InvalidInputError."""
    change = report.change
    if change is None or change in state.requested:
        return
    if waits and sum(other.origin is ChangeOrigin.CLIENT for other in state.requested) >= MAX_WAITING:
        raise InvalidInputError.of(
            "report.change", f"{MAX_WAITING} changes wait already; send it with a report on committed steps"
        )
    plan = state.present_plan if change.later_steps is None else _with_waiting(state)
    if change.origin is ChangeOrigin.CLIENT:
        check(change, state.run_steps + report.run_steps, plan)
        return
    # A run that is told again may have passed the end that somebody asked for meanwhile, or have none any more.
    check(change, 0, plan if plan.total_steps is not None else plan.model_copy(update={"total_steps": 0}))


def due(state: JobState, report: Report) -> Due | None:
    """The change that takes effect with a report: its client's own, or one that waits; None: there is none.

    Args:
        state: the job, the report's steps included.
        report: the report.
    """
    asked = report.change or _first(state)
    if asked is None:
        return None
    change = resolved(asked, state.present_plan, state.run_steps)
    left = list(state.requested)
    if asked in left:
        left.remove(asked)
    # A job that is told again has not heard the request itself.
    state = state.model_copy(update={"requested": tuple(left), "request_ids": _names_with(state, asked)})
    return Due(state, report.model_copy(update={"change": asked}), change)


def _first(state: JobState) -> PlanChange | None:
    """The change whose turn it is. After the last step only another end leaves anything to replan."""
    if state.remaining_steps == 0:
        for change in state.requested:
            if change.kind is not ChangeKind.REPLAN:
                return change
    return state.requested[0] if state.requested else None


def waiting(state: JobState, change: PlanChange) -> JobState:
    """The job in which a client's change waits until steps are committed, with those that wait already."""
    if change in state.requested:
        return state
    return state.model_copy(update={"requested": (*state.requested, change)})


def put_back(state: JobState, report: Report) -> JobState:
    """The job in which a change waits again that its client had not heard of when it trained on by itself.

    That is so if the directive that was to tell of the change was replaced. What a client has changed itself it has
    carried out by itself, too.
    """
    overlooked = state.directive.change
    if report.outcome is not Outcome.REPLACED or overlooked is None or overlooked.origin is ChangeOrigin.CLIENT:
        return state
    total_steps = state.total_steps
    if overlooked.kind is ChangeKind.ANNEAL:
        assert state.plan is not None
        assert state.plan.annealing is not None
        total_steps = state.plan.annealing.total_steps
    elif overlooked.later_steps is not None and total_steps is not None:
        total_steps -= overlooked.later_steps
    if _too_late(overlooked, total_steps, state.run_steps + report.run_steps):
        return state.model_copy(update={"plan": Plan(total_steps=total_steps)})
    if total_steps is not None and overlooked.kind is not ChangeKind.REPLAN:
        # The client may have passed an end that was moved towards it, or that of the plan before two annealings.
        total_steps = min(max(total_steps, state.run_steps + report.run_steps), MAX_STEPS)
    if overlooked.kind is not ChangeKind.EXTEND or overlooked.later_steps is not None:
        overlooked = overlooked.model_copy(update={"total_steps": None})
    plan = Plan(total_steps=total_steps)
    return state.model_copy(update={"plan": plan, "requested": (overlooked, *state.requested)})


def _too_late(change: PlanChange, total_steps: int | None, run_steps: int) -> bool:
    """Whether an annealing that nobody asked for would end a run later than its client, by itself, has ended it."""
    if change.origin is not ChangeOrigin.POLICY or change.anneal_steps is None or total_steps is None:
        return False
    return run_steps + change.anneal_steps > total_steps
