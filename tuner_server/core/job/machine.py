"""The life of a job: one state, one event in, one directive out.

Ground rules.

- A job always has exactly one directive outstanding, numbered from 1. A report on it, and on nothing else, moves it.
- `advance` is pure: the same state and report give the same transition, on any process, at any time. An event that is
  refused raises and leaves the state as it was (states are immutable).
- The job keeps the books (committed and search steps, the snapshot they go back to) and enforces the contract; what to
  try and what to commit is the policy's business. The range test, where no bounds were given, is the job's.
- A policy that breaks the contract, or raises, fails the job and not the training: the client is told to stop asking.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from tuner_server.core import policies
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.errors import InvalidInputError, PolicyError, PreconditionError
from tuner_server.core.evidence import restart
from tuner_server.core.faults import described, guarded
from tuner_server.core.job import members, parts, requested, stopping
from tuner_server.core.job.loss_course import LossCourse
from tuner_server.core.job.noticing import in_model, noticed
from tuner_server.core.job.plan import changed
from tuner_server.core.job.progress import progress_at_start, progress_of
from tuner_server.core.job.report_check import check_replacement, check_report

# Whoever moves jobs needs these names too.
from tuner_server.core.job.requested import request as request
from tuner_server.core.job.standing import Standing
from tuner_server.core.job.state import TRANSITIONS as TRANSITIONS
from tuner_server.core.job.state import JobState as JobState
from tuner_server.core.job.state import Status as Status
from tuner_server.core.job.state import Transition as Transition
from tuner_server.core.messages import (
    ChangeKind,
    Directive,
    Outcome,
    Phase,
    PlanChange,
    Report,
    opening_loss,
)
from tuner_server.core.policies.base import Asking, Policy, Progress
from tuner_server.core.policies.contract import Answered, answered, checked, read_state
from tuner_server.core.search.prior import Prior
from tuner_server.core.search.suggest import Query, Suggestion, run
from tuner_server.core.stages import lr_range

MAX_DIRECTIVES = 50_000
"""Directives of a job, so that what is kept of it, and what it takes to tell its story, has an end: a client that
reports single steps would otherwise fill the database. No sound run needs as many: the policy that takes most, with a
search every 8,000 steps, comes to them after ten million steps and more, and a federation after as many rounds."""
_STATUS_OF_PHASE = {
    Phase.WARM_UP: Status.WARM_UP,
    Phase.RANGE_TEST: Status.SEARCHING,
    Phase.PROBE: Status.SEARCHING,
    Phase.TRAIN: Status.TRAINING,
    Phase.STOP: Status.FINISHED,
}


def create(config: JobConfig, prior: Prior | None = None) -> Transition:
    """Opens a job; `prior` is what earlier jobs of its family tell (`service.family`).

    Raises:
        InvalidInputError: the config names an unknown policy or option, or asks for what can't be done; or the policy
            raises, or breaks the contract.
    """
    config = config.model_copy(update={"policy": policies.named(config)})
    try:
        return _created(config, prior)
    except InvalidInputError:
        raise
    except Exception as error:  # whatever it is, it is the policy's, and the caller may name another one
        message = f"policy {config.policy!r} can't tune this job: {described(error)}"
        raise InvalidInputError.of("policy", message) from error


def advance(state: JobState, report: Report) -> Transition:
    """Takes the report on the outstanding directive and gives the next one.

    Raises:
        PreconditionError: the report is not on the outstanding directive, or the job has ended.
        InvalidInputError: the report contradicts its directive.
    """
    return run(advancing(state, report))


def advancing(state: JobState, report: Report) -> Generator[Query, Suggestion, Transition]:
    """What `advance` does, for whoever answers the policy's queries. Raises: as `advance`, before the first one."""
    directive = state.directive
    replans = report.outcome is Outcome.REPLANNED and report.change is not None
    reopened = state.status is Status.FINISHED and replans
    if directive.phase is Phase.STOP and not reopened:
        raise PreconditionError(f"job has ended ({state.status}); no report is expected")
    if report.directive_number != directive.number:
        raise PreconditionError(
            f"report.directive_number: {report.directive_number} is not the outstanding {directive.number}"
        )
    state = requested.put_back(state, report)
    if report.outcome is Outcome.REPLACED:
        check_replacement(report, state.remaining_steps)
    else:
        check_report(directive, report, state.config.has_validation)
    requested.check_own(state, report, waits=not in_model(directive, report))
    before, state = state, _account(state, report)
    if not (state.status.live or reopened):
        return _stop(state, report, state.status, state.message)
    if directive.number >= MAX_DIRECTIVES:
        message = (
            f"{MAX_DIRECTIVES:,} directives were reported, more than a job may have; "
            "report in larger parts, or open another job for what is left"
        )
        return _stop(state, report, Status.FAILED, message)
    try:
        return (yield from _next(before, state, report))
    except Exception as error:  # whatever it is, it is the policy's, and must not reach the training
        message = f"policy {state.config.policy}: {described(error)}"
        return _stop(state, report, Status.FAILED, message)


