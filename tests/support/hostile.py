"""Servers, objects and bugs that do their worst to a run, as strategies, and what a run must make of them."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import math
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar
from unittest import mock

import grpc
import torch
from hypothesis import strategies as st
from lrpilot.errors import LRPilotError, RefusedError, ServerError, UnavailableError
from lrpilot.lease import committed, rest_of, rolls_back
from lrpilot.observer import Observer
from lrpilot.transport.base import Transport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn

from tests.support.arbitrary import messages

STABLE_LR = 0.5
"""The training below stays finite at any LR up to this one."""
CODES = [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
EXCEPTIONS: list[Callable[[], BaseException]] = [
    lambda: ValueError("no value"),
    lambda: MemoryError(),
    lambda: KeyError("key"),
    lambda: OSError(28, "No space left on device"),
    lambda: RuntimeError("cannot schedule new futures after interpreter shutdown"),
    lambda: RecursionError(),
    lambda: AttributeError("attribute"),
    lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "x"),
    lambda: ZeroDivisionError(),
    lambda: OverflowError("int too large to convert to float"),
    lambda: grpc.RpcError("neither code nor details"),
    lambda: StopIteration(),
    lambda: TimeoutError(),
    lambda: AssertionError(),
    lambda: LRPilotError("of our own"),
]
POINTS = [
    "lrpilot.annealing.Annealing.take",
    "lrpilot.annealing.Annealing.replacement",
    "lrpilot.backends.torch_backend.TorchBackend.diverged",
    "lrpilot.backends.torch_backend.TorchBackend.flush",
    "lrpilot.backends.torch_backend.TorchBackend.lrs",
    "lrpilot.backends.torch_backend.TorchBackend.peek",
    "lrpilot.backends.torch_backend.TorchBackend.restore",
    "lrpilot.backends.torch_backend.TorchBackend.take",
    "lrpilot.backends.torch_backend.TorchBackend.validate",
    "lrpilot.backends.torch_backend.TorchBackend.finish",
    "lrpilot.backends.torch_backend.TorchBackend.suspects",
    "lrpilot.course.bar_of",
    "lrpilot.course.begins_unsearched",
    "lrpilot.course.first_divergence",
    "lrpilot.lease.Lease.event",
    "lrpilot.outbox.Outbox.add",
    "lrpilot.outbox.Outbox.deliver",
    "lrpilot.position.Position.follow",
    "lrpilot.record.Record.add",
    "lrpilot.repetition.Repetition.differs",
    "lrpilot.sanity.check",
    "lrpilot.sanity.check_in_place",
    "lrpilot.session.Session.abandon",
    "lrpilot.session.Session.answer",
    "lrpilot.session.Session.close",
]
"""Functions of the client that a bug might be in."""
SPOILING = ("restore", "take", "flush", "diverged", "first_divergence", "follow")
"""In which a bug may let a divergence stay: the run goes on all the same, with what is left of the weights."""
INTEGERS = [-(2**63), -(2**31), -5, -1, 0, 1, 2, 7, 49, 51, 2**24, 2**31 - 1, 2**31, 2**40, 2**53, 2**62, 2**63 - 1]
FLOATS = [-math.inf, -1e308, -1.0, -0.0, 0.0, 5e-324, 1e-300, 1e-45, 1e-3, 1.0, 1e30, 3.5e38, 1e308, math.inf, math.nan]


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """An exception at the `first` call of something, from 1, and at so many after it."""

    first: int
    times: int
    make: int
    """Of EXCEPTIONS."""

    def strike(self, call: int) -> None:
        """Raises, if it is its turn."""
        if self.first <= call < self.first + self.times:
            raise EXCEPTIONS[self.make]()


NO_FAULT = Fault(0, 0, 0)
faults = st.builds(Fault, st.integers(1, 12), st.sampled_from([1, 1, 2, 10**9]), st.integers(0, len(EXCEPTIONS) - 1))


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


PROFILE = ("shape", "start_lr", "end_lr", "length", "offset", "warmup")
_numbers = st.sampled_from(INTEGERS)
_any_float = st.sampled_from(FLOATS)
_changes = st.one_of(
    st.tuples(st.sampled_from(["number", "n_steps", "report_every", "length", "offset", "warmup"]), _numbers),
    st.tuples(st.sampled_from(["phase", "batches", "shape", "stage"]), st.sampled_from([-(2**31), -1, 0, 1, 5, 9, 99])),
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
        self.wild |= max(directive.profile.start_lr, directive.profile.end_lr, 0.0) > STABLE_LR
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
                shape=pb.PROFILE_SHAPE_LINEAR, start_lr=move.lr, end_lr=move.lr / 2, length=n_steps, warmup=n_steps // 5
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


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One run, and all that happens to it."""

    total_steps: int | None
    plan: tuple[Move, ...]
    draws: bool
    """Whether the loop draws its batches through the tuner."""
    looks: bool
    """Whether the client looks for its server at every part."""
    saves_at: int
    """The step after which a checkpoint is taken."""
    resumes: bool
    """Whether another process goes on from it."""
    state_dict: Fault = NO_FAULT
    load_state_dict: Fault = NO_FAULT
    validate: Fault = NO_FAULT
    observer: Fault = NO_FAULT
    bug: tuple[str, Fault] | None = None

    @property
    def may_spoil(self) -> bool:
        """Whether a divergence may stay."""
        spoils = self.bug is not None and self.bug[0].endswith(SPOILING)
        return spoils or self.load_state_dict != NO_FAULT or self.state_dict != NO_FAULT


