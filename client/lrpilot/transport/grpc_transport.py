"""A server over gRPC: every call has a deadline, and is repeated until then while nothing answers."""

from __future__ import annotations

import contextlib
import functools
import random
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc

from lrpilot.credentials import CA_FILE, TLS, TOKEN, Credentials
from lrpilot.errors import ConfigError, RefusedError, ServerError, UnavailableError
from lrpilot.transport.base import Transport
from lrpilot.transport.call_thread import CallThread
from lrpilot.transport.target import checked_target
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc
from lrpilot.wire.loopback import is_loopback
from lrpilot.wire.messages.schedule_parts import merged
from lrpilot.wire.revision import REVISION, REVISION_KEY
from lrpilot.wire.text.plain_text import plain

_MAX_MESSAGE_BYTES = 64 * 2**20
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # A server that comes back is found soon, also after a long absence.
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Channels to one target would share their connections, and a new channel the dead one.
    ("grpc.use_local_subchannel_pool", 1),
    # A server that vanished is found while a call waits for it. Servers allow twice as many.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
]
_UNAVAILABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    # We cancel nothing: it is what gRPC tells calls that reach a server as it begins to stop (grpc/grpc#41785).
    grpc.StatusCode.CANCELLED,
}
_REFUSED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

_SPEAKS_OTHERWISE = re.compile("socket closed|connection reset|handshak|ssl|recvmsg|preface", re.IGNORECASE)
"""What gRPC says of a peer that is there, and does not understand it."""

ATTEMPT_S = 5.0
"""The longest wait for an answer before the connection is taken for dead, and the call is repeated on a new one."""
PAUSE_S = 0.2
"""The pause between two attempts."""
JITTER = 0.5
"""Clients that were told the same time to come again come back up to so much of it later, each at its own."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Where a server that has too much to do says when to come again."""
OPEN_S = 5.0
"""The longest that opening a job takes: a wrong address should show soon."""

Response = TypeVar("Response")