def replay(config: JobConfig, reports: Iterable[Report], prior: Prior | None = None) -> Transition:
    """A job after some reports: its state is a fold over its history, so any earlier one can be had again.

    Raises:
        InvalidInputError, PreconditionError: the reports are not those of such a job.
    """
    transition = create(config, prior)
    for report in reports:
        transition = advance(transition.state, report)
    return transition


def cancel(state: JobState, reason: str) -> JobState:
    """Ends the tuning. The report on the outstanding directive is still taken, and answered with STOP.

    Raises:
        PreconditionError: the job has ended already.
    """
    if not state.status.live:
        raise PreconditionError(f"job has ended already ({state.status})")
    return state.model_copy(update={"status": Status.CANCELLED, "message": reason or "cancelled by a user"})


def _created(config: JobConfig, prior: Prior | None) -> Transition:
    """A new job, whose config names its policy."""
    policy = policies.make(config)
    with guarded("`searches`"):
        tests_range = config.lr_bounds is None and policy.searches
    if tests_range:
        directive = lr_range.directive(config)
        return _issue(_opened(config, prior, directive), None, directive, None)
    bounds = config.lr_bounds or lr_range.blind(config)
    step = run(answered("start", lambda: policy.start(progress_at_start(config, prior, bounds))))
    answer = checked(step, policy.state_type)
    opened = _opened(config, prior, answer.directive).model_copy(update={"bounds": bounds})
    return _issue(opened, None, answer.directive, answer)


def _opened(config: JobConfig, prior: Prior | None, directive: Directive) -> JobState:
    """The state of a new job whose first directive is still to be completed and checked."""
    course = None
    if config.stop_when is not None:
        stopping.prepare()
        course = LossCourse()
    return JobState(
        config=config, prior=prior, status=Status.SEARCHING, directive=directive, lease=directive, course=course
    )


def _next(before: JobState, state: JobState, report: Report) -> Generator[Query, Suggestion, Transition]:
    """What follows on a report; the job was `before` it, and is `state` after it."""
    due = requested.due(state, report) if in_model(before.directive, report) else None
    if due is not None:
        return (yield from _replanned(due))
    if report.change is not None:
        state = requested.waiting(state, report.change)
    if report.change is None and state.remaining_steps != 0 and (found := noticed(before, state, report)):
        return (yield from _replanned(found))
    if report.outcome is Outcome.PARTIAL:
        return parts.taken(state, report)
    if report.outcome is Outcome.DIVERGED and state.first_loss is None:
        restart.check_beginnings(before.directive.number)
    if state.remaining_steps != 0:
        state, answer = yield from _ask_policy(state, report)
        if not (state.requested and answer.directive.phase.committed):
            return _issue(state, report, answer.directive, answer)
        state = state.model_copy(update={"policy_state": answer.state})
    due = requested.due(state, report)
    return _stop(state, report, Status.FINISHED, "") if due is None else (yield from _replanned(due))


