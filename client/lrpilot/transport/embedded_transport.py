"""A server of one's own, over gRPC all the same."""

from __future__ import annotations

import math
import time

from lrpilot.errors import UnavailableError
from lrpilot.transport.base import Transport
from lrpilot.transport.embedded_server import EmbeddedServer, check_installed
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb

PAUSE = 20
"""A server that took a second to fail is tried again after so many."""


class EmbeddedTransport(Transport):
    """A connection to a server that starts with it, and ends with it.

    A server that does not start is one that is away: calls fail, and now and then one of them tries again. So is one
    that has died.
    """

    def __init__(self, db: str | None = None) -> None:
        """Starts the server on database `db` (None: the user's own).

        Raises:
            ConfigError: the server's part of LRPilot is not installed.
        """
        check_installed()
        self._db = db
        self._server: EmbeddedServer | None = None
        self._connection: GrpcTransport | None = None
        self._failure: UnavailableError | None = None
        self._try_again = 0.0
        self._start()

    @property
    def server(self) -> EmbeddedServer:
        """The server. Raises: UnavailableError: it did not start."""
        self._connected()
        assert self._server is not None
        return self._server

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        """Opens a job. Raises: ServerError."""
        return self._connected().create_job(request, timeout_s)

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        """Reports, and gets the next directive. Raises: ServerError."""
        return self._connected().advance(request, timeout_s)

    def resume_job(self, request: pb.ResumeJobRequest, timeout_s: float) -> pb.ResumeJobResponse:
        """Takes a job back to an earlier directive. Raises: ServerError."""
        return self._connected().resume_job(request, timeout_s)

    def beat(self, request: pb.BeatRequest) -> None:
        """Says that steps are made, to a server that runs."""
        if self._runs and self._connection is not None:
            self._connection.beat(request)

    def leave_job(self, request: pb.LeaveJobRequest, timeout_s: float) -> pb.LeaveJobResponse:
        """Says that this client is done with a job; no server is started for that. Raises: ServerError."""
        if self._runs and self._connection is not None:
            return self._connection.leave_job(request, timeout_s)
        return pb.LeaveJobResponse()

    def get_schedule(self, request: pb.GetScheduleRequest, timeout_s: float) -> pb.GetScheduleResponse:
        """What was decided so far. Raises: ServerError."""
        return self._connected().get_schedule(request, timeout_s)

    def close(self) -> None:
        """Closes the connection and stops the server. No other one is started."""
        self._drop()
        self._failure, self._try_again = UnavailableError("server: closed", "UNAVAILABLE"), math.inf

    @property
    def _runs(self) -> bool:
        return self._server is not None and self._server.alive

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._server is not None:
            self._server.close()
        self._server = self._connection = None

    def _connected(self) -> GrpcTransport:
        """The connection, to a server that runs. Raises: UnavailableError."""
        died = self._server is not None and not self._runs
        if died or (self._failure is not None and time.monotonic() >= self._try_again):
            self._drop()
            self._start()
        if self._failure is not None:
            raise self._failure
        assert self._connection is not None
        return self._connection

    def _start(self) -> None:
        began = time.monotonic()
        self._failure = None
        try:
            self._server = EmbeddedServer(self._db)
            self._connection = GrpcTransport(self._server.target)
        except UnavailableError as error:
            self._failure = error
            self._try_again = time.monotonic() + PAUSE * (time.monotonic() - began)
