"""Committed steps: the directive that trains with the LR that a search has found, and what its steps report."""

from __future__ import annotations

from collections.abc import Sequence

from lrpilot.wire.profile import Profile

from tuner_server.core.messages import Average, Bar, BatchSource, Directive, Phase
from tuner_server.core.stages.report_points import evenly, report_every

TOO_FEW = "too few"
"""What a policy's reason has in it where steps have no search since they are too few for one: pages then say so. Any
other reason of such steps they show as it is."""


def too_few(unsearched: Directive) -> bool:
    """Whether committed steps that nothing was tried for had no search for want of steps, as their policy says."""
    return TOO_FEW in unsearched.reason


def directive(
    profile: Profile,
    *,
    stage: int,
    batches: BatchSource,
    n_validations: int,
    give_up_above: float | None,
    promise: Sequence[Bar],
    reason: str,
    average: Average | None = None,
) -> Directive:
    """All steps that are left of a profile, which stay unless they diverge or break their promise.

    Args:
        profile: their LRs.
        stage: counts from 0.
        batches: where they come from.
        n_validations: evenly over the steps, the last one at their end.
        give_up_above: see `Lessons.give_up_above`.
        promise: the bars for reports every `report_every` of these steps.
        reason: why these LRs, for people.
        average: what average of the weights is kept over these steps.
    """
    n_steps = profile.length - profile.offset
    return Directive(
        phase=Phase.TRAIN,
        stage=stage,
        n_steps=n_steps,
        profile=profile,
        batches=batches,
        validate_at=evenly(n_steps, n_validations),
        give_up_above=give_up_above,
        report_every=report_every(n_steps),
        promise=tuple(promise),
        average=average,
        reason=reason,
    )
