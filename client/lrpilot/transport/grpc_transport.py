"""A server over gRPC: a deadline on every call, retries by service config."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

import grpc

from lrpilot.errors import RefusedError, ServerError, UnavailableError
from lrpilot.transport.base import Transport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc

# Every call is safe to repeat, so an unavailable server is asked again: after some 0.2, 0.4, 0.8 and 1.6 seconds.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "lrpilot.v1.TunerService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_MAX_MESSAGE_BYTES = 64 * 2**20
_OPTIONS = [
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # A server that comes back is found soon, also after a long absence.
    ("grpc.max_reconnect_backoff_ms", 2000),
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

Response = TypeVar("Response")


class GrpcTransport(Transport):
    """A connection to `target` (HOST:PORT). Threads may share it."""

    def __init__(self, target: str) -> None:
        """Connects when the first call is made."""
        self.target = target
        self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        self.stub = tuner_pb2_grpc.TunerServiceStub(self._channel)

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        """Opens a job. Raises: ServerError: soon, if nothing listens there: the address may be wrong."""
        return self.call(lambda: self.stub.CreateJob(request, timeout=timeout_s))

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        """Reports, and gets the next directive; waits for a server that restarts. Raises: ServerError."""
        return self.call(lambda: self.stub.Advance(request, timeout=timeout_s, wait_for_ready=True))

    def resume_job(self, request: pb.ResumeJobRequest, timeout_s: float) -> pb.ResumeJobResponse:
        """Takes a job back to an earlier directive. Raises: ServerError."""
        return self.call(lambda: self.stub.ResumeJob(request, timeout=timeout_s))

    def cancel_job(self, request: pb.CancelJobRequest, timeout_s: float) -> pb.CancelJobResponse:
        """Ends a job. Raises: ServerError."""
        return self.call(lambda: self.stub.CancelJob(request, timeout=timeout_s))

    def call(self, method: Callable[[], Response]) -> Response:
        """Calls, with gRPC's errors as ours. Raises: ServerError."""
        try:
            return method()
        except grpc.RpcError as error:
            raise to_error(error, self.target) from error

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()


def to_error(error: grpc.RpcError, target: str) -> ServerError:
    """A gRPC error as ours."""
    assert isinstance(error, grpc.Call)
    code, details = error.code(), error.details() or ""
    if code in _UNAVAILABLE:
        return UnavailableError(f"server: nothing answers at {target} ({code.name}: {details})", code.name)
    if code in _REFUSED:
        return RefusedError(details, code.name)
    return ServerError(f"server {target}: {code.name}: {details}", code.name)
