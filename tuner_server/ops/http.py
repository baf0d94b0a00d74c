"""The operators' port: plain HTTP beside gRPC, for probes and Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tuner_server.access.tls import TlsFiles, server_context
from tuner_server.ops.connections import Connections, Listener, Patience, protocol

STOP_S = 1
"""Seconds that answers get at the end. They are small: what isn't sent by then has nobody who reads it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Readiness:
    """Whether calls should be sent here."""

    ready: bool
    checks: dict[str, str]
    """The state of each thing that was looked at."""


def operators_app(
    liveness: Callable[[], str], readiness: Callable[[], Readiness], metrics: Callable[[], bytes]
) -> Starlette:
    """The app that answers `/livez`, `/readyz` and `/metrics`.

    Args:
        liveness: says why this server has to be started anew; empty: it need not be.
        readiness: says what is known, at once.
        metrics: gives the metrics in Prometheus' text format.
    """

    async def livez(_request: Request) -> Response:
        problem = liveness()  # that the event loop got here is the rest of the answer
        return PlainTextResponse(f"{problem or 'ok'}\n", 503 if problem else 200)

    async def readyz(_request: Request) -> Response:
        found = readiness()
        return JSONResponse({"ready": found.ready, **found.checks}, 200 if found.ready else 503)

    def show(_request: Request) -> Response:  # not async: in a thread, since it reads files
        return Response(metrics(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", show)])


class _Server(uvicorn.Server):
    """A server that leaves signals to whom they belong."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


@dataclasses.dataclass(frozen=True, slots=True)
class PortLimits:
    """What the clients of a port may use of this process."""

    name: str
    """The setting that the port has, for the log."""
    connections: int
    """How many there may be."""
    patience: Patience = dataclasses.field(default_factory=Patience)
    """How long each may keep us waiting."""


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, listener: socket.socket, limits: PortLimits, tls: TlsFiles | None = None
) -> AsyncIterator[None]:
    """Serves an app on the running loop, on a bound socket, until the block ends.

    Args:
        app: what answers.
        listener: the socket, whose descriptor is taken over.
        limits: what the port's clients may use.
        tls: certificates for HTTPS, read again when their files change; None: plain HTTP.

    Raises:
        InvalidInputError: a certificate can't be used.
    """
    connections = Connections(limits.name, limits.connections, limits.patience)
    config = uvicorn.Config(
        app,
        http=protocol(connections),
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=STOP_S,
        server_header=False,
        proxy_headers=False,  # the dashboard knows whom it believes
        # Otherwise uvicorn takes them from variables of its own, which are another application's.
        workers=1,
        forwarded_allow_ips="",
    )
    if tls is not None:
        context = server_context(tls)
        config.ssl_context_factory = lambda _config, _default: context
    server = _Server(config)
    with contextlib.closing(connections):
        task = asyncio.create_task(server.serve([Listener(listener, connections)]))
        watching = asyncio.create_task(connections.watch())
        try:
            yield
        finally:
            server.should_exit = True
            await task
            watching.cancel()
