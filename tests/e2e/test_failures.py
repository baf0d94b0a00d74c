"""Invariant 6: whatever fails in the middle of a run ends the tuning, and not the training, which keeps its budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar
from unittest import mock

import hypothesis
import pytest
import torch
from lrpilot.errors import LRPilotError, ProtocolError, RefusedError, ServerError, UnavailableError
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.hostile import hostile_run
from tests.support.hostile.exceptions import EXCEPTIONS, USUAL
from tests.support.hostile.hostile_server import Move
from tests.support.training.quick_run import SCRIPT, TOTAL, Run, assert_annealed, warned
from tests.support.training.scripted_directives import constant, training


class Failing(ScriptedTransport):
    """Raises at a call, counted from 1, creation included, and at all later ones."""

    def __init__(self, call: int, error: Callable[[], Exception]) -> None:
        super().__init__(SCRIPT)
        self._call, self._error = call, error
        self._calls = 0

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        self._strike()
        return super().create_job(request, timeout_s)

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        self._strike()
        return super().advance(request, timeout_s)

    def _strike(self) -> None:
        self._calls += 1
        if self._calls >= self._call:
            raise self._error()

    def close(self) -> None:
        raise self._error()


class Registered:
    """An object whose methods may be made to raise. What they raise is no attribute of it, and is not rolled back."""

    faults: ClassVar[dict[str, Callable[[], Exception]]] = {}

    def state_dict(self) -> dict[str, float]:
        self._strike("state_dict")
        return {"value": 1.0}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._strike("load_state_dict")

    def _strike(self, method: str) -> None:
        if method in self.faults:
            raise self.faults[method]()


@pytest.mark.parametrize("error", USUAL, ids=lambda make: type(make()).__name__)
@pytest.mark.parametrize("call", [1, 2, 4, 5])
def test_a_transport_that_raises_is_a_server_that_is_away(
    caplog: pytest.LogCaptureFixture, call: int, error: Callable[[], Exception]
) -> None:
    run = Run()
    tuner = run.tuner(Failing(call, error))
    run.train(tuner)
    assert_annealed(run, tuner)
    assert 1 <= len(warned(caplog)) <= 3  # it goes, the run ends without it, and it can't be let go of
    assert len(warned(caplog)) == len(set(warned(caplog)))
    assert type(error()).__name__ in warned(caplog)[0]


@pytest.mark.parametrize("call", [1, 3])
def test_strict_raises_what_a_transport_raised_as_an_error_of_the_family(call: int) -> None:
    run = Run()
    with pytest.raises(ServerError, match="Failing raised KeyError"):
        run.train(run.tuner(Failing(call, USUAL[2]), strict=True))


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "PERMISSION_DENIED", "ABORTED", "INTERNAL"])
@pytest.mark.parametrize("error", [RefusedError, ServerError, UnavailableError])
def test_a_refusal_that_may_pass_is_a_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: str, error: type[ServerError]
) -> None:
    """It is joined when it takes the job."""

    class Full(ScriptedTransport):
        refusals = 3

        def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
            if self.refusals:
                self.refusals -= 1
                raise error("there are too many", code)
            return super().create_job(request, timeout_s)

    monkeypatch.setattr("lrpilot.session.session.LOOK_PAUSE_FACTOR", 0)
    run, transport = Run(), Full([training(0.1, 10), training(0.1, 60)])
    tuner = run.tuner(transport)
    run.train(tuner)
    assert_annealed(run, tuner)
    assert transport.reports[0].outcome == pb.OUTCOME_REPLACED
    assert tuner.job_id
    assert "there are too many" in warned(caplog)[0]
    with pytest.raises(error, match="there are too many"):
        Run().tuner(Full([]), strict=True)


def test_a_wrong_argument_is_refused_all_the_same() -> None:
    class Refusing(ScriptedTransport):
        def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
            raise RefusedError("seed: -1 is negative", "INVALID_ARGUMENT")

    transport = Refusing([])
    with pytest.raises(RefusedError, match="seed"):
        Run().tuner(transport)
    assert transport.closed


METHODS = ["state_dict", "load_state_dict"]


@pytest.mark.parametrize("error", USUAL, ids=lambda make: type(make()).__name__)
@pytest.mark.parametrize("method", METHODS)
def test_a_registered_object_that_raises_ends_the_tuning_and_is_named_once(
    caplog: pytest.LogCaptureFixture, method: str, error: Callable[[], Exception]
) -> None:
    run = Run()
    tuner = run.tuner(ScriptedTransport(SCRIPT), register={"mine": Registered()})
    with mock.patch.dict(Registered.faults, {method: error}):
        run.train(tuner)
        assert_annealed(run, tuner)
    said = [line for line in warned(caplog) if "anneals" in line]
    assert len(said) == 1
    assert type(error()).__name__ in said[0]


def test_one_that_raises_at_once_is_refused_before_the_first_step() -> None:
    with (
        mock.patch.dict(Registered.faults, {"state_dict": lambda: ArithmeticError("mine")}),
        pytest.raises(ArithmeticError, match="mine"),
    ):
        Run().tuner(ScriptedTransport(SCRIPT), register={"mine": Registered()})


def test_what_can_be_put_back_is_put_back(caplog: pytest.LogCaptureFixture) -> None:
    """The run goes on from the weights before the search."""
    run = Run()
    tuner = run.tuner(ScriptedTransport(SCRIPT), register={"mine": Registered()})
    before = run.parameter.detach().clone()
    with mock.patch.dict(Registered.faults, {"load_state_dict": lambda: ArithmeticError("mine")}):
        for _ in range(8):
            run.step(tuner)
        assert torch.equal(run.parameter, before)
        run.train(tuner)
    assert_annealed(run, tuner)
    assert "the snapshot can't be put back" in warned(caplog)[0]


def test_without_a_snapshot_a_divergence_halves_the_lr_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is restored that was never taken, and nothing is booked as rolled back."""
    script = [training(0.1, 20), training(0.1, 100, report_every=10)]
    run = Run()
    tuner = run.tuner(ScriptedTransport(script))
    with (
        mock.patch("lrpilot.backends.torch.rollback.snapshot.Snapshot.take", side_effect=MemoryError("too little")),
        mock.patch("lrpilot.backends.torch.rollback.snapshot.Snapshot.restore", side_effect=AssertionError("never")),
    ):
        for _ in range(30):
            run.step(tuner)
        peak = tuner.lr
        run.step(tuner, math.inf)
        while not tuner.finished:
            run.step(tuner)
    assert run.steps == TOTAL == tuner.committed_step
    assert max(run.lrs[40:]) <= peak / 2
    assert [line for line in warned(caplog) if "no snapshot can be taken: MemoryError: too little" in line]
    assert not [line for line in warned(caplog) if "never" in line]
    tuner.close()