def _replanned(due: requested.Due) -> Generator[Query, Suggestion, Transition]:
    """A change of the plan takes effect: the policy's next directive in the new one, which begins at a snapshot."""
    state, report, change, evidence = due
    plan = changed(state.present_plan, change, state.run_steps, state.committed_steps)
    bounds = state.bounds or lr_range.blind(state.config)
    state = state.model_copy(
        update={
            "plan": plan,
            "bounds": bounds,
            "best_since_change": None,
            "since_change": 0,
            "course": stopping.after_change(state.course, change),
        },
    )
    echo = change.model_copy(update={"total_steps": plan.total_steps})
    if state.remaining_steps == 0:
        return _stop(state, report, Status.FINISHED, "", echo)
    policy = policies.make(state.config)
    known = read_state(policy, state.policy_state or {})
    progress = progress_of(state, bounds)
    step = yield from answered("replan", lambda: policy.replan(known, change, progress))
    answer = checked(step, policy.state_type)
    directive = answer.directive.model_copy(update={"change": echo, "snapshot": True})
    if evidence is not None:
        answer = answer.with_evidence(evidence)
    return _issue(state, report, directive, answer)


def _ask_policy(state: JobState, report: Report) -> Generator[Query, Suggestion, tuple[JobState, Answered]]:
    """The state, with bounds if it had none, and the policy's answer to the report."""
    policy = policies.make(state.config)
    bounds = _bounds(state, report)
    state = state.model_copy(update={"bounds": bounds})
    progress = progress_of(state, bounds)
    step = yield from _step(policy, state, report, progress)
    return state, checked(step, policy.state_type)


def _bounds(state: JobState, report: Report) -> LrBounds:
    """The bounds of a job that has none before this report, too."""
    if report.outcome is Outcome.REPLACED:
        # A range test that was not had is not made up for: it would start from other weights.
        return state.bounds or lr_range.blind(state.config)
    if state.policy_state is None:
        return lr_range.bounds(state.lease, report, state.config)
    assert state.bounds is not None
    return state.bounds


def _step(policy: Policy[Any, Any], state: JobState, report: Report, progress: Progress) -> Asking[Any]:
    """Calls that method of the policy which the report is for."""
    if state.policy_state is None and report.outcome is not Outcome.REPLACED:
        return (yield from answered("start", lambda: policy.start(progress)))
    before = read_state(policy, state.policy_state or {})
    reason = ""
    if report.outcome is Outcome.UNREPEATABLE:
        before = before.model_copy(update={"search_ended": True})
        reason = f"a rollback was not complete, so no probe tells anything: {report.note}"
    elif report.outcome is Outcome.REPLACED and before.search_ended:
        reason = "joined again, and no probe tells anything"
    if reason:
        return (yield from answered("without_search", lambda: policy.without_search(before, progress, reason)))
    if report.outcome is Outcome.REPLACED:
        return (yield from answered("rejoin", lambda: policy.rejoin(before, progress)))
    return (yield from answered("advance", lambda: policy.advance(before, state.lease, report, progress)))


def _account(state: JobState, report: Report) -> JobState:
    """The books after a report. Committed steps that are not to stay undo all that came after the snapshot."""
    committed, searched, n = state.committed_steps, state.search_steps, report.n_steps
    undone = 0
    standing = Standing.of(state)
    update: dict[str, Any] = {"wall_time_s": state.wall_time_s + report.wall_time_s}
    if state.first_loss is None:
        update["first_loss"] = opening_loss(report.losses)
    if state.first_validation is None:
        update["first_validation"] = opening_loss([validation.loss for validation in report.validations])
    if report.outcome is Outcome.UNREPEATABLE:
        update["unrepeatable"] = report.note
    if report.ending is not None:
        update["ending"] = report.ending
    if report.replacement is not None:
        searched += report.replacement.wasted_steps
        update["snapshot_step"] = None  # the client has another snapshot by now
        update["plan"] = state.plan and state.plan.for_good
    if _rolled_back(state, report):
        if not state.directive.phase.searches:
            assert state.snapshot_step is not None
            undone = n + committed - state.snapshot_step
            committed, standing = state.snapshot_step, state.snapshot_standing
        searched += 0 if state.directive.taken_along else undone or n
    else:
        committed += n
        lrs = state.directive.profile if report.replacement is None else report.replacement.profile
        standing = standing.after(report, lrs)
    update |= {
        "committed_steps": committed,
        "search_steps": searched,
        "given_back_steps": state.given_back_steps + undone,
        **dict(standing),
    }
    return state.model_copy(update=update)


