"""What a policy may ask of a client whose replicas try probes at the same time, and what it is held to."""

from __future__ import annotations

from tuner_server.core.job.state import JobState
from tuner_server.core.messages import Directive, Outcome, Report


def fault(state: JobState, report: Report | None, directive: Directive) -> str:
    """What is wrong with a directive of a job that may have several members; empty: nothing.

    Args:
        state: before the directive.
        report: that it follows on; None: it is the first one.
        directive: the policy's.
    """
    told = () if report is None else state.lease.alongside
    carried_out = report is not None and report.outcome in (Outcome.COMPLETED, Outcome.DIVERGED)
    if directive.taken_along and not (told and carried_out):
        return "a probe is said to be taken along, and no directive has told it"
    if told and carried_out and not _same(directive, state.lease.next_alongside()):
        return "the next probe was told beforehand, and is another one now"
    n_members = 1 + len(directive.alongside)
    if n_members > state.config.members:
        return f"{n_members} probes asked for at the same time, but the job has {state.config.members} members"
    if directive.apart and state.config.members == 1:
        return "a probe on a replica by itself asked for, but the job has one member"
    return ""


def _same(directive: Directive, told: Directive) -> bool:
    """Whether a directive is the one that was told; the job numbers it, and says what is rolled back."""
    kept = {"number": told.number, "restore": told.restore, "snapshot": told.snapshot}
    return directive.model_copy(update=kept) == told