BUGS = [name for name in hostile_run.POINTS if not name.endswith(("close", "abandon"))]


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("name", BUGS)
def test_a_bug_of_our_own_ends_the_tuning_at_most(name: str, lasts: bool) -> None:
    for call in (2, 5):
        fault = hostile_run.Fault(call, 10**9 if lasts else 1, make=0)
        for draws in (False, True):
            hostile_run.check(
                hostile_run.Case(TOTAL, PLAN, draws=draws, looks=True, saves_at=30, resumes=False, bug=(name, fault))
            )


PLAN = (
    Move(pb.PHASE_PROBE, 8, 0.5),
    Move(pb.PHASE_PROBE, 8, 0.05),
    Move(pb.PHASE_TRAIN, 30, 0.05),
    Move(pb.PHASE_TRAIN, 30, 0.05, error=EXCEPTIONS[0]),
)


@pytest.mark.parametrize("call", range(1, 8))
def test_a_run_whose_books_have_failed_can_be_resumed(call: int) -> None:
    """Steps are missing from them."""
    bug = ("lrpilot.run.run_record.RunRecord.add", hostile_run.Fault(call, 2, make=8))
    hostile_run.check(hostile_run.Case(95, PLAN, draws=True, looks=False, saves_at=72, resumes=True, bug=bug))


@pytest.fixture(scope="module")
def nonsense() -> dict[str, pb.Directive]:
    huge = 2**62
    return {
        "goes back to nothing": training(0.1, 10, restore=True),
        "stops before the first step": pb.Directive(phase=pb.PHASE_STOP),
        "stops and goes back to nothing": pb.Directive(phase=pb.PHASE_STOP, restore=True),
        "can't be rolled back": pb.Directive(phase=pb.PHASE_PROBE, n_steps=10, profile=constant(0.1, 10)),
        "an LR beyond single precision": training(1e39, 10),
        "more steps than are left": training(0.1, TOTAL + 1),
        "more steps than there are": training(0.1, huge),
        "parts longer than the whole": training(0.1, 60, report_every=61),
        "batches from nowhere": training(0.1, 10, stage=-7),
        "a validation too many": training(0.1, 10, validate_at=[11]),
        "a limit that nothing keeps": training(0.1, 10, give_up_above=-math.inf),
    }


NONSENSE = 11


@pytest.mark.parametrize("at", range(NONSENSE))
def test_a_first_directive_that_cannot_be_carried_out_is_refused(
    nonsense: dict[str, pb.Directive], caplog: pytest.LogCaptureFixture, at: int
) -> None:
    assert len(nonsense) == NONSENSE
    directive = list(nonsense.values())[at]
    run = Run()
    tuner = run.tuner(ScriptedTransport([directive, *[training(0.1, 10)] * 20]))
    run.train(tuner)
    assert run.steps == TOTAL
    assert torch.isfinite(run.parameter).all()
    tuner.close()
    assert "makes no sense" in warned(caplog)[0]
    with pytest.raises(ProtocolError, match="makes no sense"):
        Run().tuner(ScriptedTransport([directive]), strict=True)


@hypothesis.settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(hostile_run.cases)
def test_whatever_a_server_an_object_or_a_bug_does_the_training_keeps_its_budget(case: hostile_run.Case) -> None:
    """The longer run of the same kind is tests/fuzz/fuzz_client.py."""
    hostile_run.check(case)


def test_errors_have_one_tree() -> None:
    """What is raised under `strict` can be caught as what it is."""
    assert issubclass(ProtocolError, ServerError)
    assert issubclass(ServerError, LRPilotError)


def test_a_run_that_is_left_after_a_loss_that_is_no_number_goes_back_to_its_snapshot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server takes no such loss of steps that stay."""
    run, transport = Run(), ScriptedTransport(SCRIPT)
    tuner = run.tuner(transport)
    before = run.parameter.detach().clone()
    for _ in range(18):
        run.step(tuner)
    run.step(tuner, factor=math.nan)
    tuner.close()
    assert (transport.reports[-1].outcome, len(transport.reports[-1].losses)) == (pb.OUTCOME_DIVERGED, 3)
    assert torch.equal(run.parameter, before)
    assert (tuner.committed_step, tuner.search_steps) == (0, 19)
    assert warned(caplog) == []