def _issue(state: JobState, report: Report | None, directive: Directive, answer: Answered | None) -> Transition:
    """Completes a directive, checks it against the contract and makes it the outstanding one.

    What is rolled back and when a snapshot is taken follows from the phases alone, so no policy can get it wrong:
    after steps that are not to stay the client goes back; a probe, and a job, begin at a snapshot.
    """
    rolled_back = report is not None and _rolled_back(state, report)
    snapshot = directive.snapshot or state.snapshot_step is None
    snapshot |= directive.phase.searches and not rolled_back
    directive = stopping.watched(state, directive).model_copy(
        update={
            "number": state.directive.number + 1 if report else 1,
            "restore": rolled_back,
            "snapshot": snapshot,
            "measures": _measures(state.config, directive),
        }
    )
    status = _STATUS_OF_PHASE[directive.phase]
    if report is not None and status not in TRANSITIONS[state.status]:
        raise PolicyError(f"{state.status} does not lead to {status}")
    remaining = state.remaining_steps
    if remaining is not None and directive.n_steps > remaining and not directive.taken_along:
        raise PolicyError(f"{directive.n_steps} steps asked for, {remaining} are left")
    if fault := members.fault(state, report, directive):
        raise PolicyError(fault)
    if unknown := set(directive.measures) - set(state.config.measures):
        raise PolicyError(f"measures asked for that the client can't take: {', '.join(sorted(unknown))}")
    if directive.average is not None and not state.config.has_average:
        raise PolicyError("an average of the weights asked for, which the client can't keep")
    update: dict[str, Any] = {"status": status, "directive": directive, "lease": directive, "ending": None}
    if snapshot:
        update |= {"snapshot_step": state.committed_steps, "snapshot_standing": Standing.of(state)}
        if state.plan is not None and (directive.change is None or directive.change.kind is not ChangeKind.ANNEAL):
            # Nothing leads back to before an annealing any more.
            update["plan"] = state.plan.for_good
    if answer is not None:
        update["policy_state"] = answer.state
    decision = answer.decision if answer is not None else None
    return Transition(state.model_copy(update=update), directive, decision, report)


def _measures(config: JobConfig, directive: Directive) -> tuple[str, ...]:
    """What is measured at the steps of a directive: what its policy asks for, and what its job records."""
    recorded = config.recorded if directive.phase.committed else ()
    return (*directive.measures, *(name for name in recorded if name not in directive.measures))


def _rolled_back(state: JobState, report: Report) -> bool:
    """Whether the steps of a report are rolled back."""
    if report.outcome is Outcome.REPLACED:
        return False  # the client rolled back by itself those that were not to stay
    if report.outcome is Outcome.REPLANNED:
        assert report.change is not None
        return report.change.kind is ChangeKind.UNDO_ANNEALING
    return not state.directive.phase.committed or report.outcome.rolls_back


def _stop(
    state: JobState, report: Report, status: Status, message: str, change: PlanChange | None = None
) -> Transition:
    """Issues the last directive, which a change of the plan may have led to."""
    directive = Directive(
        number=state.directive.number + 1,
        phase=Phase.STOP,
        stage=state.directive.stage,
        n_steps=0,
        restore=_rolled_back(state, report),
        change=change,
        reason=message or "the budget is spent",
    )
    update = {"status": status, "directive": directive, "lease": directive, "message": message}
    return Transition(state.model_copy(update=update), directive, report=report)