class GrpcTransport(Transport):
    """A connection to `target` (HOST:PORT), for one thread, which may be interrupted at any time."""

    def __init__(self, target: str, credentials: Credentials | None = None) -> None:
        """Connects when the first call is made, with `credentials` (None: with none).

        Raises:
            ConfigError: `target` is no address; a file of the credentials can't be read, or a token would be sent
                unencrypted.
        """
        self.target = checked_target(target)
        credentials = credentials or Credentials()
        credentials.check(target)
        self._tls = grpc.ssl_channel_credentials(*credentials.tls_files()) if credentials.uses_tls else None
        self._metadata = _Metadata(credentials)
        self._beat: grpc.Future[pb.BeatResponse] | None = None
        self._beats = True
        self._call_thread = CallThread()
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

    def beat(self, request: pb.BeatRequest) -> None:
        """Says that steps are made: one call at a time, that nobody waits for, unless the server knows no such call."""
        self._call_thread.run(functools.partial(self._send_beat, request))

    def leave_job(self, request: pb.LeaveJobRequest, timeout_s: float) -> pb.LeaveJobResponse:
        """Says that this client is done with a job. Raises: ServerError."""
        self._call_thread.run(self._end_beat)
        return self._repeated(lambda: self.stub.LeaveJob, request, timeout_s)

    def get_schedule(self, request: pb.GetScheduleRequest, timeout_s: float) -> pb.GetScheduleResponse:
        """What was decided so far: of a long run it takes its time to arrive. Raises: ServerError."""
        if request.view != pb.SCHEDULE_VIEW_FULL:
            return self._repeated(lambda: self.stub.GetSchedule, request, timeout_s)

        def in_full(request: pb.StreamScheduleRequest, timeout: float) -> pb.GetScheduleResponse:
            return merged(self.stub.StreamSchedule(request, timeout=timeout))

        whole = pb.StreamScheduleRequest(job_id=request.job_id)
        return self._repeated(lambda: in_full, whole, timeout_s, attempt_s=timeout_s)

    def list_jobs(self, request: pb.ListJobsRequest, timeout_s: float) -> pb.ListJobsResponse:
        """A page of jobs. Raises: ServerError."""
        return self.call(lambda: self.stub.ListJobs(request, timeout=timeout_s))

    def call(self, method: Callable[[], Response]) -> Response:
        """Calls once, with gRPC's errors as ours. Raises: ServerError."""
        return self._call_thread.run(functools.partial(self._called, method))

    def reconnect(self) -> None:
        """Leaves the connection, which may be dead though it looks open. The next call makes a new one."""
        former = self._channel
        self._connect()
        self._call_thread.run(former.close)

    def close(self) -> None:
        """Closes the connection."""
        self._call_thread.run(self._channel.close)
        self._call_thread.close()

    def _called(self, method: Callable[[], Response]) -> Response:
        """Calls, in the thread of calls. Raises: ServerError."""
        try:
            return method()
        except grpc.RpcError as error:
            raise to_error(error, self.target) from error

    def _send_beat(self, request: pb.BeatRequest) -> None:
        """Calls without waiting for the answer, in the thread of calls."""
        if self._beat is not None:
            if not self._beat.done():
                return
            unknown = isinstance(self._beat, grpc.Call) and self._beat.code() is grpc.StatusCode.UNIMPLEMENTED
            self._beats &= not unknown
        if self._beats:
            self._beat = self.stub.Beat.future(request, timeout=ATTEMPT_S)

    def _end_beat(self) -> None:
        """Ends a call that might come after what is said now, in the thread of calls."""
        if self._beat is not None:
            self._beat.cancel()

    def _repeated(
        self,
        method: Callable[[], Callable[..., Response]],
        request: Any,
        timeout_s: float,
        attempt_s: float = ATTEMPT_S,
    ) -> Response:
        """Calls until there is an answer: every call is safe to repeat. Raises: ServerError.

        gRPC's own retries end when an answer has begun to arrive, and don't leave a connection that looks open.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            within_s = max(min(attempt_s, deadline - time.monotonic()), 0.0)
            try:
                return self.call(functools.partial(method(), request, timeout=within_s))
            except UnavailableError as error:
                if error.code == grpc.StatusCode.DEADLINE_EXCEEDED.name:
                    # A peer that vanished leaves a connection that looks open for many minutes.
                    self.reconnect()
                pause_s = max(PAUSE_S, error.again_s * random.uniform(1.0, 1.0 + JITTER))
                if time.monotonic() + pause_s >= deadline:
                    raise
            time.sleep(pause_s)

    def _connect(self) -> None:
        # A proxy that the environment names would be shown what is meant to stay on this machine.
        options = [*_OPTIONS, ("grpc.enable_http_proxy", 0)] if is_loopback(self.target) else _OPTIONS
        if self._tls is None:
            self._channel = grpc.insecure_channel(self.target, options=options)
        else:
            self._channel = grpc.secure_channel(self.target, self._tls, options=options)
        self.stub = tuner_pb2_grpc.TunerServiceStub(grpc.intercept_channel(self._channel, self._metadata))


class _CallDetails(grpc.ClientCallDetails):
    """Those of another call, with further metadata."""

    def __init__(self, details: grpc.ClientCallDetails, metadata: Sequence[tuple[str, str]]) -> None:
        self.method, self.timeout, self.credentials = details.method, details.timeout, details.credentials
        self.wait_for_ready, self.compression = details.wait_for_ready, details.compression
        self.metadata = (*(details.metadata or ()), *metadata)


class _Metadata(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Tells the contract's revision with every call, and shows the token, if there is one.

    gRPC's own call credentials can't be used without TLS.
    """

    def __init__(self, credentials: Credentials) -> None:
        """Raises: ConfigError: the token's file can't be read."""
        self._credentials = credentials
        self._token = credentials.current_token() or ""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See `grpc.UnaryUnaryClientInterceptor`."""
        return continuation(_CallDetails(client_call_details, self._current()), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See `grpc.UnaryStreamClientInterceptor`."""
        return continuation(_CallDetails(client_call_details, self._current()), request)

    def _current(self) -> list[tuple[str, str]]:
        told = [(REVISION_KEY, str(REVISION))]
        if not self._credentials.has_token:
            return told
        with contextlib.suppress(ConfigError):  # in the middle of a renewal the last one has to do
            self._token = self._credentials.current_token() or ""
        return [*told, ("authorization", f"Bearer {self._token}")]


def to_error(error: grpc.RpcError, target: str) -> ServerError:
    """A gRPC error as ours."""
    assert isinstance(error, grpc.Call)
    code, details, again_s = error.code(), plain(error.details() or ""), _pushback_s(error)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and again_s is not None:
        return UnavailableError(f"server {target}: too much at a time, come again later: {details}", code.name, again_s)
    if code in _UNAVAILABLE:
        hint = f"; if it has TLS, set {TLS}=1 or {CA_FILE}" if _SPEAKS_OTHERWISE.search(details) else ""
        words = f"server: {target} can't be used ({code.name}: {details}){hint}"
        return UnavailableError(words, code.name, again_s or 0.0)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return RefusedError(f"{details}; set {TOKEN} to one that the server knows", code.name)
    if code in _REFUSED:
        return RefusedError(details, code.name)
    return ServerError(f"server {target}: {code.name}: {details}", code.name)


def _pushback_s(call: grpc.Call) -> float | None:
    """How long the server wants to be left alone; None: it did not say."""
    value = dict(call.trailing_metadata() or ()).get(PUSHBACK_KEY)
    if value is None:
        return None
    return int(value) / 1000 if isinstance(value, str) and value.isdecimal() else 0.0
