"""The proxy that browsers ask instead of us: the path that it serves us under, and whether its headers are believed."""

from __future__ import annotations

import dataclasses
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware


@dataclasses.dataclass(frozen=True, slots=True)
class Front:
    """What is known of the proxy."""

    base_path: str = ""
    """The path that it serves us under, as `/lrpilot`; empty: it serves nothing else on our host, or there is none."""
    trusted: tuple[str, ...] = ()
    """The addresses and networks from which `X-Forwarded-For`, `-Proto` and `-Host` are believed."""


class BehindFront:
    """Middleware that has a request look as the browser sent it.

    A proxy may pass the base path on, or take it away: what comes without it has lost it there.
    """

    def __init__(self, app: ASGIApp, front: Front) -> None:
        """Passes requests on to `app`."""
        self._app, self._base_path = app, front.base_path
        # Any types: uvicorn and Starlette write the same ones of ASGI differently.
        under_base: Any = self._under_base
        self._forwarded: Any = _Forwarded(under_base, list(front.trusted))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        await self._forwarded(scope, receive, send)

    async def _under_base(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._base_path and scope["type"] == "http":
            home, path = f"{self._base_path}/", scope["path"]
            path = home if path == self._base_path else path if path.startswith(home) else self._base_path + path
            scope = {**scope, "path": path, "root_path": self._base_path}
        await self._app(scope, receive, send)


class _Forwarded(ProxyHeadersMiddleware):
    """Believes `X-Forwarded-Host` too, where the library believes the others."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes a request on."""
        client = scope.get("client")
        if scope["type"] == "http" and client is not None and client[0] in self.trusted_hosts:
            headers = MutableHeaders(scope=scope)
            if forwarded := headers.get("x-forwarded-host"):
                headers["host"] = forwarded.rpartition(",")[2].strip()
        await super().__call__(scope, receive, send)
