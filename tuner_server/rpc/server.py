"""A gRPC server around the servicer: port, health, reflection, draining."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from lrpilot.v1 import tuner_pb2, tuner_pb2_grpc

from tuner_server.base.address import Address, bound
from tuner_server.rpc.limits import LIMIT_OPTIONS, MAX_CONCURRENT_CALLS
from tuner_server.rpc.servicer import Servicer
from tuner_server.service.tuner_service import TunerService

SERVICE_NAME = tuner_pb2.DESCRIPTOR.services_by_name["TunerService"].full_name
THREADS = 8
"""Calls of the service at a time: they wait for the database more than they compute."""
_OPTIONS = [
    # Clients keep an idle connection alive while they train.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    *LIMIT_OPTIONS,
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
    ) -> None:
        """Binds `listen`.

        Args:
            service: what the RPCs do.
            listen: port 0 takes a free one.
            credentials: certificates for TLS; None: the port is plain.
            interceptors: the first sees a call first.
            shares_port: whether other workers of this server have the port too; otherwise a second server on it is
                refused.

        Raises:
            InvalidInputError: the address can't be bound.
        """
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="tuner")
        self._server = grpc.aio.server(
            interceptors=interceptors,
            options=[*_OPTIONS, ("grpc.so_reuseport", int(shares_port))],
            maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
        )
        self._servicer = Servicer(service, self._executor)
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
        self._executor.shutdown()
