"""What each scope allows, as docs/security.md tells it: at both ports, and by no way around."""

from __future__ import annotations

import contextlib
import re
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import pytest
from lrpilot.credentials import Credentials
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc

from tests.support.jobs.simulated_training import QUICK, config
from tests.support.servers import wire_client
from tests.support.servers.guarded_server import GuardedServer, add_project, add_token, guarded
from tests.support.servers.wire_client import TIMEOUT_S
from tuner_server.access.principal import Scope
from tuner_server.access.token import Token
from tuner_server.base.address import Address
from tuner_server.rpc.auth import SCOPES
from tuner_server.storage.access import AccessStorage, open_access

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
CONFIG = config(800, **QUICK)
FORMS = {
    "cancel": (Scope.CANCEL, {}),
    "plan": (Scope.PLAN, {"kind": "replan", "reason": "another corpus"}),
    "describe": (Scope.EDIT, {"name": "another", "note": "noted"}),
    "delete": (Scope.DELETE, {}),
}
"""What can be sent from a job's page, and what it needs."""
LOOKS = ("", "/events", "/curves.json", "/stages/0.json", "/sparkline.svg", "/schedule.json", "/data.json", "/data.csv")


class World(NamedTuple):
    """A server with two ports, its database, and a project on it."""

    server: GuardedServer
    http: str
    file: Path
    access: AccessStorage

    def token(self, *scopes: Scope) -> Token:
        return add_token(self.access, "ours", *scopes)

    def dump(self) -> list[str]:
        with contextlib.closing(sqlite3.connect(self.file)) as connection:
            return list(connection.iterdump())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    file = tmp_path_factory.mktemp("permissions") / "lrpilot.db"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    address = Address.parse(f"127.0.0.1:{port}")
    url = f"sqlite:///{file}"
    with open_access(url) as access, guarded(url, http=address) as server:
        add_project(access, "ours")
        yield World(server, f"http://127.0.0.1:{port}", file, access)


@contextlib.contextmanager
def connected(world: World, *scopes: Scope) -> Iterator[tuner_pb2_grpc.TunerServiceStub]:
    credentials = Credentials(token=world.token(*scopes).text)
    with contextlib.closing(GrpcTransport(world.server.target, credentials)) as transport:
        yield transport.stub


def test_the_page_tells_what_each_scope_allows() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", PAGE.read_text().partition("| scope | allows |")[2], re.MULTILINE)
    told = {
        f"/lrpilot.v1.TunerService/{name}": scope for scope, words in rows for name in re.findall(r"[A-Z]\w+", words)
    }
    assert told == {method: scope.value for method, scope in SCOPES.items()}


@pytest.mark.parametrize("scope", Scope)
def test_the_dashboard_asks_for_the_scope_of_each_request(world: World, scope: Scope) -> None:
    with connected(world) as stub:
        job_id = wire_client.create(stub, CONFIG).job.id
    headers = {"authorization": f"Bearer {world.token(scope).text}"}
    job = f"/jobs/{job_id}"
    before = world.dump()
    with httpx.Client(base_url=world.http, headers=headers, timeout=TIMEOUT_S) as client:
        looks = [
            "/",
            "/events",
            f"/compare?job={job_id}",
            f"/compare/events?job={job_id}",
            *(job + end for end in LOOKS),
        ]
        for path in looks if scope is not Scope.READ else ():
            assert client.get(path).status_code == 403, path
        for form, (needed, fields) in FORMS.items():
            if scope is not needed:
                assert client.post(f"{job}/{form}", data=fields).status_code == 403, form
    assert world.dump() == before


def left_for_another(stub: tuner_pb2_grpc.TunerServiceStub, job_id: str, **told: str) -> None:
    """Leaves a job, as a client does that has opened it and then takes up a checkpoint of another one."""
    following = wire_client.create(stub, CONFIG).job.id
    stub.LeaveJob(pb.LeaveJobRequest(job_id=job_id, continued_as=following, **told), timeout=TIMEOUT_S)


@pytest.mark.parametrize("told", [{}, {"request_id": "opened by who leaves"}, {"request_id": "nobody's"}])
def test_only_who_opened_a_job_takes_it_away_without_the_right_to_delete(world: World, told: dict[str, str]) -> None:
    """A key that may train in a project leaves another client's job there, on which nothing was reported yet."""
    with connected(world) as theirs, connected(world, Scope.TRAIN) as stub:
        job_id = wire_client.create(theirs, CONFIG, "opened by another").job.id
        wire_client.create(stub, CONFIG, "opened by who leaves")
        left_for_another(stub, job_id, **told)
        left = theirs.GetJob(pb.GetJobRequest(job_id=job_id), timeout=TIMEOUT_S).job
        assert left.life == pb.JOB_LIFE_STOPPED
        assert wire_client.create(theirs, CONFIG, "opened by another").job.id == job_id
        back = theirs.GetJob(pb.GetJobRequest(job_id=job_id), timeout=TIMEOUT_S).job
        assert back.life == pb.JOB_LIFE_ALIVE, "whoever opened it goes on with it"


def test_who_opened_a_job_that_never_ran_takes_it_away(world: World) -> None:
    with connected(world, Scope.TRAIN) as stub:
        job_id = wire_client.create(stub, CONFIG, "opened in vain").job.id
        left_for_another(stub, job_id, request_id="opened in vain")
    with connected(world) as stub, pytest.raises(grpc.RpcError) as caught:
        stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=TIMEOUT_S)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_no_answer_tells_the_request_that_opened_a_job(world: World) -> None:
    with connected(world) as stub:
        job_id = wire_client.create(stub, CONFIG, "a secret request").job.id
        answers = [
            stub.ResumeJob(pb.ResumeJobRequest(job_id=job_id, directive_number=1), timeout=TIMEOUT_S),
            stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=TIMEOUT_S),
            stub.ListJobs(pb.ListJobsRequest(), timeout=TIMEOUT_S),
            *stub.StreamSchedule(pb.StreamScheduleRequest(job_id=job_id), timeout=TIMEOUT_S),
        ]
    headers = {"authorization": f"Bearer {world.token().text}"}
    with httpx.Client(base_url=world.http, headers=headers, timeout=TIMEOUT_S) as client:
        pages = [client.get(f"/jobs/{job_id}{end}").text for end in LOOKS if end not in ("/events", "/stages/0.json")]
        pages.append(client.get(f"/jobs/{job_id}/report.html").text)
    assert job_id in pages[0]
    assert "a secret request" not in "".join(map(str, [*answers, *pages]))
