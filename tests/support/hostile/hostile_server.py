"""Servers that answer what they like, as strategies."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from hypothesis import strategies as st
from lrpilot.errors import RefusedError, ServerError, UnavailableError
from lrpilot.transport.base import Transport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.directives import committed, rest_of, rolls_back

from tests.support.hostile.arbitrary_messages import messages
from tests.support.hostile.exceptions import EXCEPTIONS

STABLE_LR = 0.5
"""The training of `tests.support.hostile.hostile_run` stays finite at any LR up to this one."""
CODES = [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
INTEGERS = [-(2**63), -(2**31), -5, -1, 0, 1, 2, 7, 49, 51, 2**24, 2**31 - 1, 2**31, 2**40, 2**53, 2**62, 2**63 - 1]
FLOATS = [-math.inf, -1e308, -1.0, -0.0, 0.0, 5e-324, 1e-300, 1e-45, 1e-3, 1.0, 1e30, 3.5e38, 1e308, math.inf, math.nan]


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """What a server does once it is called: it answers, so or so changed, or raises."""

    phase: int
    n_steps: int
    lr: float
    changes: tuple[tuple[str, Any], ...] = ()
    whole: pb.Directive | None = None
    error: Callable[[], BaseException] | None = None

    @property
    def is_sound(self) -> bool:
        """Whether it is what a right server would do."""
        return not self.changes and self.whole is None and self.error is None


PROFILE = ("shape", "parameters", "start_lr", "end_lr", "length", "offset", "warmup")
_numbers = st.sampled_from(INTEGERS)
_any_float = st.sampled_from(FLOATS)
_changes = st.one_of(
    st.tuples(st.sampled_from(["number", "n_steps", "report_every", "length", "offset", "warmup"]), _numbers),
    st.tuples(st.sampled_from(["phase", "batches", "stage"]), st.sampled_from([-(2**31), -1, 0, 1, 5, 9, 99])),
    st.tuples(
        st.just("shape"), st.sampled_from(["", "bent", "points", "wsd/rex", "wsd/" * 99, "rex/wsd", "one_cycle"])
    ),
    st.tuples(st.just("parameters"), st.lists(_any_float, max_size=6) | st.just([0.5] * 3000)),
    st.tuples(st.sampled_from(["start_lr", "end_lr", "give_up_above"]), _any_float),
    st.tuples(st.sampled_from(["restore", "snapshot"]), st.booleans()),
    st.tuples(st.just("validate_at"), st.lists(_numbers, max_size=4)),
    st.tuples(st.just("promise"), st.lists(st.builds(pb.Bar, from_step=_numbers, loss=_any_float), max_size=3)),
    st.tuples(st.just("reason"), st.sampled_from(["%s%n{}" * 1000, "\x1b[2J", "\0"])),
)
_errors = st.one_of(
    st.sampled_from(EXCEPTIONS),
    st.builds(lambda code: lambda: RefusedError("refused", code), st.sampled_from(CODES)),
    st.builds(lambda code: lambda: ServerError("failed", code), st.sampled_from(CODES)),
    st.just(lambda: UnavailableError("away", "UNAVAILABLE")),
    st.just(KeyboardInterrupt),
)
_sound = st.builds(
    Move,
    phase=st.sampled_from([pb.PHASE_WARM_UP, pb.PHASE_RANGE_TEST, pb.PHASE_PROBE, pb.PHASE_TRAIN, pb.PHASE_TRAIN]),
    n_steps=st.integers(1, 30),
    lr=st.sampled_from([1e-3, 0.05, STABLE_LR]),
)


def _with(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Move]:
    return st.builds(lambda move, changed: dataclasses.replace(move, **changed), _sound, st.fixed_dictionaries(fields))


moves = st.one_of(
    _sound,
    _sound,
    _with(changes=st.lists(_changes, min_size=1, max_size=3).map(tuple)),
    _with(whole=messages(pb.Directive.DESCRIPTOR)),
    _with(error=_errors),
)


class HostileServer(Transport):
    """Makes its moves, one a call, and after the last one those of a right server."""

    def __init__(self, plan: Sequence[Move], total_steps: int | None) -> None:
        """Plans for a job of so many steps."""
        self._moves = iter(plan)
        self._left = total_steps
        self._last = pb.Directive()
        self.wild = False
        """Whether committed steps were to be made at an LR beyond the stable ones."""

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        """Opens a job, perhaps."""
        directive = self._move(1, rolled_back=False)
        return pb.CreateJobResponse(job=pb.Job(id="job", config=request.config), directive=directive)

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        """Answers, perhaps."""
        report = request.report
        if self._left is not None:
            wasted = report.replacement.wasted_steps
            self._left = max(self._left - len(report.losses) - wasted, 0)
        if report.outcome == pb.OUTCOME_PARTIAL and 0 < len(report.losses) < self._last.n_steps:
            directive = rest_of(self._last, len(report.losses))
            directive.number = report.directive_number + 1
            self._last = directive
            return pb.AdvanceResponse(directive=directive)
        replaced = report.outcome == pb.OUTCOME_REPLACED
        rolled_back = not replaced and (rolls_back(report) or not committed(self._last))
        return pb.AdvanceResponse(directive=self._move(report.directive_number + 1, rolled_back))

    def close(self) -> None:
        """Does nothing."""

    def _move(self, number: int, rolled_back: bool) -> pb.Directive:
        move = next(self._moves, Move(pb.PHASE_TRAIN, 20, 0.05))
        if move.error is not None:
            raise move.error()
        if move.whole is not None:
            directive = pb.Directive()
            directive.CopyFrom(move.whole)
        else:
            directive = self._directive(move, number, rolled_back)
            for name, value in move.changes:
                _set(directive, name, value)
        stays = directive.phase not in (pb.PHASE_PROBE, pb.PHASE_RANGE_TEST)
        self.wild |= stays and max(directive.profile.start_lr, directive.profile.end_lr, 0.0) > STABLE_LR
        self._last = directive
        return directive

    def _directive(self, move: Move, number: int, rolled_back: bool) -> pb.Directive:
        n_steps = move.n_steps if self._left is None else min(move.n_steps, self._left)
        if n_steps == 0:
            return pb.Directive(number=number, phase=pb.PHASE_STOP, restore=rolled_back)
        searches = move.phase in (pb.PHASE_PROBE, pb.PHASE_RANGE_TEST)
        return pb.Directive(
            number=number,
            phase=pb.Phase.ValueType(move.phase),
            n_steps=n_steps,
            profile=pb.Profile(
                shape="linear", start_lr=move.lr, end_lr=move.lr / 2, length=n_steps, warmup=n_steps // 5
            ),
            restore=rolled_back,
            snapshot=number == 1 or not rolled_back,
            batches=pb.BATCH_SOURCE_REPLAYED,
            validate_at=[n_steps],
            report_every=0 if searches else 7,
        )


def _set(directive: pb.Directive, name: str, value: Any) -> None:
    target: Any = directive.profile if name in PROFILE else directive
    if isinstance(value, list):
        del getattr(target, name)[:]
        getattr(target, name).extend(value)
    else:
        with contextlib.suppress(ValueError):  # the field has fewer bits
            setattr(target, name, value)
