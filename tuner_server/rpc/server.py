"""A gRPC server around the servicer: port, health, reflection, draining."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from lrpilot.v1 import tuner_pb2, tuner_pb2_grpc

from tuner_server.core.errors import InvalidInputError
from tuner_server.rpc.servicer import Servicer
from tuner_server.service import TunerService

SERVICE_NAME = tuner_pb2.DESCRIPTOR.services_by_name["TunerService"].full_name
THREADS = 8
"""Calls of the service at a time: they wait for the database more than they compute."""
MAX_MESSAGE_BYTES = 64 * 2**20
"""Both ways: the full history of a run of a million steps is some 10 MB."""
_OPTIONS = [
    # Two servers on one port would share its connections, and a second start would go unnoticed.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Clients keep an idle connection alive while they train.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
]


class Server:
    """One process's gRPC server. Made, started and stopped on one event loop."""

    def __init__(self, service: TunerService, listen: str) -> None:
        """Binds `listen` (HOST:PORT; port 0: a free one).

        Raises:
            InvalidInputError: the address can't be bound.
        """
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="tuner")
        self._server = grpc.aio.server(options=_OPTIONS)
        self._servicer = Servicer(service, self._executor)
        tuner_pb2_grpc.add_TunerServiceServicer_to_server(self._servicer, self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        _try_bind(listen)
        self.port = self._server.add_insecure_port(listen)

    async def start(self) -> None:
        """Begins to serve."""
        await self._server.start()
        for name in ("", SERVICE_NAME):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float) -> None:
        """Says NOT_SERVING, lets running calls end for up to `grace_s`, and closes the port."""
        await self._health.enter_graceful_shutdown()
        self._servicer.drain()
        await self._server.stop(grace_s)
        self._executor.shutdown()

    async def wait(self) -> None:
        """Until it is stopped."""
        await self._server.wait_for_termination()


def _try_bind(listen: str) -> None:
    """Binds the address and lets go of it: gRPC would print lines of its own about one that is in use.

    Raises:
        InvalidInputError: it can't be bound.
    """
    host, colon, port = listen.rpartition(":")
    if not (colon and port.isdecimal() and int(port) < 2**16):
        raise InvalidInputError.of("listen", f"{listen!r} is not HOST:PORT, as 127.0.0.1:50051")
    host = host.removeprefix("[").removesuffix("]")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As gRPC does: a port whose last connections are still closing may be taken again.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise InvalidInputError.of("listen", f"{listen} can't be bound: {error.strerror or error}") from error
