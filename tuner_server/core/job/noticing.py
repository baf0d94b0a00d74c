"""What committed steps say of a run's plan, before anybody has asked for a change of it. Pure."""

from __future__ import annotations

from tuner_server.core import policies
from tuner_server.core.faults import guarded
from tuner_server.core.job import requested, stopping
from tuner_server.core.job.progress import progress_of
from tuner_server.core.job.state import JobState
from tuner_server.core.messages import ChangeOrigin, Directive, Outcome, Report
from tuner_server.core.policies.contract import read_state


def in_model(directive: Directive, report: Report) -> bool:
    """Whether the steps of a report are committed and stay, so that a change takes effect after them."""
    if report.outcome is Outcome.REPLACED:
        return True
    return not directive.phase.searches and not report.outcome.rolls_back


def noticed(before: JobState, state: JobState, report: Report) -> requested.Due | None:
    """What sound committed steps tell, a part of a directive or the last of it: the policy first; `before` them."""
    if before.bounds is None or not in_model(before.directive, report) or report.replacement is not None:
        return None  # the client's own steps, or the warm-up before a policy has begun, too
    policy = policies.make(before.config)
    known = read_state(policy, before.policy_state or {})
    progress = progress_of(before, before.bounds)
    with guarded("`noticed`"):
        change = policy.noticed(known, before.lease, report, progress)
    if change is not None:
        return requested.Due(state, report, change.model_copy(update={"origin": ChangeOrigin.POLICY}))
    verdict = stopping.noticed(before, state, report)
    return None if verdict is None else requested.Due(state, report, verdict.change, verdict.evidence)
