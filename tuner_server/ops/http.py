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


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket, tls: TlsFiles | None = None) -> AsyncIterator[None]:
    """Serves an app on the running loop, on a bound socket, until the block ends.

    Args:
        app: what answers.
        listener: the socket.
        tls: certificates for HTTPS, read again when their files change; None: plain HTTP.

    Raises:
        InvalidInputError: a certificate can't be used.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=STOP_S,
        server_header=False,
        proxy_headers=False,  # the dashboard knows whom it believes
    )
    if tls is not None:
        context = server_context(tls)
        config.ssl_context_factory = lambda _config, _default: context
    server = _Server(config)
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
