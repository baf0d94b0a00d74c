"""Schedules as JSON text.

The text is strict JSON. A float is written as the shortest decimal that reads back as the same float; a loss that is
not finite, which JSON has no number for, as the string "nan", "inf" or "-inf".
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, TypeVar

from lrpilot.errors import ScheduleError
from lrpilot.wire.phase import Phase
from lrpilot.wire.plan_change import ChangeKind, ChangeOrigin
from lrpilot.wire.profile import Profile, Shape
from lrpilot.wire.schedule_data import Ending, Measured, Probe, Replan, ScheduleData, Segment, Validation
from lrpilot.wire.weights import Weights

S = TypeVar("S", bound=ScheduleData)

_FORMAT = "lrpilot.schedule"
# Raised when a reader of the version before would misread a file.
_VERSION = 1


def dumps(schedule: ScheduleData) -> str:
    """The text of a schedule."""
    document = {"format": _FORMAT, "version": _VERSION, **_plain(schedule)}
    return json.dumps(document, allow_nan=False, indent=1) + "\n"


def loads(text: str | bytes, kind: type[S]) -> S:
    """The schedule of a text, as a `kind`.

    Raises:
        ScheduleError: it is no schedule, or one of a newer format.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ScheduleError(f"not a schedule: not JSON ({error})") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ScheduleError(f'not a schedule: no "format": "{_FORMAT}"')
    version = document.get("version")
    if version != _VERSION:
        raise ScheduleError(
            f"format version {version!r} is not known to this LRPilot, which reads version {_VERSION}; a newer one may"
        )
    try:
        return _schedule(document, kind)
    except KeyError as error:
        raise ScheduleError(f"not a whole schedule: {error} is missing") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise ScheduleError(f"not a valid schedule: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Shape):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _schedule(document: dict[str, Any], kind: type[S]) -> S:
    total_steps = document["total_steps"]
    return kind(
        job_id=str(document["job_id"]),
        name=str(document["name"]),
        policy=str(document["policy"]),
        base_lrs=_floats(document["base_lrs"]),
        total_steps=None if total_steps is None else int(total_steps),
        segments=tuple(map(_segment, document["segments"])),
        losses=_floats(document["losses"]),
        validations=_validations(document["validations"]),
        probes=tuple(map(_probe, document["probes"])),
        # Which files of earlier releases don't have.
        unsearched=bool(document.get("unsearched", False)),
        unrepeatable=str(document.get("unrepeatable", "")),
        ending=_ending(document["ending"]) if document.get("ending") is not None else None,
        replans=tuple(map(_replan, document.get("replans", ()))),
        measures=tuple(Measured(str(d["name"]), _floats(d["values"])) for d in document.get("measures", ())),
    )


def _segment(document: dict[str, Any]) -> Segment:
    return Segment(
        start_step=int(document["start_step"]),
        n_steps=int(document["n_steps"]),
        profile=_profile(document["profile"]),
        phase=_phase(document["phase"]),
        stage=int(document["stage"]),
    )


def _probe(document: dict[str, Any]) -> Probe:
    return Probe(
        start_step=int(document["start_step"]),
        n_steps=int(document["n_steps"]),
        profile=_profile(document["profile"]),
        phase=_phase(document["phase"]),
        stage=int(document["stage"]),
        losses=_floats(document["losses"]),
        validations=_validations(document["validations"]),
        diverged=bool(document["diverged"]),
    )


def _ending(document: dict[str, Any]) -> Ending:
    last, average = document["last"], document["average"]
    return Ending(
        adopted=Weights(document["adopted"]),
        memory_steps=float(document["memory_steps"]),
        last=None if last is None else float(last),
        average=None if average is None else float(average),
    )


def _replan(document: dict[str, Any]) -> Replan:
    total_steps = document["total_steps"]
    return Replan(
        step=int(document["step"]),
        kind=ChangeKind(document["kind"]),
        origin=ChangeOrigin(document["origin"]),
        total_steps=None if total_steps is None else int(total_steps),
        reason=str(document["reason"]),
    )


def _phase(name: str) -> Phase:
    phase = Phase(name)
    if phase is Phase.STOP:
        raise ValueError(f"phase {name!r} has no steps")
    return phase


def _profile(document: dict[str, Any]) -> Profile:
    return Profile(
        shape=Shape.parse(document["shape"]),
        start_lr=float(document["start_lr"]),
        end_lr=float(document["end_lr"]),
        length=int(document["length"]),
        offset=int(document["offset"]),
        warmup=int(document["warmup"]),
    )


def _validations(documents: list[dict[str, Any]]) -> tuple[Validation, ...]:
    return tuple(Validation(int(d["step"]), float(d["loss"])) for d in documents)


def _floats(numbers: list[float | str]) -> tuple[float, ...]:
    return tuple(map(float, numbers))
