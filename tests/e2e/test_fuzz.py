"""Whatever a client with a token sends: a status that is documented, a server that lives, no change by what is refused.

The longer run of the same kind, guided by coverage, is tests/fuzz/fuzz_wire.py.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import hypothesis
import pytest
from google.protobuf.message import Message
from hypothesis import strategies as st
from lrpilot.credentials import Credentials
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.hostile.arbitrary_messages import disturbed, messages
from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config
from tests.support.servers import wire_client
from tests.support.servers.guarded_server import add_token, guarded
from tests.support.servers.wire_client import REFUSALS, TIMEOUT_S, directive_from_pb
from tuner_server.rpc.convert import config_to_pb
from tuner_server.storage.access import open_access

SERVICE = pb.DESCRIPTOR.services_by_name["TunerService"]
METHODS = {method.name: method for method in SERVICE.methods}
CONFIG = config(400, **QUICK)
fuzzing = hypothesis.settings(max_examples=15, deadline=None, derandomize=True)


class Target:
    """A server with a job, which grows another one when the first has ended."""

    def __init__(self, target: str, file: str, token: str) -> None:
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.channel = grpc.insecure_channel(target)
        self._transport = GrpcTransport(target, Credentials(token=token))
        self.stub = self._transport.stub
        self._connection = sqlite3.connect(file, check_same_thread=False)
        self.renew()

    def renew(self) -> None:
        """Another job, and a right report on its first directive."""
        created = wire_client.create(self.stub, CONFIG)
        self.job_id = created.job.id
        self.report = wire_client.report_to_pb(SimulatedTraining().run(directive_from_pb(created.directive)))

    def version(self) -> int:
        """A number that is another one whenever something was written."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def close(self) -> None:
        self.channel.close()
        self._transport.close()
        self._connection.close()

    def send(self, method: str, message: bytes) -> None:
        """Sends bytes, and looks at what comes of it."""
        before = self.version()
        refused = self._refused(method, message)
        if refused is not None:
            assert refused.code() in REFUSALS, (refused.code(), refused.details())
            assert "Traceback" not in (refused.details() or "")
            assert self.version() == before, "a refused call changed something"
        self.look()

    def _refused(self, method: str, message: bytes) -> grpc.Call | None:
        """The refusal, if it is one."""
        path = f"/{SERVICE.full_name}/{method}"
        try:
            if not METHODS[method].server_streaming:
                unary: Any = self.channel.unary_unary(path)
                unary(message, metadata=self.metadata, timeout=TIMEOUT_S)
                return None
            streaming: Any = self.channel.unary_stream(path)
            stream = streaming(message, metadata=self.metadata, timeout=TIMEOUT_S)
            try:
                next(stream)
            finally:
                stream.cancel()
        except grpc.RpcError as error:
            if not isinstance(error, grpc.Call):
                raise
            return error
        return None

    def look(self) -> None:
        """Everything can be read, whatever was written."""
        for job in self.stub.ListJobs(pb.ListJobsRequest(page_size=1), timeout=TIMEOUT_S).jobs:
            full = pb.GetScheduleRequest(job_id=job.id, view=pb.SCHEDULE_VIEW_FULL)
            self.stub.GetSchedule(full, timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    file = tmp_path_factory.mktemp("fuzz") / "lrpilot.db"
    url = f"sqlite:///{file}"
    with open_access(url) as access, guarded(url) as server:
        token = add_token(access, "default").text
        with contextlib.closing(Target(server.target, str(file), token)) as made:
            yield made


@pytest.mark.parametrize("method", METHODS)
def test_any_bytes(target: Target, method: str) -> None:
    @fuzzing
    @hypothesis.given(st.binary(max_size=200))
    def check(data: bytes) -> None:
        target.send(method, data)

    check()


@pytest.mark.parametrize("method", METHODS)
def test_any_message(target: Target, method: str) -> None:
    @fuzzing
    @hypothesis.given(messages(METHODS[method].input_type))
    def check(message: Message) -> None:
        target.send(method, message.SerializeToString())

    check()


def valid_create(_target: Target) -> Message:
    return pb.CreateJobRequest(request_id="the same", config=config_to_pb(CONFIG))


def valid_report(target: Target) -> Message:
    return pb.AdvanceRequest(job_id=target.job_id, report=target.report)


def valid_replacement(target: Target) -> Message:
    report = pb.Report(
        directive_number=1,
        outcome=pb.OUTCOME_REPLACED,
        losses=[1.0, 2.0],
        replacement=pb.Replacement(
            profile=pb.Profile(shape="linear", start_lr=0.1, end_lr=0.0, length=10), wasted_steps=3
        ),
    )
    return pb.AdvanceRequest(job_id=target.job_id, report=report)


@pytest.mark.parametrize(
    ("method", "valid"),
    [("CreateJob", valid_create), ("Advance", valid_report), ("Advance", valid_replacement)],
    ids=["CreateJob", "Advance", "Advance-replaced"],
)
def test_a_right_message_with_something_wrong_in_it(
    target: Target, method: str, valid: Callable[[Target], Message]
) -> None:
    @hypothesis.settings(fuzzing, max_examples=40)
    @hypothesis.given(disturbed(lambda: valid(target)))
    def check(message: Message) -> None:
        target.send(method, message.SerializeToString())
        job = target.stub.GetJob(pb.GetJobRequest(job_id=target.job_id), timeout=TIMEOUT_S).job
        if job.directive.number > 1:
            target.renew()

    target.renew()
    check()
