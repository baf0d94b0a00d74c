"""A server that asks for tokens, in this process: its parts as `lrpilot serve` puts them together, and a way inside."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from tuner_server.access.authenticator import Authenticator, Grants
from tuner_server.access.principal import Scope
from tuner_server.access.records import Limits, Project, TokenRecord
from tuner_server.access.shares import Shares
from tuner_server.access.tls import TlsFiles, server_credentials
from tuner_server.access.token import Token
from tuner_server.base.address import Address
from tuner_server.ops.http import PortLimits
from tuner_server.rpc.auth import Authentication
from tuner_server.rpc.limits import CallLimits
from tuner_server.rpc.server import ConnectionRules, Server
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import open_storage
from tuner_server.storage.access import AccessStorage, open_access
from tuner_server.web.server.front import Front
from tuner_server.web.server.port import dashboard_port

START_TIMEOUT_S = 30.0


class GuardedServer:
    """A server on an event loop of its own, in a thread."""

    def __init__(
        self,
        db: str,
        tls: TlsFiles | None = None,
        grants: Grants | None = None,
        http: Address | None = None,
        *,
        shares: Shares | None = None,
        connections: ConnectionRules = ConnectionRules(),  # noqa: B008  # it can't be changed
        http_limits: PortLimits = PortLimits("http", 100),  # noqa: B008  # likewise
    ) -> None:
        """Serves, with a dashboard if `http` says where; tokens are looked up in `grants`, or else in the database."""
        self._db, self._tls, self._grants, self._http = db, tls, grants, http
        self._shares = shares or Shares()
        self._connections, self._http_limits = connections, http_limits
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._started.wait(START_TIMEOUT_S)
        self.target = f"127.0.0.1:{self.port}"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            storage = stack.enter_context(open_storage(self._db))
            service = stack.enter_context(TunerService(storage))
            access = stack.enter_context(open_access(self._db))
            authenticator = Authenticator(self._grants or access)
            server = Server(
                service,
                Address.parse("127.0.0.1:0"),
                credentials=None if self._tls is None else server_credentials(self._tls),
                interceptors=[Authentication(authenticator), CallLimits(self._shares)],
                connections=self._connections,
            )
            self.port = server.port
            await server.start()
            await server.set_serving(True)
            if self._http is not None:
                await stack.enter_async_context(
                    dashboard_port(
                        service,
                        self._http,
                        self._stopping,
                        authenticate=authenticator.authenticate,
                        shares=self._shares,
                        limits=self._http_limits,
                        tls=self._tls,
                        shares_port=False,
                        front=Front(),
                    )
                )
            self._started.set()
            await self._stopping.wait()
            await server.stop(0)
            authenticator.close()

    def close(self) -> None:
        """Ends the server."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()


@contextlib.contextmanager
def guarded(
    db: str,
    tls: TlsFiles | None = None,
    grants: Grants | None = None,
    http: Address | None = None,
    **limits: Any,
) -> Iterator[GuardedServer]:
    """A server that ends with the block. See `GuardedServer`."""
    with contextlib.closing(GuardedServer(db, tls, grants, http, **limits)) as server:
        yield server


def add_project(access: AccessStorage, name: str, limits: Limits | None = None) -> None:
    """Makes a project."""
    access.create_project(Project.checked(name, limits or Limits(), datetime.now(UTC)))


def add_token(
    access: AccessStorage,
    project: str,
    *scopes: Scope,
    expires_in: timedelta | None = None,
    age: timedelta | None = None,
) -> Token:
    """Makes a token, with all scopes if none is named."""
    token, now = Token.new(), datetime.now(UTC) - (age or timedelta())
    expire_time = None if expires_in is None else now + expires_in
    access.create_token(TokenRecord.issued(token, project, "a test's", scopes or tuple(Scope), now, expire_time))
    return token
