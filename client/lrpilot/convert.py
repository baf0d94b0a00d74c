"""Between the wire's messages and the client's own values, both ways."""

from __future__ import annotations

from collections.abc import Iterable

from lrpilot.errors import ScheduleError
from lrpilot.profile import Profile, Shape
from lrpilot.schedule import Phase, Probe, Schedule, Segment, Validation
from lrpilot.unsearched import was_unsearched
from lrpilot.v1 import tuner_pb2

_SHAPES = {
    tuner_pb2.PROFILE_SHAPE_CONSTANT: Shape.CONSTANT,
    tuner_pb2.PROFILE_SHAPE_LINEAR: Shape.LINEAR,
    tuner_pb2.PROFILE_SHAPE_EXPONENTIAL: Shape.EXPONENTIAL,
    tuner_pb2.PROFILE_SHAPE_COSINE: Shape.COSINE,
}
_PROTO_SHAPES = {shape: number for number, shape in _SHAPES.items()}
_PHASES = {
    tuner_pb2.PHASE_WARM_UP: Phase.WARM_UP,
    tuner_pb2.PHASE_RANGE_TEST: Phase.RANGE_TEST,
    tuner_pb2.PHASE_PROBE: Phase.PROBE,
    tuner_pb2.PHASE_TRAIN: Phase.TRAIN,
}
_SEARCHING = (tuner_pb2.PHASE_RANGE_TEST, tuner_pb2.PHASE_PROBE)


def profile_from_proto(message: tuner_pb2.Profile) -> Profile:
    """A profile off the wire.

    Raises:
        ValueError: its shape is one that this client doesn't know, or its numbers make no profile.
    """
    shape = _SHAPES.get(message.shape)
    if shape is None:
        raise ValueError(f"profile: shape {message.shape} is not known to this client")
    return Profile(shape, message.start_lr, message.end_lr, message.length, message.offset, message.warmup)


def profile_to_proto(profile: Profile) -> tuner_pb2.Profile:
    """A profile for the wire."""
    return tuner_pb2.Profile(
        shape=_PROTO_SHAPES[profile.shape],
        start_lr=profile.start_lr,
        end_lr=profile.end_lr,
        length=profile.length,
        offset=profile.offset,
        warmup=profile.warmup,
    )


def schedule_from_proto(message: tuner_pb2.GetScheduleResponse, base_lrs: tuple[float, ...] = ()) -> Schedule:
    """A job's schedule; `base_lrs` are the LRs of all groups, by default of the first alone.

    Losses and probes come from the history, if the message has one.

    Raises:
        ScheduleError: the message makes no schedule.
    """
    config = message.job.config
    try:
        losses, validations, probes = _evidence(message.history)
        segments = tuple(map(_segment_from_proto, message.segments))
    except ValueError as error:
        raise ScheduleError(f"schedule of job {message.job.id}: {error}") from error
    return Schedule(
        job_id=message.job.id,
        name=config.name,
        policy=config.policy,
        base_lrs=base_lrs or (config.base_lr,),
        total_steps=config.total_steps if config.HasField("total_steps") else None,
        segments=segments,
        losses=losses,
        validations=validations,
        probes=probes,
        unsearched=was_unsearched(message),
        unrepeatable=message.job.unrepeatable,
    )


def _segment_from_proto(message: tuner_pb2.Segment) -> Segment:
    return Segment(
        start_step=message.start_step,
        n_steps=message.n_steps,
        profile=profile_from_proto(message.profile),
        phase=phase_from_proto(message.phase),
        stage=message.stage,
    )


def _evidence(
    history: Iterable[tuner_pb2.HistoryEntry],
) -> tuple[tuple[float, ...], tuple[Validation, ...], tuple[Probe, ...]]:
    """Losses and validations of the committed steps, and the probes."""
    losses: list[float] = []
    validations: list[Validation] = []
    probes: list[Probe] = []
    for entry in history:
        start_step, report = len(losses), entry.report
        if entry.committed:
            losses += report.losses
            validations += (Validation(start_step + v.step, v.loss) for v in report.validations)
        elif entry.directive.phase in _SEARCHING and report.outcome != tuner_pb2.OUTCOME_REPLACED:
            probes.append(probe_from_proto(entry.directive, report, start_step))
        # What is left was committed once, and rolled back.
    return tuple(losses), tuple(validations), tuple(probes)


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


def phase_from_proto(number: tuner_pb2.Phase.ValueType) -> Phase:
    """A phase that has steps. Raises: ValueError: it has none, or this client doesn't know it."""
    phase = _PHASES.get(number)
    if phase is None:
        raise ValueError(f"phase {number} has no steps, or is not known to this client")
    return phase
