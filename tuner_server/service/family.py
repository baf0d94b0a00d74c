"""What jobs leave to later ones of their family."""

from __future__ import annotations

from collections.abc import Iterable

from tuner_server.core import policies
from tuner_server.core.faults import guarded
from tuner_server.core.job.machine import JobState, Status
from tuner_server.core.policies.contract import read_back, read_state
from tuner_server.core.search.prior import Optimum, Prior, prior_of


def optimum_of(state: JobState) -> Optimum | None:
    """What a job's search found; None: it had none, is not through it, or found what others can't use.

    Its policy says what that is. Others can't use a search in which a rollback was not complete.
    """
    if state.policy_state is None or state.unrepeatable:
        return None
    try:
        policy = policies.find(state.config.policy)
        policy_state = read_state(policy, state.policy_state)
        with guarded("`optimum`"):
            found = policy.optimum(policy_state)
        optimum = None if found is None else read_back(Optimum, found, "optimum")
    except Exception:  # a policy that is not installed any more, or gives nonsense: no other job's business
        return None
    if optimum is None or state.status is not Status.FAILED:
        return optimum
    return optimum.model_copy(update={"good_end": False})


def prior_from(states: Iterable[JobState]) -> Prior | None:
    """The prior that the jobs of a family make, given newest first; None without a usable one."""
    return prior_of([optimum for optimum in map(optimum_of, states) if optimum is not None])
