"""Between the wire's messages and the core's values, both ways side by side; decisions are in `decision_messages`."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import struct_pb2, timestamp_pb2
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.early_warnings import warning_from_proto, warning_to_proto
from lrpilot.wire.messages.profiles import profile_from_proto, profile_to_proto

from tuner_server.core.config import MAX_NAME, JobConfig
from tuner_server.core.errors import InvalidInputError, NotFoundError
from tuner_server.core.job.life import UNTOLD, Life, Vitals
from tuner_server.core.job.state import Status
from tuner_server.core.messages import (
    MAX_MEASURES,
    MAX_NOTE,
    MAX_STEPS,
    BatchSource,
    Directive,
    Ending,
    Outcome,
    Phase,
    Replacement,
    Report,
    Weights,
)
from tuner_server.rpc.directive_messages import (
    average_from_pb,
    average_to_pb,
    bar_from_pb,
    bar_to_pb,
    round_from_pb,
    round_to_pb,
)
from tuner_server.rpc.plan_messages import change_from_pb, change_to_pb
from tuner_server.rpc.untrusted import known, optional, read_as, sentence, text
from tuner_server.storage import StoredJob, StoredReport

PHASES: Mapping[Phase, pb.Phase.ValueType] = {
    Phase.WARM_UP: pb.PHASE_WARM_UP,
    Phase.RANGE_TEST: pb.PHASE_RANGE_TEST,
    Phase.PROBE: pb.PHASE_PROBE,
    Phase.TRAIN: pb.PHASE_TRAIN,
    Phase.STOP: pb.PHASE_STOP,
}
BATCH_SOURCES: Mapping[BatchSource, pb.BatchSource.ValueType] = {
    BatchSource.FRESH: pb.BATCH_SOURCE_FRESH,
    BatchSource.REPLAYED: pb.BATCH_SOURCE_REPLAYED,
}
OUTCOMES: Mapping[Outcome, pb.Outcome.ValueType] = {
    Outcome.COMPLETED: pb.OUTCOME_COMPLETED,
    Outcome.PARTIAL: pb.OUTCOME_PARTIAL,
    Outcome.DIVERGED: pb.OUTCOME_DIVERGED,
    Outcome.FELL_SHORT: pb.OUTCOME_FELL_SHORT,
    Outcome.REPLACED: pb.OUTCOME_REPLACED,
    Outcome.UNREPEATABLE: pb.OUTCOME_UNREPEATABLE,
    Outcome.REPLANNED: pb.OUTCOME_REPLANNED,
}
WEIGHTS: Mapping[Weights, pb.Weights.ValueType] = {
    Weights.LAST: pb.WEIGHTS_LAST,
    Weights.AVERAGE: pb.WEIGHTS_AVERAGE,
}
STATES: Mapping[Status, pb.JobState.ValueType] = {
    Status.WARM_UP: pb.JOB_STATE_WARM_UP,
    Status.SEARCHING: pb.JOB_STATE_SEARCHING,
    Status.TRAINING: pb.JOB_STATE_TRAINING,
    Status.FINISHED: pb.JOB_STATE_FINISHED,
    Status.CANCELLED: pb.JOB_STATE_CANCELLED,
    Status.FAILED: pb.JOB_STATE_FAILED,
}
LIVES: Mapping[Life, pb.JobLife.ValueType] = {
    Life.ALIVE: pb.JOB_LIFE_ALIVE,
    Life.SILENT: pb.JOB_LIFE_SILENT,
    Life.STOPPED: pb.JOB_LIFE_STOPPED,
    Life.ABANDONED: pb.JOB_LIFE_ABANDONED,
}

MAX_OPTIONS_BYTES = 32 * 2**10
"""A shape of lines through as many points as it may have fits."""
MAX_OPTIONS_DEPTH = 8
MAX_OPTION = 1e12
"""The largest number of a policy's options: far more than any policy has."""
MAX_VALIDATIONS = 10_000
"""The most validations of a report: ten times what a policy asks for."""
_JOB_ID = re.compile(r"[0-9a-f]{32}")


def config_from_pb(message: pb.JobConfig) -> JobConfig:
    """A config. Raises: InvalidInputError."""
    fields: dict[str, Any] = {
        "name": message.name,
        "family": message.family,
        "policy": text("policy", message.policy, MAX_NAME),
        "policy_options": _options_from_pb(message.policy_options),
        "base_lr": message.base_lr,
        "seed": message.seed,
        "has_validation": message.has_validation,
        "measures": tuple(message.measures),
        "recorded": tuple(message.recorded),
        "members": message.members or 1,
        "has_average": message.has_average,
        "first_updates": tuple(message.first_updates),
        "maximises": message.maximises,
    }
    if message.HasField("total_steps"):
        fields["total_steps"] = message.total_steps
    if message.HasField("total_time_s"):
        fields["total_time_s"] = message.total_time_s
    if message.HasField("stop_when"):
        worth = message.stop_when.WhichOneof("worth")
        fields["stop_when"] = {} if worth is None else {worth: getattr(message.stop_when, worth)}
    if message.HasField("lr_bounds"):
        fields["lr_bounds"] = {"min": message.lr_bounds.min, "max": message.lr_bounds.max}
    return JobConfig.checked(**fields)


