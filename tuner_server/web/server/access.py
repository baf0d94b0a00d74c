"""Finds out who looks, and whether a request that changes something comes from our own pages.

A browser keeps the token in a cookie that scripts can't read and that no other site's request carries (HttpOnly,
SameSite=Strict). Programs send it as in the API, `Authorization: Bearer lrp_...`.

SameSite is about sites, which share a host's ports, and there is no cookie where no tokens are asked for. So a request
that changes something must also come from this very origin: browsers say so in `Sec-Fetch-Site`, older ones in
`Origin`, and no page can make a browser say otherwise. What sends neither is no browser.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import unquote, urlsplit

from lrpilot.wire.loopback import is_loopback_authority
from starlette import types
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response

from tuner_server.access.principal import ANYONE, Principal, Scope
from tuner_server.access.shares import Shares
from tuner_server.core.errors import AccessDeniedError, UnauthenticatedError

COOKIE = "lrpilot_token"
Authenticate = Callable[[str], Awaitable[Principal]]
"""Gives whoever shows a token. Raises: UnauthenticatedError; StorageError."""
RequestHandler = Callable[[Request, Principal], Awaitable[Response]]
_LOCAL_PATH = re.compile(r"/(?:[A-Za-z0-9][\w./%+-]*)?(?:\?[\w./?&=%+*~-]*)?", re.ASCII)
"""A path with its query. What could begin another host, `//` or `/\\`, is none."""


class Gate:
    """Lets requests in, or refuses them."""

    def __init__(self, authenticate: Authenticate | None, shares: Shares) -> None:
        """Knows tokens by `authenticate`; None: none are asked for. Each request is a call of its project's share."""
        self._authenticate = authenticate
        self._shares = shares

    @property
    def asks(self) -> bool:
        """Whether a token is needed."""
        return self._authenticate is not None

    async def principal(self, connection: HTTPConnection, scope: Scope) -> Principal:
        """Whoever looks. Raises: UnauthenticatedError; AccessDeniedError: the token does not allow `scope`."""
        found = ANYONE if self._authenticate is None else await self._authenticate(_token(connection))
        if scope not in found.scopes:
            raise AccessDeniedError(f"token {found.token_id}: this needs scope {scope}")
        return found

    @contextlib.asynccontextmanager
    async def call(self, connection: HTTPConnection, scope: Scope, *, streams: bool) -> AsyncIterator[Principal]:
        """Whoever looks, for as long as it takes. Raises: as `principal`; RateError: their project asks too much."""
        caller = await self.principal(connection, scope)
        with self._shares.call(caller, streams=streams):
            yield caller

    async def sign_in(self, token: str, request: Request, response: Response) -> None:
        """Gives the browser a cookie. Raises: as `principal`; RateError."""
        assert self._authenticate is not None
        found = await self._authenticate(token)
        if Scope.READ not in found.scopes:
            raise AccessDeniedError(f"token {found.token_id}: the dashboard needs scope {Scope.READ}")
        with self._shares.call(found, streams=False):
            secure = request.url.scheme == "https"
            path = cookie_path(request)
            response.set_cookie(COOKIE, token, path=path, httponly=True, samesite="strict", secure=secure)


class AuthorizedEndpoint:
    """An endpoint for those whose token allows it. It counts as one call of their project, up to the last byte."""

    def __init__(self, gate: Gate, scope: Scope, handle: RequestHandler, *, streams: bool = False) -> None:
        """Answers with `handle`; `streams`: for as long as somebody looks."""
        self._gate, self._scope, self._handle, self._streams = gate, scope, handle, streams

    async def __call__(self, connection: types.Scope, receive: types.Receive, send: types.Send) -> None:
        """Answers. Raises: as `Gate.call`; what `handle` does."""
        request = Request(connection, receive, send)
        async with self._gate.call(request, self._scope, streams=self._streams) as caller:
            response = await self._handle(request, caller)
            await response(connection, receive, send)


class LoopbackOnly:
    """Middleware that refuses requests which ask for any other name than one of this machine's."""

    def __init__(self, app: types.ASGIApp) -> None:
        self._app = app

    async def __call__(self, connection: types.Scope, receive: types.Receive, send: types.Send) -> None:
        """Passes a request on, or refuses it."""
        app = self._app
        if connection["type"] == "http" and not is_loopback_authority(Headers(scope=connection).get("host", "")):
            app = PlainTextResponse("Invalid host header", status_code=400)
        await app(connection, receive, send)


def check_same_origin(request: Request) -> None:
    """Raises: AccessDeniedError: another site's page made the browser send this."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        ours = site == "same-origin"
    elif origin is not None:
        ours = urlsplit(origin).netloc == request.headers.get("host")
    else:
        ours = True
    if not ours:
        raise AccessDeniedError("this was sent by a page of another origin")


def local_path(text: str, base_path: str) -> str:
    """A path of ours to go on to; our first page where it is none, so that nobody is led to another host."""
    home = f"{base_path}/"
    ours = text.startswith(home) and _LOCAL_PATH.fullmatch(text)
    # A browser goes up at `..`, however it is quoted: out of our base path, to another site of the host.
    steps = unquote(text.partition("?")[0]).split("/")[1:]
    return text if ours and not {".", ".."}.intersection(steps) and "" not in steps[:-1] else home


def cookie_path(request: Request) -> str:
    """The path that the browser sends our cookie to, and no other site's beside us on the same host."""
    return request.scope.get("root_path") or "/"


def _token(connection: HTTPConnection) -> str:
    """Raises: UnauthenticatedError: there is none."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    if cookie := connection.cookies.get(COOKIE):
        return cookie
    raise UnauthenticatedError("a token is needed")
