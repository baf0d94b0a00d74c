"""What every policy has to say of a change of the plan, and the annealing, which needs no search."""

from __future__ import annotations

from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.messages import BatchSource, ChangeKind, ChangeOrigin, Decision, Directive, PlanChange
from tuner_server.core.stages import committed

_WORDS = {
    ChangeKind.EXTEND: "the end of the run has moved",
    ChangeKind.REPLAN: "the run goes on with other data, batches or weights",
    ChangeKind.ANNEAL: "an annealing was asked for",
    ChangeKind.UNDO_ANNEALING: "the annealing is undone",
}
_NOTICED = {
    ChangeKind.EXTEND: "the run is over",
    ChangeKind.REPLAN: "the losses have left what they were, as they do when the data change",
    ChangeKind.ANNEAL: "the end has come",
    ChangeKind.UNDO_ANNEALING: "the annealing is undone",
}
"""Where nobody has asked for the change but the policy itself."""


def because(change: PlanChange) -> str:
    """How the reason of a decision begins that a change has led to."""
    words = (_NOTICED if change.origin is ChangeOrigin.POLICY else _WORDS)[change.kind]
    return f"{words} ({change.reason})" if change.reason else words


def annealing(
    change: PlanChange, lr: float, n_steps: int, *, stage: int, validates: bool
) -> tuple[Directive, Decision]:
    """The steps in which the LR falls linearly to zero, and the decision for them.

    Args:
        change: asks for it.
        lr: where the run is.
        n_steps: how many.
        stage: of the steps before it.
        validates: whether the job has a validation.
    """
    reason = f"{because(change)}: from {lr:.3g} to zero in {n_steps} steps"
    directive = committed.directive(
        Profile.to_zero(Shape.LINEAR, lr, n_steps),
        stage=stage,
        batches=BatchSource.REPLAYED,
        n_validations=1 if validates else 0,
        give_up_above=None,
        promise=(),
        reason=reason,
    )
    return directive, Decision(stage=stage, lr=lr, reason=reason)