def config_to_pb(config: JobConfig) -> pb.JobConfig:
    """A config."""
    options = struct_pb2.Struct()
    options.update(config.policy_options)
    message = pb.JobConfig(
        name=config.name,
        family=config.family,
        policy=config.policy,
        policy_options=options,
        total_steps=config.total_steps,
        total_time_s=config.total_time_s,
        base_lr=config.base_lr,
        seed=config.seed,
        has_validation=config.has_validation,
        measures=config.measures,
        recorded=config.recorded,
        members=config.members if config.members > 1 else 0,
        has_average=config.has_average,
        first_updates=config.first_updates,
        maximises=config.maximises,
    )
    if config.stop_when is not None:
        message.stop_when.CopyFrom(pb.StopWhen(**config.stop_when.model_dump(exclude_none=True)))
    if config.lr_bounds is not None:
        message.lr_bounds.CopyFrom(pb.LrBounds(min=config.lr_bounds.min, max=config.lr_bounds.max))
    return message


def report_from_pb(message: pb.Report) -> Report:
    """A report. Raises: InvalidInputError."""
    outcome = known("report.outcome", OUTCOMES, message.outcome)
    if len(message.validations) > MAX_VALIDATIONS:
        raise InvalidInputError.of("report.validations", f"at most {MAX_VALIDATIONS}, not {len(message.validations)}")
    replacement = _replacement_from_pb(message.replacement) if message.HasField("replacement") else None
    change = change_from_pb(message.change) if message.HasField("change") else None
    with read_as("report"):
        return Report.model_validate(
            {
                "directive_number": message.directive_number,
                "outcome": outcome,
                "losses": _numbers(message.losses),
                "validations": tuple({"step": v.step, "loss": v.loss} for v in message.validations),
                "wall_time_s": message.wall_time_s,
                "replacement": replacement,
                "note": sentence("report.note", message.note, MAX_NOTE),
                "measures": _measures_from_pb(message.measures),
                "change": change,
                "ending": ending_from_pb(message.ending) if message.HasField("ending") else None,
            }
        )


def report_to_pb(number: int, report: StoredReport) -> pb.Report:
    """The report on directive `number`."""
    return pb.Report(
        directive_number=number,
        outcome=OUTCOMES[report.outcome],
        losses=None if report.losses is None else report.losses.tolist(),
        validations=[pb.Validation(step=v.step, loss=v.loss) for v in report.validations],
        wall_time_s=report.wall_time_s,
        replacement=_replacement_to_pb(report.replacement) if report.replacement else None,
        note=report.note,
        measures=[pb.Measure(name=name, values=values.tolist()) for name, values in report.measures.items()],
        change=None if report.change is None else change_to_pb(report.change),
        ending=_ending_to_pb(report.ending) if report.ending else None,
    )


def directive_from_pb(message: pb.Directive) -> Directive:
    """A directive. Raises: InvalidInputError: it is from a newer version, or contradicts itself."""
    with read_as("directive"):
        return Directive(
            number=message.number,
            phase=known("phase", PHASES, message.phase),
            stage=message.stage - 1,
            n_steps=message.n_steps,
            profile=profile_from_proto(message.profile) if message.HasField("profile") else None,
            restore=message.restore,
            snapshot=message.snapshot,
            batches=known("batches", BATCH_SOURCES, message.batches),
            validate_at=tuple(message.validate_at),
            give_up_above=optional(message, "give_up_above"),
            report_every=message.report_every,
            promise=tuple(map(bar_from_pb, message.promise)),
            measures=tuple(message.measures),
            warnings=tuple(map(warning_from_proto, message.warnings)),
            alongside=tuple(map(directive_from_pb, message.alongside)),
            taken_along=message.taken_along,
            apart=message.apart,
            change=change_from_pb(message.change, "change", told=True) if message.HasField("change") else None,
            average=average_from_pb(message.average) if message.HasField("average") else None,
            round=round_from_pb(message.round) if message.HasField("round") else None,
            reason=message.reason,
        )


def directive_to_pb(directive: Directive) -> pb.Directive:
    """A directive."""
    return pb.Directive(
        number=directive.number,
        phase=PHASES[directive.phase],
        stage=directive.stage + 1,
        n_steps=directive.n_steps,
        profile=profile_to_proto(directive.profile) if directive.profile else None,
        restore=directive.restore,
        snapshot=directive.snapshot,
        batches=BATCH_SOURCES[directive.batches],
        validate_at=directive.validate_at,
        give_up_above=directive.give_up_above,
        report_every=directive.report_every,
        promise=map(bar_to_pb, directive.promise),
        measures=directive.measures,
        warnings=map(warning_to_proto, directive.warnings),
        alongside=map(directive_to_pb, directive.alongside),
        taken_along=directive.taken_along,
        apart=directive.apart,
        change=None if directive.change is None else change_to_pb(directive.change),
        average=average_to_pb(directive.average) if directive.average else None,
        round=round_to_pb(directive.round) if directive.round else None,
        reason=directive.reason,
    )


