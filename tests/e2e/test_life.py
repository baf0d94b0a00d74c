"""The life of jobs, first sign to last: with real servers, and clients that fall silent, leave and come back."""

from __future__ import annotations

import contextlib
import logging
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import lrpilot
import pytest
import torch
from lrpilot.session import session
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn

from tests.support.servers.server_process import ServerProcess, running
from tests.support.waiting import wait_until

TOTAL = 600
OPTIONS = {"probe_steps": 5, "refinements": 0, "max_candidates": 4}


class Run:
    """A training of milliseconds, and the server that tunes it."""

    def __init__(self, world: World, steps: int = 0, **arguments: Any) -> None:
        torch.manual_seed(0)
        self._world = world
        self.parameter = nn.Parameter(torch.ones(8))
        self.optimizer = torch.optim.SGD([self.parameter], lr=0.05)
        self.tuner = lrpilot.Tuner(
            nn.ParameterList([self.parameter]),
            self.optimizer,
            server=world.server.target,
            total_steps=TOTAL,
            lr_bounds=(1e-3, 1.0),
            policy_options=OPTIONS,
            timeout_s=1.0,
            **arguments,
        )
        self.train(steps)

    def train(self, steps: int = TOTAL) -> None:
        for _ in range(steps):
            if self.tuner.finished:
                break
            loss = (self.parameter**2).sum() + 0.1 * torch.rand(())
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.tuner.step(loss.detach())

    @property
    def life(self) -> pb.JobLife.ValueType:
        return self._world.job(self.tuner.job_id).life


class World:
    """A server, and its database."""

    def __init__(self, server: ServerProcess, file: Path) -> None:
        self.server, self._file = server, file

    def job(self, job_id: str) -> pb.Job:
        return self.server.stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=10).job

    def execute(self, sql: str, *values: object) -> None:
        with contextlib.closing(sqlite3.connect(self._file)) as connection, connection:
            connection.execute(sql, values)

    def silence(self, job_id: str, seconds: float) -> None:
        """Has a job's client be silent for so long."""
        signed = f"{datetime.now(UTC) - timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S.%f}"
        self.execute("UPDATE jobs SET sign_time = ?, leave_time = NULL WHERE id = ?", signed, job_id)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    file = tmp_path_factory.mktemp("life") / "jobs.db"
    with running(f"sqlite:///{file}", "--silent-after-s", "30") as server:  # signs are written within a second
        yield World(server, file)


@pytest.fixture(autouse=True)
def looks_for_the_server_at_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """These runs are over in less time than a tuner waits between two looks."""
    monkeypatch.setattr(session, "LOOK_PAUSE_FACTOR", 0)


def end(world: World, run: Run, life: pb.JobLife.ValueType) -> None:
    """Brings a job into a life without a client; the run keeps its tuner."""
    if life == pb.JOB_LIFE_STOPPED:
        world.server.stub.LeaveJob(pb.LeaveJobRequest(job_id=run.tuner.job_id), timeout=10)
    else:
        world.silence(run.tuner.job_id, 400 if life == pb.JOB_LIFE_SILENT else 100_000)
    assert run.life == life


GONE = [pb.JOB_LIFE_SILENT, pb.JOB_LIFE_STOPPED, pb.JOB_LIFE_ABANDONED]


def test_a_run_that_is_closed_before_its_end_is_stopped(world: World) -> None:
    run = Run(world)
    assert run.life == pb.JOB_LIFE_ALIVE
    run.train(50)
    run.tuner.close()
    assert run.life == pb.JOB_LIFE_STOPPED
    assert world.job(run.tuner.job_id).state in (pb.JOB_STATE_TRAINING, pb.JOB_STATE_SEARCHING)


def test_a_run_that_raises_in_its_context_is_stopped(world: World) -> None:
    run = Run(world, 50)
    with pytest.raises(KeyError), run.tuner:
        raise KeyError
    assert run.life == pb.JOB_LIFE_STOPPED


def test_a_run_that_has_finished_stays_so_whoever_closes_it(world: World) -> None:
    run = Run(world, TOTAL)
    run.tuner.close()
    world.server.stub.LeaveJob(pb.LeaveJobRequest(job_id=run.tuner.job_id), timeout=10)
    job = world.job(run.tuner.job_id)
    assert (job.state, job.life) == (pb.JOB_STATE_FINISHED, pb.JOB_LIFE_UNSPECIFIED)


def test_a_process_that_ends_without_a_word_of_its_own_has_left(world: World) -> None:
    program = """
import sys
from lrpilot.session.run_state import RunState
from lrpilot.session.session import Session
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
config = pb.JobConfig(base_lr=0.1, total_steps=1000, lr_bounds=pb.LrBounds(min=0.01, max=1))
session = Session(GrpcTransport(sys.argv[1]), config, 5.0, True)
session.open(RunState(lr=0.1, remaining=1000, warm=False, held=False, steps=0, peak=None, in_time=None))
print(session.job_id, flush=True)
raise SystemExit(3)
"""
    command = [sys.executable, "-c", program, world.server.target]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (3, "")
    assert world.job(ended.stdout.strip()).life == pb.JOB_LIFE_STOPPED


@pytest.mark.parametrize("life", GONE)
def test_a_report_revives_a_job_and_the_run_comes_to_its_end(world: World, life: pb.JobLife.ValueType) -> None:
    run = Run(world, 50)
    end(world, run, life)
    directive = world.job(run.tuner.job_id).directive.number
    while world.job(run.tuner.job_id).directive.number == directive:
        run.train(1)
    assert run.life == pb.JOB_LIFE_ALIVE
    run.train()
    assert world.job(run.tuner.job_id).state == pb.JOB_STATE_FINISHED


