"""Two processes with one job: the one that a checkpoint is from, and the one that has gone on from it."""

from __future__ import annotations

import contextlib
import logging
from unittest import mock

import pytest
from lrpilot.errors import UnavailableError
from lrpilot.session.run_state import RunState
from lrpilot.session.session import Session
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.jobs.kept_jobs import KeptJobs
from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config
from tests.support.servers.wire_client import report_to_pb
from tuner_server.rpc.convert import config_to_pb, directive_from_pb

CONFIG = config_to_pb(config(200, **QUICK))


class Process:
    """A training and its session."""

    def __init__(self, jobs: KeptJobs) -> None:
        self.session = Session(jobs, CONFIG, 5.0, strict=False)
        self.training = SimulatedTraining()

    @property
    def _run_state(self) -> RunState:
        return RunState(lr=0.1, remaining=200 - self.training.n_run, warm=False)

    def open(self) -> pb.Directive:
        return self.session.open(self._run_state)

    def answer(self, directive: pb.Directive) -> pb.Directive:
        report = report_to_pb(self.training.run(directive_from_pb(directive)))
        return self.session.answer(directive, report, self._run_state)


def test_the_job_is_that_of_the_process_that_went_on_last(caplog: pytest.LogCaptureFixture) -> None:
    jobs = KeptJobs()
    former = Process(jobs)
    directive = former.open()
    checkpoint = former.session.state_dict()
    present = Process(jobs)
    present.session.load_state_dict(checkpoint)
    following = present.answer(directive)
    with caplog.at_level(logging.WARNING, "lrpilot"):
        alone = former.answer(following)
    assert "another process has gone on with job" in caplog.text
    assert (alone.phase, alone.reason) == (pb.PHASE_TRAIN, "on its own: annealing")
    # The one that went on was not disturbed.
    assert present.answer(following).number == following.number + 1
    assert jobs.state.directive.number == following.number + 1


def test_a_job_that_was_lost_is_told_again_by_whoever_went_on() -> None:
    jobs = KeptJobs()
    former = Process(jobs)
    directive = former.answer(former.open())
    present = Process(jobs)
    present.session.load_state_dict(former.session.state_dict())
    present.training = former.training  # the weights of the checkpoint
    jobs.lose()
    assert present.answer(directive).number == directive.number + 1


def test_a_checkpoint_beyond_where_the_job_went_back_to_is_told_as_another_job() -> None:
    jobs = KeptJobs()
    former = Process(jobs)
    early = former.open()
    old = former.session.state_dict()
    directive = former.answer(former.answer(early))
    new = former.session.state_dict()
    back = Process(jobs)
    back.session.load_state_dict(old)
    gone_back, beyond = jobs.job_id, Process(jobs)
    beyond.training = former.training  # the weights of the checkpoint
    beyond.session.load_state_dict(new)
    assert beyond.answer(directive).number == directive.number + 1
    assert jobs.job_id != gone_back
    assert back.answer(early).number == early.number + 1


def test_a_process_whose_checkpoint_another_has_taken_meanwhile_trains_on_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs = KeptJobs()
    former = Process(jobs)
    directive = former.answer(former.open())
    late, present = Process(jobs), Process(jobs)
    checkpoint = former.session.state_dict()
    resume = jobs.resume_job

    def overtaken(request: pb.ResumeJobRequest, timeout_s: float) -> pb.ResumeJobResponse:
        answer = resume(request, timeout_s)
        jobs.resume_job = resume  # type: ignore[method-assign]  # once
        present.session.load_state_dict(checkpoint)
        return resume(request, timeout_s) or answer

    jobs.resume_job = overtaken  # type: ignore[method-assign]  # another process comes in between
    with caplog.at_level(logging.WARNING, "lrpilot"):
        late.session.load_state_dict(checkpoint)
        late.training = former.training
        alone = late.answer(directive)
    assert "the server refuses, training goes on from its checkpoint" in caplog.text
    assert alone.reason == "on its own: annealing"


class Signed(KeptJobs):
    """Notes signs besides."""

    def __init__(self) -> None:
        super().__init__()
        self.signs: list[tuple[str, str]] = []
        self.present = ""

    def resume_job(self, request: pb.ResumeJobRequest, timeout_s: float) -> pb.ResumeJobResponse:
        self.present = request.resume_id
        return super().resume_job(request, timeout_s)

    def beat(self, request: pb.BeatRequest) -> None:
        self.signs.append(("beat", request.resume_id))

    def leave_job(self, request: pb.LeaveJobRequest, timeout_s: float) -> pb.LeaveJobResponse:
        self.signs.append(("leave", request.resume_id))
        return pb.LeaveJobResponse()


def test_signs_name_the_life_that_gives_them() -> None:
    jobs = Signed()
    former = Process(jobs)
    former.open()
    present = Process(jobs)
    present.session.load_state_dict(former.session.state_dict())
    for process in (present, former):
        process.session.beat(1)
        process.session.close()
    assert jobs.present
    assert jobs.signs == [("beat", jobs.present), ("leave", jobs.present), ("beat", ""), ("leave", "")]


def test_whoever_leaves_has_taken_the_job_back_before(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Signed()
    former = Process(jobs)
    former.open()
    present = Process(jobs)
    with monkeypatch.context() as away:
        away.setattr(jobs, "resume_job", raises_unavailable)
        present.session.load_state_dict(former.session.state_dict())
    present.session.close()
    assert jobs.present
    assert jobs.signs == [("leave", jobs.present)]


def raises_unavailable(*_: object) -> None:
    raise UnavailableError("the server is away", "UNAVAILABLE")


@pytest.mark.parametrize("n_reports", [0, 1])
def test_the_job_that_a_resumed_process_opened_first_is_gone_unless_it_ran(n_reports: int) -> None:
    """Somebody who looks at the list sees one run."""
    with contextlib.closing(KeptJobs()) as jobs:
        former = Process(jobs)
        directive = former.open()
        kept, checkpoint = jobs.job_id, former.session.state_dict()
        present = Process(jobs)
        stray_directive = present.open()
        stray = jobs.job_id
        assert stray != kept
        for _ in range(n_reports):
            present.answer(stray_directive)
        present.session.load_state_dict(checkpoint)
        assert present.answer(directive).number == directive.number + 1
        assert jobs.listed() == ({kept, stray} if n_reports else {kept})


def test_a_run_is_resumed_though_the_server_is_away_as_its_first_job_is_left() -> None:
    class Away(KeptJobs):
        def leave_job(self, request: pb.LeaveJobRequest, timeout_s: float) -> pb.LeaveJobResponse:
            raise UnavailableError("the server is away", "UNAVAILABLE")

    with contextlib.closing(Away()) as jobs:
        former = Process(jobs)
        directive = former.open()
        checkpoint = former.session.state_dict()
        present = Process(jobs)
        present.open()
        present.session.load_state_dict(checkpoint)
        assert present.answer(directive).number == directive.number + 1


def test_a_job_that_was_taken_up_is_not_dropped_for_another_one() -> None:
    """Somebody loads one checkpoint by mistake, and then the right one."""
    with contextlib.closing(KeptJobs()) as jobs:
        checkpoints = []
        for _ in range(2):
            process = Process(jobs)
            process.open()
            checkpoints.append(process.session.state_dict())
        kept = jobs.listed()
        present = Process(jobs)
        with mock.patch.object(jobs, "resume_job", raises_unavailable):
            for checkpoint in checkpoints:
                present.session.load_state_dict(checkpoint)
        assert jobs.listed() == kept