def job_to_pb(stored: StoredJob, vitals: Vitals = UNTOLD) -> pb.Job:
    """A job, as it stands."""
    state = stored.state
    message = pb.Job(
        id=stored.id,
        config=config_to_pb(state.config),
        state=STATES[state.status],
        create_time=_timestamp(stored.create_time),
        update_time=_timestamp(stored.update_time),
        committed_steps=state.committed_steps,
        search_steps=state.search_steps,
        given_back_steps=state.given_back_steps,
        stage=state.directive.stage + 1,
        directive=directive_to_pb(state.directive),
        last_loss=state.last_loss,
        best_loss=state.best_loss,
        last_validation=state.last_validation,
        best_validation=state.best_validation,
        wall_time_s=state.wall_time_s,
        message=state.message,
        unrepeatable=state.unrepeatable,
        total_steps=state.total_steps,
        requested=[change_to_pb(change) for change in state.requested],
        ending=_ending_to_pb(state.ending) if state.ending else None,
        life=LIVES[vitals.life] if vitals.life else pb.JOB_LIFE_UNSPECIFIED,
        sign_time=_timestamp(stored.signs.sign_time),
        note=stored.note,
    )
    if state.bounds is not None:
        message.lr_bounds.CopyFrom(pb.LrBounds(min=state.bounds.min, max=state.bounds.max))
    return message


def job_id(value: str) -> str:
    """The id of a job. Raises: NotFoundError: no job can have it."""
    if not _JOB_ID.fullmatch(value):
        raise NotFoundError.of_job(value[: 2 * 32])
    return value


def _options_from_pb(message: struct_pb2.Struct) -> dict[str, Any]:
    size = message.ByteSize()
    if size > MAX_OPTIONS_BYTES:
        raise InvalidInputError.of("policy_options", f"at most {MAX_OPTIONS_BYTES} bytes, not {size}")
    return {text("policy_options", name, MAX_NAME): _option(value, 1) for name, value in message.fields.items()}


def _option(value: struct_pb2.Value, depth: int) -> Any:
    """A policy option, as JSON has it. Raises: InvalidInputError: it is too deep, or none."""
    if depth > MAX_OPTIONS_DEPTH:
        raise InvalidInputError.of("policy_options", f"nested deeper than {MAX_OPTIONS_DEPTH}")
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            if not (math.isfinite(number) and abs(number) <= MAX_OPTION):
                raise InvalidInputError.of("policy_options", f"numbers must be finite, at most {MAX_OPTION:g}")
            return number
        case "string_value":
            return text("policy_options", value.string_value, MAX_OPTIONS_BYTES)
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case "list_value":
            return [_option(each, depth + 1) for each in value.list_value.values]
        case "struct_value":
            fields = value.struct_value.fields.items()
            return {text("policy_options", name, MAX_NAME): _option(each, depth + 1) for name, each in fields}
        case _:
            raise InvalidInputError.of("policy_options", "a value of no kind")


def _replacement_from_pb(message: pb.Replacement) -> Replacement:
    with read_as("report.replacement.profile"):
        profile = profile_from_proto(message.profile) if message.HasField("profile") else None
    if not 0 <= message.wasted_steps <= MAX_STEPS:
        raise InvalidInputError.of("report.replacement.wasted_steps", f"0 to {MAX_STEPS}, not {message.wasted_steps}")
    return Replacement(profile=profile, wasted_steps=message.wasted_steps)


def _replacement_to_pb(replacement: Replacement) -> pb.Replacement:
    profile = profile_to_proto(replacement.profile) if replacement.profile else None
    return pb.Replacement(profile=profile, wasted_steps=replacement.wasted_steps)


def _measures_from_pb(messages: Sequence[pb.Measure]) -> dict[str, tuple[float, ...]]:
    """The measures of a report, by name. Raises: InvalidInputError: too many, or one is there twice."""
    if len(messages) > MAX_MEASURES:
        raise InvalidInputError.of("report.measures", f"at most {MAX_MEASURES}, not {len(messages)}")
    measures: dict[str, tuple[float, ...]] = {}
    for i, message in enumerate(messages):
        if message.name in measures:
            raise InvalidInputError.of(f"report.measures[{i}].name", f"{message.name:.40} is there twice")
        measures[message.name] = _numbers(message.values)
    return measures


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
    """The numbers of a repeated float, by way of an array, which takes a third of the time."""
    return tuple(np.array(values, dtype=np.float32).tolist())


def ending_from_pb(message: pb.Ending) -> Ending:
    """An ending. Raises: InvalidInputError."""
    adopted = known("ending.adopted", WEIGHTS, message.adopted)
    with read_as("ending"):
        return Ending(
            last=optional(message, "last"),
            average=optional(message, "average"),
            adopted=adopted,
            memory_steps=message.memory_steps,
        )


def _ending_to_pb(ending: Ending) -> pb.Ending:
    return pb.Ending(
        last=ending.last,
        average=ending.average,
        adopted=WEIGHTS[ending.adopted],
        memory_steps=ending.memory_steps,
    )


def _timestamp(time: datetime.datetime) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time)
    return message