@pytest.mark.parametrize("life", GONE)
def test_a_run_that_is_resumed_from_its_checkpoint_revives_its_job(world: World, life: pb.JobLife.ValueType) -> None:
    run = Run(world, 100)
    checkpoint = run.tuner.state_dict()
    run.train(50)  # then it is killed
    end(world, run, life)
    resumed = Run(world)
    resumed.tuner.load_state_dict(checkpoint)
    assert resumed.tuner.job_id == run.tuner.job_id
    assert resumed.life == pb.JOB_LIFE_ALIVE
    resumed.train()
    assert world.job(run.tuner.job_id).state == pb.JOB_STATE_FINISHED


@pytest.mark.parametrize("life", GONE)
def test_steps_between_two_reports_are_a_sign(
    world: World, life: pb.JobLife.ValueType, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(world, 250)  # in the committed steps, which are reported in long parts
    end(world, run, life)
    number = world.job(run.tuner.job_id).directive.number
    monkeypatch.setattr(session, "BEAT_S", 0.0)
    told = run.tuner._session
    assert isinstance(told, session.Session)
    told.beat_due = 0.0
    run.train(2)
    assert world.job(run.tuner.job_id).directive.number == number, "they were reported"
    wait_until(lambda: run.life == pb.JOB_LIFE_ALIVE)
    run.tuner.close()
    assert run.life == pb.JOB_LIFE_STOPPED


def test_no_step_gives_a_sign_before_it_is_due(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[pb.BeatRequest] = []
    monkeypatch.setattr(GrpcTransport, "beat", lambda _self, request: beats.append(request))
    run = Run(world, TOTAL)
    run.tuner.close()
    assert not beats


def test_a_client_that_is_cancelled_while_silent_hears_of_it_and_ends_by_itself(world: World) -> None:
    run = Run(world, 250)
    end(world, run, pb.JOB_LIFE_SILENT)
    world.server.stub.CancelJob(pb.CancelJobRequest(job_id=run.tuner.job_id), timeout=10)
    run.train()
    job = world.job(run.tuner.job_id)
    assert (job.state, job.life) == (pb.JOB_STATE_CANCELLED, pb.JOB_LIFE_UNSPECIFIED)
    assert run.tuner.finished


@pytest.mark.parametrize("steps", [20, 250])
def test_a_run_whose_job_was_deleted_says_so_once_and_goes_on(
    world: World, caplog: pytest.LogCaptureFixture, steps: int
) -> None:
    run = Run(world, steps)
    deleted = run.tuner.job_id
    world.server.stub.DeleteJob(pb.DeleteJobRequest(job_id=deleted, force=True), timeout=10)
    run.train()
    run.tuner.close()
    assert run.tuner.committed_step + run.tuner.search_steps == TOTAL
    assert [f"has lost job {deleted}" in record.getMessage() for record in warnings(caplog)] == [True]
    assert run.tuner.job_id != deleted
    assert world.job(run.tuner.job_id).state == pb.JOB_STATE_FINISHED


def test_a_run_that_is_resumed_after_its_job_was_deleted_goes_on(world: World) -> None:
    run = Run(world, 100)
    checkpoint = run.tuner.state_dict()
    run.tuner.close()
    world.server.stub.DeleteJob(pb.DeleteJobRequest(job_id=run.tuner.job_id), timeout=10)
    resumed = Run(world)
    resumed.tuner.load_state_dict(checkpoint)
    resumed.train()
    assert world.job(resumed.tuner.job_id).state == pb.JOB_STATE_FINISHED


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_full_project_stops_no_run_and_takes_its_job_when_there_is_room(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    first = Run(world, 20)
    world.execute("UPDATE jobs SET leave_time = sign_time WHERE id != ?", first.tuner.job_id)
    world.execute("UPDATE projects SET max_live_jobs = 1")
    try:
        second = Run(world, 30)
        assert second.tuner.job_id == ""
        assert ["may not have more" in record.getMessage() for record in warnings(caplog)] == [True]
        first.tuner.close()
        second.train()
        assert world.job(second.tuner.job_id).state == pb.JOB_STATE_FINISHED
        assert len(warnings(caplog)) == 1
        crashed = Run(world, 20)
        end(world, crashed, pb.JOB_LIFE_SILENT)
        assert Run(world).tuner.job_id, "a run that crashed takes nobody's place"
    finally:
        world.execute("UPDATE projects SET max_live_jobs = NULL")


class UnknownToAll(grpc.GenericRpcHandler):
    """A server that knows no method."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> None:
        self.calls.append(handler_call_details.method)


def test_a_server_that_knows_no_signs_is_given_one_and_no_more() -> None:
    unknown = UnknownToAll()
    server = grpc.server(ThreadPoolExecutor(1), handlers=[unknown])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with contextlib.closing(GrpcTransport(f"127.0.0.1:{port}")) as transport:
        transport.beat(pb.BeatRequest(job_id="job"))
        wait_until(lambda: len(unknown.calls) == 1)
        wait_until(lambda: transport._beat is not None and transport._beat.done())
        for _ in range(3):
            transport.beat(pb.BeatRequest(job_id="job"))
    server.stop(None).wait()
    assert unknown.calls == ["/lrpilot.v1.TunerService/Beat"]


def test_a_server_that_answers_nothing_keeps_nobody_from_leaving() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        transport = GrpcTransport(f"127.0.0.1:{silent.getsockname()[1]}")
        for _ in range(100):
            transport.beat(pb.BeatRequest(job_id="job"))
        with pytest.raises(lrpilot.errors.UnavailableError):
            transport.leave_job(pb.LeaveJobRequest(job_id="job"), 0.2)
        transport.close()
