"""Fuzzing guided by coverage: bytes as requests, through conversion, service and database, in this process.

    python -m tests.fuzz.fuzz_wire [-max_total_time=SECONDS] [-seed=N] [CORPUS]

What it is given to are libFuzzer's options (https://llvm.org/docs/LibFuzzer.html#options). It ends at the first request
that is answered with what is no documented status, that changes something though it was refused, or that takes long.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import atheris

INSTRUMENTED = [
    "lrpilot.schedule.from_proto",
    "lrpilot.wire.profile",
    "tuner_server.core.config",
    "tuner_server.core.job.machine",
    "tuner_server.core.messages",
    "tuner_server.core.policies",
    "tuner_server.core.stages.lr_range",
    "tuner_server.service.pipeline",
    "tuner_server.rpc",
    "tuner_server.service.tuner_service",
    "tuner_server.storage",
]
"""What its coverage is looked for in: our own code that requests come to."""

with atheris.instrument_imports(include=INSTRUMENTED):
    import grpc
    import structlog
    from google.protobuf import message_factory
    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import DecodeError, Message
    from lrpilot.v1 import tuner_pb2 as pb
    from lrpilot.wire.limits import HEARTBEAT_S

    from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config
    from tests.support.servers import wire_client
    from tuner_server.core.policies.autolrs_options import AutoLrsOptions
    from tuner_server.core.policies.budget_options import BudgetOptions
    from tuner_server.rpc.convert import config_to_pb
    from tuner_server.rpc.servicer import Servicer
    from tuner_server.service.tuner_service import TunerService
    from tuner_server.storage import open_storage

METHODS = [method for method in pb.DESCRIPTOR.services_by_name["TunerService"].methods if not method.server_streaming]
CONFIG = config(400, **QUICK)
MAX_CHANGES = 6
MAX_DEPTH = 24
"""Twice as deep as policy options may be: each level is a map and a value."""
OPTIONS = ["", *AutoLrsOptions.model_fields, *BudgetOptions.model_fields]
"""Names that would hardly be found by chance."""
MAX_DIRECTIVE = 20
"""A job that is so far has been through its search; another one takes its place."""


def disturb(provider: Any, message: Any) -> None:
    """Sets a field of a message, or of one within it, or takes it away."""
    for _ in range(MAX_DEPTH):
        field = provider.PickValueInList(list(message.DESCRIPTOR.fields))
        value = getattr(message, field.name)
        if provider.ConsumeIntInRange(0, 9) == 0:
            message.ClearField(field.name)
            return
        if field.message_type is None:
            scalar = scalar_of(provider, field)
            if field.is_repeated:
                value.append(scalar)
            else:
                setattr(message, field.name, scalar)
            return
        if field.message_type.GetOptions().map_entry:
            name = provider.PickValueInList(OPTIONS) or provider.ConsumeUnicodeNoSurrogates(20)
            message = value[name]
        elif field.is_repeated:
            message = value[-1] if value and provider.ConsumeBool() else value.add()
        else:
            value.SetInParent()
            message = value


def scalar_of(provider: Any, field: Any) -> object:
    """A value for a field that is no message."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return provider.ConsumeUnicodeNoSurrogates(provider.ConsumeIntInRange(0, 600))
        case FieldDescriptor.CPPTYPE_BOOL:
            return provider.ConsumeBool()
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return provider.ConsumeFloat() if provider.ConsumeBool() else float(provider.ConsumeInt(2))
        case FieldDescriptor.CPPTYPE_INT64:
            return provider.ConsumeInt(provider.PickValueInList([1, 2, 8]))
        case _:
            return provider.ConsumeInt(provider.PickValueInList([1, 4]))


class RefusedCall(Exception):
    """What gRPC's abort raises."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.code = code
        super().__init__(f"{code.name}: {details}")


class Context:
    """As much of a call as the servicer needs."""

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: object = ()) -> NoReturn:
        """Ends the call."""
        raise RefusedCall(code, details)


class Target:
    """A servicer, its database, and a job."""

    def __init__(self, directory: str) -> None:
        file = f"{directory}/fuzz.db"
        self._service = TunerService(open_storage(f"sqlite:///{file}"))
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        threads = ThreadPoolExecutor(1)
        self._servicer = Servicer(self._service, threads, threads, threads, HEARTBEAT_S)
        self._connection = sqlite3.connect(file)
        self._training = SimulatedTraining()
        self._renew()

    def one_input(self, data: bytes) -> None:
        """Chooses an RPC, what its request begins with, what is then set in it, and the bytes that are added to it."""
        provider = atheris.FuzzedDataProvider(data)
        method = provider.PickValueInList(METHODS)
        request = message_factory.GetMessageClass(method.input_type)()
        if provider.ConsumeBool():
            request = self._beginning(method.name)
        for _ in range(provider.ConsumeIntInRange(0, MAX_CHANGES)):
            disturb(provider, request)
        try:
            request.MergeFromString(provider.ConsumeBytes(provider.remaining_bytes()))
        except DecodeError:
            return
        before = self._version()
        try:
            self._call(method.name, request)
        except RefusedCall as refused:
            if refused.code not in wire_client.REFUSALS:
                raise
            if self._version() != before:
                raise AssertionError(f"refused, and changed something: {refused}") from refused
        job: pb.Job = self._call("GetJob", pb.GetJobRequest(job_id=self._job_id)).job
        self._call("ListJobs", pb.ListJobsRequest(page_size=2))
        if job.directive.number != self._report.directive_number:
            self._went_on(job)

    def _went_on(self, job: pb.Job) -> None:
        """Prepares the report on the next directive, so that searches are reached too."""
        self._call("GetSchedule", pb.GetScheduleRequest(job_id=self._job_id, view=pb.SCHEDULE_VIEW_FULL))
        if job.directive.phase == pb.PHASE_STOP or job.directive.number > MAX_DIRECTIVE:
            self._renew()
        else:
            self._report = wire_client.report_to_pb(self._training.run(wire_client.directive_from_pb(job.directive)))

    def _beginning(self, method: str) -> Message:
        match method:
            case "CreateJob":
                return pb.CreateJobRequest(request_id="the same", config=config_to_pb(CONFIG))
            case "Advance":
                return pb.AdvanceRequest(job_id=self._job_id, report=self._report)
            case "ListJobs":
                return pb.ListJobsRequest(page_size=1)
            case _:
                request: Any = message_factory.GetMessageClass(
                    pb.DESCRIPTOR.services_by_name["TunerService"].methods_by_name[method].input_type
                )()
                request.job_id = self._job_id
                return request  # type: ignore[no-any-return]  # made at run time

    def _renew(self) -> None:
        request = pb.CreateJobRequest(request_id=f"job {self._version()}", config=config_to_pb(CONFIG))
        created = self._call("CreateJob", request)
        self._training = SimulatedTraining()
        self._job_id: str = created.job.id
        self._report = wire_client.report_to_pb(self._training.run(wire_client.directive_from_pb(created.directive)))

    def _call(self, method: str, request: Message) -> Any:
        answer = self._loop.run_until_complete(getattr(self._servicer, method)(request, Context()))
        answer.SerializeToString()
        return answer

    def _version(self) -> int:
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)


def main() -> None:
    """Fuzzes until told otherwise."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="lrpilot-fuzz-") as directory:
        target = Target(directory)
        atheris.Setup(["fuzz_wire", "-timeout=20", "-max_len=4096", "-len_control=0", *sys.argv[1:]], target.one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
