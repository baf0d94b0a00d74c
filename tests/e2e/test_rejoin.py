"""Invariant 6: a tuner that could not have a decision trains on, and joins again when its server is back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import lrpilot
import pytest
import torch
from lrpilot.errors import ProtocolError, RefusedError, UnavailableError
from lrpilot.session.session import PART_TIMEOUT_S
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn

from tests.support.servers.server_process import ServerProcess, running

TOTAL = 600
OPTIONS: dict[str, dict[str, Any]] = {
    "budget": {"probe_steps": 5, "refinements": 0, "max_candidates": 4},
    "autolrs": {"tau": 40, "tau_prime": 5, "tau_max": 40, "candidates": 3},
}


class Away(GrpcTransport):
    """A server that is away from call `first` to call `last`, which count from 1 on, creation included."""

    def __init__(self, target: str, first: int, last: int) -> None:
        super().__init__(target)
        self._away = range(first, last + 1)
        self._calls = 0

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        self._lose()
        return super().create_job(request, timeout_s)

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        self._lose()
        return super().advance(request, timeout_s)

    def _lose(self) -> None:
        self._calls += 1
        if self._calls in self._away:
            raise UnavailableError("away", "UNAVAILABLE")


class Quadratic:
    """A noisy quadratic: a run that takes milliseconds."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.parameter = nn.Parameter(torch.ones(8))
        self.optimizer = torch.optim.SGD([self.parameter], lr=0.05)
        self.scale = torch.linspace(0.1, 1.0, 8)
        self.steps = 0

    def update(self) -> torch.Tensor:
        loss = (self.scale * self.parameter**2).sum() + 0.1 * torch.rand(())
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        return loss.detach()

    def tuner(self, transport: GrpcTransport, policy: str, **arguments: Any) -> lrpilot.Tuner:
        return lrpilot.Tuner(
            nn.ParameterList([self.parameter]),
            self.optimizer,
            transport=transport,
            total_steps=TOTAL,
            lr_bounds=(1e-3, 1.0),
            policy=policy,
            policy_options=OPTIONS[policy],
            timeout_s=1.0,
            **arguments,
        )

    def train(self, tuner: lrpilot.Tuner) -> None:
        while not tuner.finished:
            tuner.step(self.update())


@pytest.fixture(autouse=True)
def looks_for_the_server_at_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """These runs are over in less time than a tuner waits between two looks."""
    monkeypatch.setattr("lrpilot.session.session.LOOK_PAUSE_FACTOR", 0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(f"sqlite:///{tmp_path_factory.mktemp('server') / 'jobs.db'}") as process:
        yield process


def stored(server: ServerProcess, job_id: str) -> pb.GetScheduleResponse:
    request = pb.GetScheduleRequest(job_id=job_id, view=pb.SCHEDULE_VIEW_FULL)
    return server.stub.GetSchedule(request, timeout=10)


@pytest.mark.parametrize("policy", ["budget", "autolrs"])
@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 3), (2, 4), (3, 3), (5, 8), (7, 7)])
def test_it_joins_again_and_both_sides_have_the_same_books(
    server: ServerProcess, caplog: pytest.LogCaptureFixture, policy: str, first: int, last: int
) -> None:
    caplog.set_level(logging.INFO, "lrpilot")
    run = Quadratic()
    tuner = run.tuner(Away(server.target, first, last), policy)
    run.train(tuner)
    assert run.steps == TOTAL
    answer = stored(server, tuner.job_id)
    assert answer.job.state == pb.JOB_STATE_FINISHED
    assert answer.job.committed_steps == tuner.committed_step
    assert answer.job.search_steps == tuner.search_steps
    assert lrpilot.Schedule.from_response(answer, tuner.schedule.base_lrs) == tuner.schedule
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    assert any("the server is back" in record.message for record in caplog.records)


def test_a_server_that_misses_the_end_is_told_when_the_tuner_closes(server: ServerProcess) -> None:
    run = Quadratic()
    transport = Away(server.target, 14, 16)
    tuner = run.tuner(transport, "budget")
    run.train(tuner)
    assert stored(server, tuner.job_id).job.state == pb.JOB_STATE_TRAINING
    tuner.close()
    assert stored(server, tuner.job_id).job.state == pb.JOB_STATE_FINISHED


def test_away_at_the_start_it_trains_a_plain_schedule_then_searches(server: ServerProcess) -> None:
    run = Quadratic()
    tuner = run.tuner(Away(server.target, 1, 2), "budget")
    assert (tuner.job_id, tuner.phase, tuner.stage) == ("", "train", 0)
    run.train(tuner)
    answer = stored(server, tuner.job_id)
    outcomes = [entry.report.outcome for entry in answer.history]
    assert outcomes[0] == pb.OUTCOME_REPLACED
    assert tuner.search_steps > 0
    assert answer.history[1].directive.snapshot  # the client's last one was of another moment
    assert not answer.history[1].directive.restore


