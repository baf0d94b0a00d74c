"""Databases that are full, locked, slow, restarted or gone: clients are told UNAVAILABLE in time, and come through.

A real server on a real database, under clients that check all that they are told: `tests.support.crashes`.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from lrpilot.errors import UnavailableError
from lrpilot.transport.grpc_transport import ATTEMPT_S, GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.crashes import checking_clients
from tests.support.crashes.checking_clients import CheckingClients
from tests.support.crashes.server_fleet import ServerFleet
from tests.support.jobs.simulated_training import SimulatedTraining
from tests.support.repository import old_databases
from tests.support.servers import wire_client
from tests.support.servers.faulty_proxy import (
    BlackHole,
    Cut,
    Delay,
    Direction,
    Drop,
    Fault,
    Proxy,
    Refuse,
    Reset,
    Stall,
)
from tests.support.servers.fork_server import ForkServer
from tests.support.servers.postgresql import PostgreSQL
from tuner_server.core.messages import Directive, Phase
from tuner_server.rpc.convert import config_to_pb
from tuner_server.storage import Database
from tuner_server.storage.backups.backup import backup

N_JOBS = 6
SOON = 6
"""Reports before trouble begins, and after it is over."""
BROKEN: dict[str, Fault] = {
    "refuse": Refuse(),
    "drop": Drop(),
    "reset": Reset(),
    "stall": Stall(),
    "black_hole": BlackHole(),
    "cut_request": Cut(Direction.REQUESTS, 20),
    "cut_answer": Cut(Direction.ANSWERS, 20),
}
"""Networks to the database over which nothing can be done."""
LIVE = (pb.JOB_STATE_SEARCHING, pb.JOB_STATE_TRAINING)
QUICK_ONES = ("reset", "black_hole")
"""Those that the default suite has: one that shows at once, and one that never does."""


class Witness:
    """A client beside the others, which must be told in time that the database can't be used."""

    def __init__(self, target: str) -> None:
        self._transport = GrpcTransport(target)
        config = config_to_pb(checking_clients.configs(1)[0])
        self._request = pb.CreateJobRequest(request_id=str(uuid.uuid4()), config=config)

    def create(self) -> pb.CreateJobResponse:
        """Asks once for a job, always the same."""
        stub = self._transport.stub
        return self._transport.call(lambda: stub.CreateJob(self._request, timeout=ATTEMPT_S))

    def sees_trouble(self) -> None:
        """Within a client's usual wait, in one line that tells no secrets."""
        with pytest.raises(UnavailableError) as caught:
            self.create()
        assert caught.value.code == "UNAVAILABLE"
        message = str(caught.value)
        assert "\n" not in message
        assert not any(word in message for word in ("INSERT", "SELECT", "request_id", "Traceback"))

    def sees_all_jobs_whole(self, n_jobs: int) -> None:
        """None was made twice or by halves."""
        self.create()
        stub = self._transport.stub
        found = self._transport.call(lambda: stub.ListJobs(pb.ListJobsRequest(page_size=1000), timeout=ATTEMPT_S))
        assert len(found.jobs) == n_jobs + 1
        assert sum(job.state == pb.JOB_STATE_FINISHED for job in found.jobs) == n_jobs

    def close(self) -> None:
        """Lets go of the server."""
        self._transport.close()


@contextlib.contextmanager
def under_load(target: str) -> Iterator[Witness]:
    """Jobs that begin before the block, and all come to their right end after it."""
    with contextlib.closing(Witness(target)) as witness:
        with CheckingClients([target], checking_clients.configs(N_JOBS)) as jobs:
            jobs.wait_for(SOON)
            yield witness
            jobs.wait_for(SOON)
        witness.sees_all_jobs_whole(jobs.ended)
        assert set(jobs.refusals) <= {"UNAVAILABLE"}  # and none waited in vain


@contextlib.contextmanager
def behind(proxy: Proxy, url: str, fork_server: ForkServer, directory: Path) -> Iterator[str]:
    """A server whose way to the database is the proxy. Its address."""
    name = url.rpartition("/")[2]
    with ServerFleet(fork_server, f"postgresql://postgres@{proxy.target}/{name}", 1, directory) as fleet:
        yield fleet.targets[0]


