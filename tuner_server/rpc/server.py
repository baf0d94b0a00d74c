"""A gRPC server around the servicer: port, health, reflection, draining."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from lrpilot.v1 import tuner_pb2, tuner_pb2_grpc
from lrpilot.wire.limits import HEARTBEAT_S

from tuner_server.base.address import Address, bound
from tuner_server.rpc.connection_guard import ConnectionGuard
from tuner_server.rpc.limits import LIMIT_OPTIONS, MAX_CONCURRENT_CALLS
from tuner_server.rpc.released_calls import ReleasedCalls
from tuner_server.rpc.servicer import Servicer
from tuner_server.service.tuner_service import TunerService

SERVICE_NAME = tuner_pb2.DESCRIPTOR.services_by_name["TunerService"].full_name
WRITERS, READERS = 4, 4
"""Threads for calls that open or change jobs, and for those that look: a flood of the one leaves the other alone. They
wait for the database more than they compute."""
REPLAYERS = 2
"""Threads for calls that take jobs back, which replay them: seconds of work, behind which no other call waits."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionRules:
    """What a connection to the port may and must do."""

    most: int = 8192
    """How many there may be. Those beyond it are closed at once."""
    handshake_s: float = 10.0
    """The time for TLS and HTTP/2 to be agreed on."""
    idle_s: float = 300.0
    """How long one may have no call. Its client connects again with the next call, and notices nothing; middleboxes
    forget connections that are silent a little longer."""
    ping_s: float = 20.0
    """How long one may be silent before its other end is asked for a sign."""
    ping_answer_s: float = 10.0
    """The time for that sign."""
    heartbeat_s: float = HEARTBEAT_S
    """How long a stream of a job is silent at most."""

    def options(self) -> list[tuple[str, int]]:
        """The rules as options of gRPC."""
        return [
            ("grpc.max_allowed_incoming_connections", self.most),
            ("grpc.server_handshake_timeout_ms", int(1000 * self.handshake_s)),
            ("grpc.max_connection_idle_ms", int(1000 * self.idle_s)),
            ("grpc.keepalive_time_ms", int(1000 * self.ping_s)),
            ("grpc.keepalive_timeout_ms", int(1000 * self.ping_answer_s)),
            # A minute otherwise, and the longer one of the two counts.
            ("grpc.http2.ping_timeout_ms", int(1000 * self.ping_answer_s)),
            # Clients may ask us likewise, twice as often as ours do.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]


class Server:
    """The gRPC server of one process, made, started and stopped on one event loop."""

    def __init__(
        self,
        service: TunerService,
        listen: Address,
        *,
        credentials: grpc.ServerCredentials | None = None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        shares_port: bool = False,
        connections: ConnectionRules = ConnectionRules(),  # it can't be changed
    ) -> None:
        """Binds `listen`.

        Args:
            service: what the RPCs do.
            listen: port 0 takes a free one.
            credentials: certificates for TLS; None: the port is plain.
            interceptors: the first sees a call first.
            shares_port: whether other workers of this server have the port too; otherwise a second server on it is
                refused.
            connections: what a connection may and must do.

        Raises:
            InvalidInputError: the address can't be bound.
        """
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._replayers = ThreadPoolExecutor(REPLAYERS, thread_name_prefix="replayer")
        self._guard = ConnectionGuard(connections.most)
        self._guarding: asyncio.Task[NoReturn] | None = None
        self._server = grpc.aio.server(
            interceptors=(ReleasedCalls(), *interceptors, self._guard),
            options=[*LIMIT_OPTIONS, *connections.options(), ("grpc.so_reuseport", int(shares_port))],
            maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
        )
        threads = self._writers, self._readers, self._replayers
        self._servicer = Servicer(service, *threads, connections.heartbeat_s)
        tuner_pb2_grpc.add_TunerServiceServicer_to_server(self._servicer, self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        if not shares_port:
            bound("listen", listen).close()  # gRPC would print lines of its own about an address that is in use
        if credentials is None:
            self.port = self._server.add_insecure_port(str(listen))
        else:
            self.port = self._server.add_secure_port(str(listen), credentials)

    async def start(self) -> None:
        """Begins to serve. The health service says NOT_SERVING until told otherwise."""
        await self.set_serving(False)
        await self._server.start()
        self._guarding = asyncio.create_task(self._guard.watch(self.port))

    async def set_serving(self, serving: bool) -> None:
        """Tells those who ask for its health."""
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE_NAME):
            await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Says NOT_SERVING, lets running calls end for up to `grace_s`, and closes the port."""
        await self._health.enter_graceful_shutdown()
        self._servicer.drain()
        await self._server.stop(grace_s)
        if self._guarding is not None:
            self._guarding.cancel()
        self._servicer.stop()
        self._writers.shutdown()
        self._readers.shutdown()
        self._replayers.shutdown()
