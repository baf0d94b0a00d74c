"""Objects and bugs that do their worst to a run, as its server does, and what the run must make of them."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any, ClassVar
from unittest import mock

import torch
from hypothesis import strategies as st
from lrpilot.run.observer import Observer
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn

from tests.support.hostile.exceptions import EXCEPTIONS
from tests.support.hostile.failing_calls import before_calls_of
from tests.support.hostile.hostile_server import HostileServer, Move, moves

POINTS = [
    "lrpilot.session.annealing.Annealing.take",
    "lrpilot.session.annealing.Annealing.replacement",
    "lrpilot.backends.torch.backend.TorchBackend.diverged",
    "lrpilot.backends.torch.backend.TorchBackend.flush",
    "lrpilot.backends.torch.backend.TorchBackend.lrs",
    "lrpilot.backends.torch.backend.TorchBackend.peek",
    "lrpilot.backends.torch.backend.TorchBackend.restore",
    "lrpilot.backends.torch.backend.TorchBackend.take",
    "lrpilot.backends.torch.backend.TorchBackend.validate",
    "lrpilot.backends.torch.backend.TorchBackend.finish",
    "lrpilot.backends.torch.backend.TorchBackend.suspects",
    "lrpilot.run.runners.directive_runner.bar_of",
    "lrpilot.run.runners.directive_runner.begins_unsearched",
    "lrpilot.run.runners.directive_runner.first_divergence",
    "lrpilot.run.lease.Lease.event",
    "lrpilot.session.outbox.Outbox.add",
    "lrpilot.session.outbox.Outbox.deliver",
    "lrpilot.data.position.DataPosition.follow",
    "lrpilot.run.run_record.RunRecord.add",
    "lrpilot.run.repetition.Repetition.differs",
    "lrpilot.session.directive_check.check",
    "lrpilot.session.directive_check.check_in_place",
    "lrpilot.session.session.Session.abandon",
    "lrpilot.session.session.Session.answer",
    "lrpilot.session.session.Session.close",
]
"""Functions of the client that a bug might be in."""
SPOILING = ("restore", "take", "flush", "diverged", "first_divergence", "follow")
"""In which a bug may let a divergence stay: the run goes on all the same, with what is left of the weights."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """An exception at the `first` call of something, from 1, and at so many after it."""

    first: int
    times: int
    make: int
    """One of EXCEPTIONS."""

    def strike(self, call: int) -> None:
        """Raises, if it is its turn."""
        if self.first <= call < self.first + self.times:
            raise EXCEPTIONS[self.make]()


NO_FAULT = Fault(0, 0, 0)
faults = st.builds(Fault, st.integers(1, 12), st.sampled_from([1, 1, 2, 10**9]), st.integers(0, len(EXCEPTIONS) - 1))


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
    """What belongs to the present run: in an attribute of the object it would be rolled back."""

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


def bug(case: Case) -> contextlib.AbstractContextManager[None]:
    """Puts the case's bug into the client."""
    if case.bug is None:
        return contextlib.nullcontext()
    name, fault = case.bug
    return before_calls_of(name, fault.strike)


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
"""The steps of a run without an end, before it is closed."""
MAX_STEPS = 1000


def check(case: Case) -> None:
    """Trains through all that happens to it. Raises: AssertionError: what must hold does not."""
    torch.manual_seed(0)
    run = Run(case, HostileServer(case.plan, case.total_steps))
    until = ENDLESS_STEPS if case.total_steps is None else MAX_STEPS
    with _silence(), bug(case), mock.patch("lrpilot.session.session.LOOK_PAUSE_FACTOR", 0 if case.looks else 20):
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