# --- SQLite -----------------------------------------------------------------------------------------------------------


def test_a_full_disk(sqlite_url: str, fork_server: ForkServer, tmp_path: Path) -> None:
    with ServerFleet(fork_server, sqlite_url, 1, tmp_path) as fleet, under_load(fleet.targets[0]) as witness:
        # Files that may not grow are what a full disk looks like. The server's log is one of them.
        server = fleet.process_ids[0]
        before = resource.prlimit(server, resource.RLIMIT_FSIZE)
        resource.prlimit(server, resource.RLIMIT_FSIZE, (4096, before[1]))
        for _ in range(5):
            witness.sees_trouble()
        resource.prlimit(server, resource.RLIMIT_FSIZE, before)


def test_a_log_that_cannot_be_written(sqlite_url: str, fork_server: ForkServer, tmp_path: Path) -> None:
    log, limit = tmp_path / "server-0.log", 64 * 2**20
    log.touch()
    os.truncate(log, limit)
    with ServerFleet(fork_server, sqlite_url, 1, tmp_path) as fleet, under_load(fleet.targets[0]) as witness:
        server = fleet.process_ids[0]
        _, hard = resource.prlimit(server, resource.RLIMIT_FSIZE)
        resource.prlimit(server, resource.RLIMIT_FSIZE, (limit, hard))
        witness.create()


def test_a_file_that_another_process_has_locked(sqlite_url: str, fork_server: ForkServer, tmp_path: Path) -> None:
    with (
        ServerFleet(fork_server, sqlite_url, 1, tmp_path) as fleet,
        under_load(fleet.targets[0]) as witness,
        contextlib.closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        witness.sees_trouble()
        other.execute("ROLLBACK")


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def test_a_database_that_crashes_and_recovers(
    postgresql_server: PostgreSQL, postgresql_url: str, fork_server: ForkServer, tmp_path: Path
) -> None:
    with ServerFleet(fork_server, postgresql_url, 1, tmp_path) as fleet, under_load(fleet.targets[0]) as witness:
        for _ in range(2):
            postgresql_server.stop()
            try:
                witness.sees_trouble()
            finally:
                postgresql_server.start()


def test_a_table_that_another_session_has_locked(postgresql_url: str, fork_server: ForkServer, tmp_path: Path) -> None:
    with (
        ServerFleet(fork_server, postgresql_url, 1, tmp_path) as fleet,
        under_load(fleet.targets[0]) as witness,
        psycopg.connect(postgresql_url) as other,
    ):
        other.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        witness.sees_trouble()
        other.rollback()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK_ONES else pytest.mark.slow) for name in BROKEN]
)
def test_a_broken_network_to_the_database(
    name: str, postgresql_server: PostgreSQL, postgresql_url: str, fork_server: ForkServer, tmp_path: Path
) -> None:
    with (
        Proxy(postgresql_server.target) as proxy,
        behind(proxy, postgresql_url, fork_server, tmp_path) as target,
        under_load(target) as witness,
    ):
        proxy.begin(BROKEN[name])
        witness.sees_trouble()
        proxy.end()


def test_a_slow_database(
    postgresql_server: PostgreSQL, postgresql_url: str, fork_server: ForkServer, tmp_path: Path
) -> None:
    with (
        Proxy(postgresql_server.target) as proxy,
        behind(proxy, postgresql_url, fork_server, tmp_path) as target,
        under_load(target) as witness,
    ):
        proxy.begin(Delay(0.02))
        witness.create()
        proxy.end()


def test_connections_to_the_database_that_are_cut_anywhere(
    postgresql_server: PostgreSQL, postgresql_url: str, fork_server: ForkServer, tmp_path: Path
) -> None:
    """Also between a commit and the answer to it, when nobody knows whether it took place."""
    chance = random.Random(5)
    with (
        Proxy(postgresql_server.target) as proxy,
        behind(proxy, postgresql_url, fork_server, tmp_path) as target,
        under_load(target),
    ):
        for _ in range(20):
            direction = Direction.ANSWERS if chance.random() < 0.8 else Direction.REQUESTS
            proxy.begin(Cut(direction, chance.randint(1, 2000)))
            time.sleep(0.03)
            proxy.end()
            time.sleep(0.02)


