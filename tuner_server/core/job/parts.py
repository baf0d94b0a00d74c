"""The answer to a part of committed steps: their rest, to which the policy may give other LRs. Pure."""

from __future__ import annotations

from typing import Any

from tuner_server.core import policies
from tuner_server.core.errors import PolicyError
from tuner_server.core.faults import guarded
from tuner_server.core.job.progress import progress_of
from tuner_server.core.job.state import JobState, Transition
from tuner_server.core.messages import Report
from tuner_server.core.policies.contract import Answered, checked, read_state

RESHAPED = ("profile", "reason", "promise")
"""What of a directive a policy may change while it is carried out."""


def taken(state: JobState, report: Report) -> Transition:
    """What follows on a part that stays.

    Args:
        state: the job after it, whose directive is still the one before.
        report: on it.

    Raises:
        PolicyError: the policy changes more than the LRs.
    """
    lease, done = state.lease, state.lease.n_steps - state.directive.n_steps + report.n_steps
    decision, update = None, dict[str, Any]()
    answer = _reshaped(state, report)
    if answer is not None:
        changed = {name: getattr(answer.directive, name) for name in RESHAPED}
        if answer.directive.profile is None or lease.model_copy(update=changed) != answer.directive:
            raise PolicyError(f"`reshape` may change of a directive {', '.join(RESHAPED)}, and nothing else")
        lease, decision = answer.directive, answer.decision
        update["policy_state"] = answer.state
    rest = lease.after(done).model_copy(update={"number": state.directive.number + 1})
    update |= {"directive": rest, "lease": lease}
    return Transition(state.model_copy(update=update), rest, decision, report)


def _reshaped(state: JobState, report: Report) -> Answered | None:
    """What the policy makes of a part of committed steps; None: nothing."""
    if state.policy_state is None or state.bounds is None:
        return None  # the warm-up before a policy has begun
    policy = policies.make(state.config)
    known, progress = read_state(policy, state.policy_state), progress_of(state, state.bounds)
    with guarded("`reshape`"):
        step = policy.reshape(known, state.lease, report, progress)
    return None if step is None else checked(step, policy.state_type)
