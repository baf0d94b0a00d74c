"""The dashboard's port, beside gRPC's: the same certificates, the same tokens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog
from lrpilot.wire.loopback import is_loopback

from tuner_server.access.shares import Shares
from tuner_server.access.tls import TlsFiles
from tuner_server.base.address import Address, bound, shared
from tuner_server.ops.http import PortLimits, serving
from tuner_server.service.tuner_service import TunerService
from tuner_server.web.server.access import Authenticate
from tuner_server.web.server.app import dashboard
from tuner_server.web.server.front import Front

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def dashboard_port(
    service: TunerService,
    address: Address,
    stopping: asyncio.Event,
    *,
    authenticate: Authenticate | None,
    shares: Shares,
    limits: PortLimits,
    tls: TlsFiles | None,
    shares_port: bool,
    front: Front,
) -> AsyncIterator[None]:
    """Serves the dashboard on the running loop until the block ends.

    Args:
        service: the one whose jobs are shown.
        address: the address to serve at; port 0 takes a free one, and the log says which.
        stopping: ends the streams.
        authenticate: gives whoever shows a token; None: nobody is asked.
        shares: what projects may use of this process, counted together with their calls on other ports.
        limits: what browsers may use of this process.
        tls: certificates for HTTPS; None: plain HTTP.
        shares_port: whether other processes serve the port too.
        front: the proxy that browsers ask instead of us.

    Raises:
        InvalidInputError: the address can't be bound.
    """
    open_to_this_machine = authenticate is None and is_loopback(str(address))
    app = dashboard(service, stopping, shares, authenticate, loopback_only=open_to_this_machine, front=front)
    listener = (shared if shares_port else bound)("http", address)
    where = address._replace(port=listener.getsockname()[1])
    async with serving(app, listener, limits, tls):
        log.info("dashboard", url=f"{'http' if tls is None else 'https'}://{where}")
        yield
