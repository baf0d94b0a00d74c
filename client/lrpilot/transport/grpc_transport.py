"""A server over gRPC: every call has a deadline, and is repeated until then while nothing answers."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from lrpilot.errors import RefusedError, ServerError, UnavailableError
from lrpilot.transport.base import Transport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc

_MAX_MESSAGE_BYTES = 64 * 2**20
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # A server that comes back is found soon, also after a long absence.
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Channels to one target would share their connections, and a new channel the dead one.
    ("grpc.use_local_subchannel_pool", 1),
]
_UNAVAILABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
_REFUSED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

ATTEMPT_S = 5.0
"""The longest wait for an answer before the connection is taken for dead, and the call is repeated on a new one."""
PAUSE_S = 0.2
"""Between two attempts."""
OPEN_S = 5.0
"""The longest that opening a job takes: a wrong address should show soon."""

Response = TypeVar("Response")


class GrpcTransport(Transport):
    """A connection to `target` (HOST:PORT), for one thread."""

    def __init__(self, target: str) -> None:
        """Connects when the first call is made."""
        self.target = target
        self._connect()

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        """Opens a job. Raises: ServerError: soon, if nothing listens there."""
        return self._repeated(lambda: self.stub.CreateJob, request, min(timeout_s, OPEN_S))

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        """Reports, and gets the next directive; waits for a server that restarts. Raises: ServerError."""
        return self._repeated(lambda: self.stub.Advance, request, timeout_s)

    def resume_job(self, request: pb.ResumeJobRequest, timeout_s: float) -> pb.ResumeJobResponse:
        """Takes a job back to an earlier directive. Raises: ServerError."""
        return self._repeated(lambda: self.stub.ResumeJob, request, timeout_s)

    def cancel_job(self, request: pb.CancelJobRequest, timeout_s: float) -> pb.CancelJobResponse:
        """Ends a job. Raises: ServerError."""
        return self._repeated(lambda: self.stub.CancelJob, request, timeout_s)

    def get_schedule(self, request: pb.GetScheduleRequest, timeout_s: float) -> pb.GetScheduleResponse:
        """What was decided so far. Raises: ServerError."""
        return self._repeated(lambda: self.stub.GetSchedule, request, timeout_s)

    def call(self, method: Callable[[], Response]) -> Response:
        """Calls once, with gRPC's errors as ours. Raises: ServerError."""
        try:
            return method()
        except grpc.RpcError as error:
            raise to_error(error, self.target) from error

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _repeated(self, method: Callable[[], Callable[..., Response]], request: Any, timeout_s: float) -> Response:
        """Calls until there is an answer: every call is safe to repeat. Raises: ServerError.

        gRPC's own retries end when an answer has begun to arrive, and don't leave a connection that looks open.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            attempt_s = max(min(ATTEMPT_S, deadline - time.monotonic()), 0.0)
            try:
                return self.call(functools.partial(method(), request, timeout=attempt_s))
            except UnavailableError as error:
                if error.code == grpc.StatusCode.DEADLINE_EXCEEDED.name:
                    # A peer that vanished leaves a connection that looks open for many minutes.
                    self._channel.close()
                    self._connect()
                if time.monotonic() + PAUSE_S >= deadline:
                    raise
            time.sleep(PAUSE_S)

    def _connect(self) -> None:
        self._channel = grpc.insecure_channel(self.target, options=_OPTIONS)
        self.stub = tuner_pb2_grpc.TunerServiceStub(self._channel)


def to_error(error: grpc.RpcError, target: str) -> ServerError:
    """A gRPC error as ours."""
    assert isinstance(error, grpc.Call)
    code, details = error.code(), error.details() or ""
    if code in _UNAVAILABLE:
        return UnavailableError(f"server: nothing answers at {target} ({code.name}: {details})", code.name)
    if code in _REFUSED:
        return RefusedError(details, code.name)
    return ServerError(f"server {target}: {code.name}: {details}", code.name)
