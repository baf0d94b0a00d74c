"""The plan of a run that changes while it runs: where it ends, and what an annealing can be undone to. Pure.

A change takes effect with a report on committed steps. What was asked for at the server becomes part of that report, so
that a schedule stays a function of config, seed and reports.
"""

from __future__ import annotations

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.messages import MAX_STEPS, ChangeKind, PlanChange, Value


class Annealing(Value):
    """An annealing that can be undone: its snapshot is the one from before it."""

    from_step: int
    """Committed steps before it."""
    total_steps: int | None
    """The plan before it."""


class Plan(Value):
    """Where a run ends, once that has changed."""

    total_steps: int | None
    """Optimizer steps of the run, search included; None: no end is known."""
    annealing: Annealing | None = None
    """The annealing that ends the run; None: there is none, or it can't be undone any more."""

    @property
    def for_good(self) -> Plan:
        """This plan once nothing leads back to before an annealing any more."""
        return self.model_copy(update={"annealing": None})


def check(change: PlanChange, run_steps: int, plan: Plan, field: str = "report.change") -> None:
    """Refuses a change that can't be made.

    Args:
        change: what is asked for.
        run_steps: that were run until it takes effect.
        plan: the present one.
        field: the name of the message's field, for errors.

    Raises:
        InvalidInputError: a number is missing or impossible, or is none of this kind of change.
    """
    numbers = {
        "total_steps": (change.total_steps, ChangeKind.EXTEND),
        "later_steps": (change.later_steps, ChangeKind.EXTEND),
        "anneal_steps": (change.anneal_steps, ChangeKind.ANNEAL),
        "batch_factor": (change.batch_factor, ChangeKind.REPLAN),
    }
    for name, (value, kind) in numbers.items():
        if value is not None and change.kind is not kind:
            raise InvalidInputError.of(f"{field}.{name}", f"{value}; a change of kind {change.kind} has none")
    match change.kind:
        case ChangeKind.EXTEND:
            _check_end(change, run_steps, plan, field)
        case ChangeKind.ANNEAL:
            if not change.anneal_steps or run_steps + change.anneal_steps > MAX_STEPS:
                wanted = f"give 1 or more, and no more than {MAX_STEPS} with the {run_steps} that were run"
                raise InvalidInputError.of(f"{field}.anneal_steps", f"{change.anneal_steps}; {wanted}")
        case ChangeKind.UNDO_ANNEALING:
            if plan.annealing is None:
                raise InvalidInputError.of(f"{field}.kind", "there is no annealing that could be undone")
        case ChangeKind.REPLAN:
            pass


def _check_end(change: PlanChange, run_steps: int, plan: Plan, field: str) -> None:
    """Refuses another end that a run can't have. Raises: InvalidInputError."""
    later = change.later_steps
    if (later is None) == (change.total_steps is None):
        raise InvalidInputError.of(f"{field}.total_steps", "give this or later_steps, one of the two")
    if change.total_steps is not None and change.total_steps < run_steps:
        raise InvalidInputError.of(
            f"{field}.total_steps", f"{change.total_steps}, but {run_steps} steps were run; give no fewer"
        )
    if later is None:
        return
    if plan.total_steps is None:
        raise InvalidInputError.of(
            f"{field}.later_steps", f"{later}, but the run has no end that could be moved; an annealing gives it one"
        )
    if not 1 <= later <= MAX_STEPS - plan.total_steps:
        raise InvalidInputError.of(
            f"{field}.later_steps",
            f"{later}; give 1 or more, and no more than {MAX_STEPS} with the {plan.total_steps} that the run has",
        )


def resolved(change: PlanChange, plan: Plan, run_steps: int) -> PlanChange:
    """A change as it takes effect: its end is one in steps, that a run can have, and that it has not passed meanwhile.

    Args:
        change: as it was asked for.
        plan: the present one, which has the end that `later_steps` counts from.
        run_steps: that were run until now.
    """
    if change.anneal_steps is not None:
        # Since it was asked for, the run has gone on.
        return change.model_copy(update={"anneal_steps": min(change.anneal_steps, MAX_STEPS - run_steps)})
    if change.kind is not ChangeKind.EXTEND:
        return change
    end = change.total_steps
    if change.later_steps is not None:
        end = None if plan.total_steps is None else min(plan.total_steps + change.later_steps, MAX_STEPS)
    return change.model_copy(update={"total_steps": None if end is None else max(end, run_steps)})


def changed(plan: Plan, change: PlanChange, run_steps: int, committed_steps: int) -> Plan:
    """The plan after a change that takes effect.

    Args:
        plan: the one before.
        change: a possible one, `resolved`.
        run_steps: that were run until now.
        committed_steps: those of them that are in the model.
    """
    match change.kind:
        case ChangeKind.EXTEND:
            return Plan(total_steps=change.total_steps)
        case ChangeKind.ANNEAL:
            assert change.anneal_steps is not None
            # An annealing in another one has the end of that: the plan before it is the one before both.
            planned = plan.total_steps if plan.annealing is None else plan.annealing.total_steps
            before = Annealing(from_step=committed_steps, total_steps=planned)
            return Plan(total_steps=run_steps + change.anneal_steps, annealing=before)
        case ChangeKind.UNDO_ANNEALING:
            assert plan.annealing is not None
            total_steps = plan.annealing.total_steps
            # Its steps were run: a run that had no more left for them is over.
            return Plan(total_steps=None if total_steps is None else max(total_steps, run_steps))
        case ChangeKind.REPLAN:
            return Plan(total_steps=plan.total_steps)