def test_a_replacement_whose_answer_is_lost_is_told_once(server: ServerProcess) -> None:
    """The server took the report, the client did not hear of it, and trained on: a second report has the rest."""

    class Deaf(Away):
        def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
            response = super().advance(request, timeout_s)
            if request.report.outcome == pb.OUTCOME_REPLACED and not self.deaf:
                self.deaf = True
                raise UnavailableError("answer lost", "DEADLINE_EXCEEDED")
            return response

        deaf = False

    run = Quadratic()
    tuner = run.tuner(Deaf(server.target, 3, 4), "budget")
    run.train(tuner)
    answer = stored(server, tuner.job_id)
    outcomes = [entry.report.outcome for entry in answer.history]
    assert outcomes.count(pb.OUTCOME_REPLACED) == 2
    assert answer.job.committed_steps + answer.job.search_steps == TOTAL
    assert lrpilot.Schedule.from_response(answer, tuner.schedule.base_lrs) == tuner.schedule


def test_a_tuner_that_goes_on_for_good_with_reports_undelivered_can_be_closed(server: ServerProcess) -> None:
    """Nobody calls over a connection that was let go of."""

    class Refusing(GrpcTransport):
        closed = False

        def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
            assert not self.closed
            raise RefusedError("not this one", "FAILED_PRECONDITION")

        def close(self) -> None:
            self.closed = True
            super().close()

    run = Quadratic()
    with run.tuner(Refusing(server.target), "budget") as tuner:
        run.train(tuner)
    assert run.steps == TOTAL


@pytest.mark.parametrize(("first", "last"), [(1, 1), (3, 9)])
def test_strict_raises_instead(server: ServerProcess, first: int, last: int) -> None:
    run = Quadratic()
    with pytest.raises(UnavailableError):
        run.train(run.tuner(Away(server.target, first, last), "budget", strict=True))
    assert run.steps < TOTAL


def test_a_lost_job_is_told_again_and_comes_out_the_same(
    server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's database is another one from call 4 on, and again from call 13 on."""

    class Forgetful(Away):
        def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
            self._calls += 1
            if self._calls in (4, 13):
                request = pb.AdvanceRequest(job_id="no-such-job", report=request.report)
            return super().advance(request, timeout_s)

        def _lose(self) -> None: ...

    whole, again = Quadratic(), Quadratic()
    expected = whole.tuner(GrpcTransport(server.target), "budget")
    whole.train(expected)
    tuner = again.tuner(Forgetful(server.target, 0, 0), "budget")
    first_id = tuner.job_id
    again.train(tuner)
    assert tuner.job_id != first_id
    assert torch.equal(whole.parameter, again.parameter)
    assert tuner.schedule.segments == expected.schedule.segments
    assert len([record for record in caplog.records if "lost job" in record.message]) == 2


@pytest.mark.parametrize(
    "nonsense",
    [
        {"number": 77},
        {"n_steps": 0},
        {"n_steps": 10**9},
        {"phase": pb.PHASE_UNSPECIFIED},
        {"validate_at": [9999]},
        {"profile": pb.Profile(shape="constant", start_lr=float("nan"), end_lr=0.1, length=4)},
        {"profile": pb.Profile(length=4)},
        {"report_every": -1},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_nonsense_is_not_carried_out(
    server: ServerProcess, caplog: pytest.LogCaptureFixture, nonsense: dict[str, Any]
) -> None:
    class Mad(GrpcTransport):
        def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
            response = super().advance(request, timeout_s)
            response.directive.MergeFrom(pb.Directive(**nonsense))
            for name in ("n_steps", "phase"):
                if name in nonsense:
                    setattr(response.directive, name, nonsense[name])
            return response

    run = Quadratic()
    tuner = run.tuner(Mad(server.target), "budget")
    run.train(tuner)
    assert run.steps == TOTAL
    assert torch.isfinite(run.parameter).all()
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1

    run = Quadratic()
    with pytest.raises(ProtocolError):
        run.train(run.tuner(Mad(server.target), "budget", strict=True))


def test_all_waiting_together_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers nothing, and time stands still but for the waiting."""

    class BlackHole(Away):
        def __init__(self) -> None:
            super().__init__("127.0.0.1:1", 1, 10**9)
            self.waited_s = 0.0

        def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
            self.waited_s += timeout_s
            clock[0] += timeout_s
            return super().create_job(request, timeout_s)

    clock = [0.0]
    monkeypatch.setattr("lrpilot.session.session.time.monotonic", lambda: clock[0])
    run = Quadratic()
    transport = BlackHole()
    run.train(run.tuner(transport, "budget"))
    assert run.steps == TOTAL
    assert 1.0 <= transport.waited_s <= 10 * 1.0 + PART_TIMEOUT_S
