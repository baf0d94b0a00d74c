"""A job's schedule, from the messages that a server sends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from lrpilot.errors import ScheduleError
from lrpilot.v1 import tuner_pb2
from lrpilot.wire.messages.directives import begins_unsearched, overlooked, phase_from_proto
from lrpilot.wire.messages.measure_series import MeasureSeries
from lrpilot.wire.messages.plan_changes import kind_from_proto, origin_from_proto
from lrpilot.wire.messages.profiles import profile_from_proto
from lrpilot.wire.schedule_data import Ending, Measured, Probe, Replan, ScheduleData, Segment, Validation
from lrpilot.wire.unsearched import was_unsearched
from lrpilot.wire.weights import Weights

S = TypeVar("S", bound=ScheduleData)

_SEARCHING = (tuner_pb2.PHASE_RANGE_TEST, tuner_pb2.PHASE_PROBE)


def schedule_from_proto(message: tuner_pb2.GetScheduleResponse, kind: type[S], base_lrs: tuple[float, ...] = ()) -> S:
    """A job's schedule, as a `kind`; `base_lrs` are the LRs of all groups, by default of the first alone.

    Losses, measures and probes come from the history, if the message has one.

    Raises:
        ScheduleError: the message makes no schedule.
    """
    config = message.job.config
    try:
        losses, validations, probes, replans = _evidence(message.history)
        segments = tuple(map(_segment_from_proto, message.segments))
    except ValueError as error:
        raise ScheduleError(f"schedule of job {message.job.id}: {error}") from error
    found = kind(
        job_id=message.job.id,
        name=config.name,
        policy=config.policy,
        base_lrs=base_lrs or (config.base_lr,),
        total_steps=message.job.total_steps if message.job.HasField("total_steps") else None,
        segments=segments,
        losses=losses,
        validations=validations,
        probes=probes,
        unsearched=was_unsearched(
            message.job, segments, begins_unsearched=begins_unsearched(message.job.directive, config)
        ),
        unrepeatable=message.job.unrepeatable,
        ending=ending_from_proto(message.job.ending) if message.job.HasField("ending") else None,
        replans=replans,
        measures=_measures(message.history),
    )
    return found.turned() if config.maximises else found


def _segment_from_proto(message: tuner_pb2.Segment) -> Segment:
    return Segment(
        start_step=message.start_step,
        n_steps=message.n_steps,
        profile=profile_from_proto(message.profile),
        phase=phase_from_proto(message.phase),
        stage=message.stage,
    )


def ending_from_proto(message: tuner_pb2.Ending) -> Ending:
    """What came of an average of the weights."""
    return Ending(
        adopted=Weights.AVERAGE if message.adopted == tuner_pb2.WEIGHTS_AVERAGE else Weights.LAST,
        memory_steps=message.memory_steps,
        last=message.last if message.HasField("last") else None,
        average=message.average if message.HasField("average") else None,
    )


def _evidence(
    history: Iterable[tuner_pb2.HistoryEntry],
) -> tuple[tuple[float, ...], tuple[Validation, ...], tuple[Probe, ...], tuple[Replan, ...]]:
    """Losses and validations of the committed steps, the probes, and the changes of the plan."""
    losses: list[float] = []
    validations: list[Validation] = []
    probes: list[Probe] = []
    replans: list[Replan] = []
    for entry in history:
        start_step, report = len(losses), entry.report
        if entry.directive.HasField("change") and not overlooked(entry.directive, report):
            replans.append(replan_from_proto(entry.directive.change, start_step))
        if entry.committed:
            losses += report.losses
            validations += (Validation(start_step + v.step, v.loss) for v in report.validations)
        elif entry.directive.phase in _SEARCHING and report.outcome != tuner_pb2.OUTCOME_REPLACED:
            probes.append(probe_from_proto(entry.directive, report, start_step))
        # What is left was committed once, and rolled back.
    return tuple(losses), tuple(validations), tuple(probes), tuple(replans)


def _measures(history: Iterable[tuner_pb2.HistoryEntry]) -> tuple[Measured, ...]:
    """What was measured at the committed steps."""
    found = MeasureSeries()
    for entry in history:
        if entry.committed:
            found.add(len(entry.report.losses), ((each.name, each.values) for each in entry.report.measures))
    return found.measured()


def replan_from_proto(change: tuner_pb2.PlanChange, step: int) -> Replan:
    """A change of the plan after so many committed steps. Raises: ValueError: it is of a kind that is not known."""
    return Replan(
        step=step,
        kind=kind_from_proto(change.kind),
        origin=origin_from_proto(change.origin),
        total_steps=change.total_steps if change.HasField("total_steps") else None,
        reason=change.reason,
    )


def probe_from_proto(directive: tuner_pb2.Directive, report: tuner_pb2.Report, start_step: int) -> Probe:
    """Search steps from the weights of committed step `start_step`. Raises: ValueError: its profile is none."""
    return Probe(
        start_step=start_step,
        n_steps=len(report.losses),
        profile=profile_from_proto(directive.profile),
        phase=phase_from_proto(directive.phase),
        stage=directive.stage,
        losses=tuple(report.losses),
        validations=tuple(Validation(v.step, v.loss) for v in report.validations),
        diverged=report.outcome == tuner_pb2.OUTCOME_DIVERGED,
    )