seldom = st.one_of(st.just(NO_FAULT), st.just(NO_FAULT), st.just(NO_FAULT), faults)
cases = st.builds(
    Case,
    total_steps=st.one_of(st.integers(1, 120), st.integers(60, 200), st.none()),
    plan=st.lists(moves, max_size=8).map(tuple),
    draws=st.booleans(),
    looks=st.booleans(),
    saves_at=st.integers(0, 100),
    resumes=st.booleans(),
    state_dict=seldom,
    load_state_dict=seldom,
    validate=seldom,
    observer=seldom,
    bug=st.one_of(st.none(), st.none(), st.tuples(st.sampled_from(POINTS), faults)),
)


class Counted:
    """A registered object with a state, whose methods may fail; so may a validation and an observer."""

    calls: ClassVar[collections.Counter[str]] = collections.Counter()
    """Of the present run: in an attribute of the object they would be rolled back."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self.calls.clear()

    def strike(self, name: str) -> None:
        """Counts a call, and raises if it is the turn."""
        self.calls[name] += 1
        getattr(self._case, name).strike(self.calls[name])

    def state_dict(self) -> dict[str, int]:
        """Nothing much."""
        self.strike("state_dict")
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing much."""
        self.strike("load_state_dict")


class Watching(Observer):
    """Fails in its turn."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted

    def began(self, driver: object, directive: pb.Directive) -> None:
        """Fails, perhaps."""
        self._counted.strike("observer")

    def reported(self, driver: object, directive: pb.Directive, report: pb.Report, start: int) -> None:
        """Fails, perhaps."""
        self._counted.strike("observer")


class Run:
    """A training of milliseconds, which stays finite at an LR of up to STABLE_LR."""

    def __init__(self, case: Case, server: HostileServer) -> None:
        self.case, self.server = case, server
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(8, 2, generator=generator)
        self.loader = [self.inputs[:4], self.inputs[4:]]
        self.model = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.steps = 0
        self.counted = Counted(case)

    def tuner(self) -> Tuner:
        """Opens its job."""

        def validate() -> float:
            self.counted.strike("validate")
            return 1.0

        return Tuner(
            self.model,
            self.optimizer,
            transport=self.server,
            total_steps=self.case.total_steps,
            timeout_s=0.2,
            validate=validate,
            register={"counted": self.counted},
            observers=[Watching(self.counted)],
        )

    def update(self, tuner: Tuner, batch: torch.Tensor) -> None:
        """One optimizer step."""
        loss = ((self.model(batch) - batch.sum(1, keepdim=True)) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        tuner.step(loss)

    def train(self, tuner: Tuner, until: int) -> None:
        """Trains to the end, or so many steps; goes on after an interrupt, as a notebook's next cell does."""
        over = False
        while not over:
            with contextlib.suppress(KeyboardInterrupt):
                over = tuner.finished or self.steps >= until
                if over:
                    break
                if not self.case.draws:
                    self.update(tuner, self.inputs)
                    continue
                for batch in tuner.batches(self.loader):
                    self.update(tuner, batch)
                    if self.steps >= until:
                        break

    @property
    def is_finite(self) -> bool:
        """Whether all weights are numbers."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters())


@contextlib.contextmanager
def bug(case: Case) -> Iterator[None]:
    """Puts the case's bug into the client."""
    if case.bug is None:
        yield
        return
    name, fault = case.bug
    owner, _, attribute = name.rpartition(".")
    original = getattr(pkgutil.resolve_name(owner), attribute)
    calls = 0

    def failing(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        fault.strike(calls)
        return original(*arguments, **keywords)

    with mock.patch(name, failing):
        yield


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """A failure is said with its traceback, which takes longer than the run."""
    log = logging.getLogger("lrpilot")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


ENDLESS_STEPS = 150
"""Of a run without an end, before it is closed."""
MAX_STEPS = 1000


def check(case: Case) -> None:
    """Trains through all that happens to it. Raises: AssertionError: what must hold does not."""
    torch.manual_seed(0)
    run = Run(case, HostileServer(case.plan, case.total_steps))
    until = ENDLESS_STEPS if case.total_steps is None else MAX_STEPS
    with _silence(), bug(case), mock.patch("lrpilot.session.LOOKING_SHARE", 0 if case.looks else 20):
        try:
            tuner = run.tuner()
            run.train(tuner, min(case.saves_at, until))
        except (Exception, KeyboardInterrupt):
            if run.steps > 0:
                raise
            return
        with contextlib.suppress(KeyboardInterrupt):
            state = tuner.state_dict()
            if case.resumes and run.steps > 0:
                run, tuner = _resumed(run, tuner, state)
        try:
            run.train(tuner, until)
        except Exception:
            if run.steps > 0:
                raise
            return
        _close(tuner)
    if case.total_steps is not None:
        assert run.steps == case.total_steps, f"{run.steps} steps of {case.total_steps}"
    assert tuner.finished
    if not (run.server.wild or case.may_spoil):
        assert run.is_finite, "the weights are no numbers"


def _resumed(run: Run, tuner: Tuner, state: dict[str, Any]) -> tuple[Run, Tuner]:
    """Another process's run, from a checkpoint; the same one if it can't be loaded, which is before its first step."""
    other = Run(dataclasses.replace(run.case, plan=()), run.server)
    try:
        resumed = other.tuner()
        other.model.load_state_dict(run.model.state_dict())
        other.optimizer.load_state_dict(run.optimizer.state_dict())
        resumed.load_state_dict(state)
    except Exception:
        return run, tuner
    other.steps = run.steps
    return other, resumed


def _close(tuner: Tuner) -> None:
    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt):
            tuner.close()