# --- backups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_jobs_of_a_backup_that_was_made_under_load_go_on(
    kind: str, request: pytest.FixtureRequest, fork_server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url: str = request.getfixturevalue(f"{kind}_url")
    copy = tmp_path / "copy"
    with ServerFleet(fork_server, url, 1, tmp_path) as fleet, under_load(fleet.targets[0]), Database(url) as database:
        if kind == "sqlite":
            backup(database, copy)
            restored = f"sqlite:///{copy}"
        else:
            server: PostgreSQL = request.getfixturevalue("postgresql_server")
            monkeypatch.setenv("PATH", str(server.binaries), prepend=os.pathsep)
            backup(database, copy)
            restored = server.create_database(f"{tmp_path.name}_restored")
            subprocess.run(["pg_restore", "--exit-on-error", f"--dbname={restored}", copy], check=True)
    with (
        ServerFleet(fork_server, restored, 1, tmp_path) as fleet,
        contextlib.closing(checking_clients.Client(fleet.targets, random.Random(0))) as client,
    ):
        jobs = client.call("ListJobs", pb.ListJobsRequest(page_size=1000)).jobs
        live = [job for job in jobs if job.state in LIVE]
        assert live
        for job in live:
            finish(client, job)
        for job in jobs:
            checking_clients.check_history(
                client, job.id, checking_clients.undisturbed(checking_clients.configs(N_JOBS)[job.config.seed])
            )


# --- databases of earlier versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", old_databases.FILES)
def test_live_jobs_of_an_earlier_version_go_on_to_their_end(
    version: str, fork_server: ForkServer, tmp_path: Path
) -> None:
    shutil.copy(old_databases.FILES[version], tmp_path / "old.db")
    with (
        ServerFleet(fork_server, f"sqlite:///{tmp_path}/old.db", 1, tmp_path) as fleet,
        contextlib.closing(checking_clients.Client(fleet.targets, random.Random(0))) as client,
    ):
        live = [job for job in client.call("ListJobs", pb.ListJobsRequest(page_size=1000)).jobs if job.state in LIVE]
        assert len(live) >= 6
        for job in live:
            finish(client, job)


def finish(client: checking_clients.Client, job: pb.Job) -> None:
    """Does again what the job's history says, which gives the same losses, and goes on to the end."""
    training = SimulatedTraining(job.config.seed, validates=job.config.has_validation)
    request = pb.GetScheduleRequest(job_id=job.id, view=pb.SCHEDULE_VIEW_FULL)
    *reported, outstanding = client.call("GetSchedule", request).history
    for entry in reported:
        assert entry.report.losses == wire_client.report_to_pb(training.run(carried_out(entry))).losses, job.config.name
    directive = wire_client.directive_from_pb(outstanding.directive)
    while directive.phase is not Phase.STOP:
        report = wire_client.report_to_pb(training.run(directive))
        advance = pb.AdvanceRequest(job_id=job.id, report=report)
        directive = wire_client.directive_from_pb(client.call("Advance", advance).directive)
    ended = client.call("GetJob", pb.GetJobRequest(job_id=job.id)).job
    assert ended.state == pb.JOB_STATE_FINISHED, job.config.name
    assert ended.committed_steps > 0
    assert ended.committed_steps + ended.search_steps <= ended.total_steps


def carried_out(entry: pb.HistoryEntry) -> Directive:
    """The directive, or what the client did in its place."""
    directive = wire_client.directive_from_pb(entry.directive)
    if entry.report.outcome == pb.OUTCOME_REPLANNED:
        return directive.model_copy(update={"n_steps": len(entry.report.losses), "validate_at": ()})
    if entry.report.outcome != pb.OUTCOME_REPLACED:
        return directive
    own = pb.Directive(
        number=directive.number,
        phase=pb.PHASE_TRAIN,
        n_steps=len(entry.report.losses),
        profile=entry.report.replacement.profile,
        restore=True,
        batches=pb.BATCH_SOURCE_FRESH,
    )
    return wire_client.directive_from_pb(own)
