"""One decay over all that is left: what follows on a search that is the only one, and again after each setback."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from lrpilot.wire.profile import Shape

from tuner_server.core.config import JobConfig
from tuner_server.core.evidence import promise, reached, restart
from tuner_server.core.evidence.divergence import DIVERGENCE_FACTOR
from tuner_server.core.evidence.lessons import Lessons
from tuner_server.core.lrs import same_lr
from tuner_server.core.messages import BatchSource, Decision, Directive, Report
from tuner_server.core.stages import committed, rewarm
from tuner_server.core.stages.ending import EndingPlan
from tuner_server.core.stages.report_points import report_every

CHECKPOINTS = 10
"""Validations over the committed steps: for those who watch, and to see whether they fall short."""
PROMISES = 2
"""Attempts that are held to what the probes promised: at an LR lowered twice a sound run is as slow."""
WARMUP = 0.05
"""Part of the committed steps in which the LR rises, unless a policy's options say otherwise."""

L = TypeVar("L", bound=Lessons)


@dataclasses.dataclass(frozen=True, slots=True)
class FinalDecay:
    """What the decay of a job has in common, whatever LR it begins with.

    Attributes:
        validates: whether the job has a validation.
        batches: where the steps' batches come from.
        shape: how the LR moves after the warm-up.
        warmup: part of the steps in which the LR rises.
        divergence_factor: see `Lessons.give_up_above`.
        ending: where the LR leads, and whether the weights are averaged.
    """

    validates: bool
    batches: BatchSource = BatchSource.REPLAYED
    shape: Shape = Shape.LINEAR
    warmup: float = WARMUP
    divergence_factor: float = DIVERGENCE_FACTOR
    ending: EndingPlan = EndingPlan()  # noqa: RUF009  # it has no state

    def directive(
        self,
        state: Lessons,
        decision: Decision,
        n_steps: int | None,
        *,
        search_ended: bool,
        present_lr: float | None = None,
        peak_lr: float | None = None,
    ) -> Directive:
        """The decay from the LR of a decision, held to what the probes promised.

        Args:
            state: what the probes taught.
            decision: has the LR, and the reason.
            n_steps: all that is left; a job without an end has no decay to it.
            search_ended: `PolicyState.search_ended`; nothing is promised then.
            present_lr: the LR that a run which goes on rises from; None: it begins here, or anew.
            peak_lr: the highest LR that such a run has committed.
        """
        assert n_steps is not None
        warmup = int(n_steps * self.warmup)
        held_to = None if search_ended or state.restarts >= PROMISES else state.footing
        profile = self.ending.profile(self.shape, decision.lr, n_steps, warmup, peak_lr)
        return committed.directive(
            rewarm.risen(profile, present_lr),
            stage=decision.stage,
            batches=self.batches,
            n_validations=CHECKPOINTS if self.validates else 0,
            give_up_above=state.give_up_above(self.divergence_factor, decision.lr),
            promise=promise.bars(held_to, n_steps, profile.top, report_every(n_steps)),
            reason=decision.reason,
            average=self.ending.average(n_steps),
        )


def lr_that_was_set(state: Lessons, base_lr: float, reason: str, stage: int = 0) -> Decision:
    """The decision for the user's LR, for want of a better one; for a lower one after setbacks."""
    allowed = restart.lr_after_setbacks(base_lr, state.ceiling)
    return Decision(stage=stage, lr=allowed.lr, reason=reason + allowed.note, lowered_by=allowed.lowered_by)


def for_want_of_a_gain(state: Lessons, config: JobConfig, stage: int) -> Decision:
    """The decision for the user's LR where no probe gained anything; within the user's bounds, below all that diverged.

    An LR outside the bounds was set before anybody thought of them, as an optimizer's default is.
    """
    base_lr, bounds = config.base_lr, config.lr_bounds
    nearest = base_lr if bounds is None else min(max(base_lr, bounds.min), bounds.max)
    diverged = [candidate.lr for candidate in state.candidates if candidate.diverged]
    lr = min([nearest, *(lr / restart.RETREAT for lr in diverged)])
    chosen = "the LR that was set"
    if nearest != base_lr:
        chosen = f"the bound that is nearest to {chosen}, {base_lr:.3g}"
    reason = f"every probe ended above the loss that training began with, so none says which LR is good: {chosen}"
    if lr < nearest:
        reason += f", divided by {nearest / lr:.3g} since probes diverged"
    allowed = restart.lr_after_setbacks(lr, state.ceiling)
    lowered_by = base_lr / allowed.lr if allowed.lr < base_lr and not same_lr(allowed.lr, base_lr) else None
    return Decision(
        stage=stage, lr=allowed.lr, reason=reason + allowed.note, candidates=state.candidates, lowered_by=lowered_by
    )


def after_setback(state: L, directive: Directive, report: Report, begin: int) -> tuple[L, Decision]:
    """The state after the decay was rolled back, and the decision for a lower LR than the one that failed.

    The LR goes back up if a lower one has not helped.

    Args:
        state: before that.
        directive: the decay, as it was issued.
        report: the last one on it.
        begin: the step of the directive with which that report begins.

    Raises:
        DivergenceError: a lower LR never helped.
    """
    setback, earlier = restart.setback(directive, report, begin, state.footing), state.rose
    state = state.set_back(setback)
    if earlier is not None and reached.as_much(setback, earlier):
        reason = f"rose as far at {setback.lr:.3g} as at {earlier.lr:.3g}, so the LR is not the cause: that one again"
        decision = Decision(stage=directive.stage, lr=earlier.lr, reason=reason, setback=setback)
        return state.model_copy(update={"ceiling": None}), decision
    what = "diverged at" if setback.loss is None else "fell short of its own probe at"
    if setback.reached is not None:
        what = f"rose from {setback.reached:.4g} to {setback.loss:.4g} at"
    reason = f"{what} {setback.lr:.3g}: a lower LR over what is left{restart.doubt(state.restarts)}"
    lr = setback.lr / restart.RETREAT
    return state, Decision(stage=directive.stage, lr=lr, reason=reason, setback=setback, lowered_by=restart.RETREAT)
