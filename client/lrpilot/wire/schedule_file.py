"""Schedules as JSON text.

The text is strict JSON. A float is written as the shortest decimal that reads back as the same float; a loss that is
not finite, which JSON has no number for, as the string "nan", "inf" or "-inf".
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
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
LARGEST_BYTES = 2**30
"""The largest file that is read: a schedule with the losses of forty million steps. Its numbers take
several times that."""
_NUMBERS_AT_ONCE = 4096


def dumps(schedule: ScheduleData) -> str:
    """The text of a schedule."""
    return "".join(chunks(schedule))


def chunks(schedule: ScheduleData) -> Iterator[str]:
    """The text of a schedule, some ten kilobytes at a time: of a long run it is gigabytes."""
    document: dict[str, Any] = {"format": _FORMAT, "version": _VERSION, **_shallow(schedule)}
    yield from _text(document, "\n")
    yield "\n"


def _text(value: Any, line: str) -> Iterator[str]:
    """A value as text; `line` begins a line where it stands."""
    if isinstance(value, dict):
        named = ((f"{json.dumps(name)}: ", _text(child, line + " ")) for name, child in value.items())
        yield from _listed("{}", line, (itertools.chain([name], text) for name, text in named))
    elif dataclasses.is_dataclass(value) and not isinstance(value, Shape):
        yield from _text(_shallow(value), line)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield from _sequence(value, line)
    else:
        yield json.dumps(_plain(value), allow_nan=False)


def _sequence(values: Sequence[Any], line: str) -> Iterator[str]:
    """A list: of numbers many at a time, which is all that is ever long in a schedule."""
    if not values or not isinstance(values[0], float):
        yield from _listed("[]", line, (_text(child, line + " ") for child in values))
        return
    between = f",{line} "
    left = iter(values)
    begin = f"[{line} "
    while block := list(itertools.islice(left, _NUMBERS_AT_ONCE)):
        if not all(map(math.isfinite, block)):
            block = [_plain(number) for number in block]
        # Without `indent` the encoder is the one that is written in C.
        yield begin + json.dumps(block, allow_nan=False, separators=(between, ": "))[1:-1]
        begin = between
    yield f"{line}]"


def _listed(brackets: str, line: str, children: Iterable[Iterable[str]]) -> Iterator[str]:
    """The text of what has parts, a line each; nothing between the brackets where there are none."""
    begin = brackets[0] + line + " "
    any_child = False
    for child in children:
        yield begin
        yield from child
        begin, any_child = f",{line} ", True
    yield f"{line}{brackets[1]}" if any_child else brackets


def loads(text: str | bytes, kind: type[S]) -> S:
    """The schedule of a text, as a `kind`.

    Raises:
        ScheduleError: it is no schedule, or one of a newer format.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ScheduleError(f"not a schedule: not JSON ({error})") from error
    except RecursionError:
        raise ScheduleError("not a schedule: it is nested too deeply") from None
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


def _shallow(value: Any) -> dict[str, Any]:
    """The fields of a value by name."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _plain(value: Any) -> Any:
    """A value without parts, as JSON has it."""
    if isinstance(value, Shape):
        return str(value)
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
        mode="max" if document.get("mode") == "max" else "min",
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
