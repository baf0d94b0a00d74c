"""What directives and reports say, read alike on both sides."""

from __future__ import annotations

from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire import unsearched
from lrpilot.wire.messages.directive_steps import bar_begins, validations_left
from lrpilot.wire.outcome import Outcome
from lrpilot.wire.phase import Phase

_PHASES = {
    pb.PHASE_WARM_UP: Phase.WARM_UP,
    pb.PHASE_RANGE_TEST: Phase.RANGE_TEST,
    pb.PHASE_PROBE: Phase.PROBE,
    pb.PHASE_TRAIN: Phase.TRAIN,
}
_OUTCOMES = {pb.Outcome.Value(f"OUTCOME_{outcome.name}"): outcome for outcome in Outcome}


def phase_from_proto(number: pb.Phase.ValueType) -> Phase:
    """A phase that has steps. Raises: ValueError: it has none, or this client doesn't know it."""
    phase = _PHASES.get(number)
    if phase is None:
        raise ValueError(f"phase {number} has no steps, or is not known to this client")
    return phase


def committed(directive: pb.Directive) -> bool:
    """Whether its steps are to stay."""
    phase = _PHASES.get(directive.phase)
    return phase is not None and phase.committed


def rest_of(directive: pb.Directive, done: int) -> pb.Directive:
    """What the server answers to a report on the first `done` steps of a directive of committed steps: the rest."""
    rest = pb.Directive()
    rest.CopyFrom(directive)
    rest.number += 1
    rest.restore = rest.snapshot = False
    rest.ClearField("change")
    rest.ClearField("round")
    rest.n_steps -= done
    rest.profile.offset += done
    del rest.validate_at[:]
    rest.validate_at.extend(validations_left(directive.validate_at, done))
    for bar in rest.promise:
        bar.from_step = bar_begins(bar.from_step, done)
    return rest


def begins_unsearched(directive: pb.Directive, config: pb.JobConfig) -> bool:
    """Whether a directive is the first one of a job that is too short for a search."""
    total_steps = config.total_steps if config.HasField("total_steps") else None
    trains = directive.phase == pb.PHASE_TRAIN
    return unsearched.begins_unsearched(
        directive.number, directive.n_steps, directive.stage, total_steps, trains=trains
    )


def overlooked(directive: pb.Directive, report: pb.Report) -> bool:
    """Whether a client has not heard of the change in a directive, which takes effect later, then."""
    own = directive.change.origin == pb.PLAN_CHANGE_ORIGIN_CLIENT
    return directive.HasField("change") and report.outcome == pb.OUTCOME_REPLACED and not own


def rolls_back(report: pb.Report) -> bool:
    """Whether committed steps with this report are not to stay."""
    outcome = _OUTCOMES.get(report.outcome)
    if outcome is Outcome.REPLANNED:
        return report.change.kind == pb.PLAN_CHANGE_KIND_UNDO_ANNEALING
    return outcome is not None and outcome.rolls_back
