"""The headers of every answer. They tell the browser to run our files alone, to ask nobody else and to keep nothing."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # Plotly makes style elements and sets style attributes
        "img-src 'self' data: blob:",  # a plot that is exported as PNG is drawn as an image first
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: forms would be sent with `Origin: null`, which is how we know our own from others'.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
FOREVER = "public, max-age=31536000, immutable"
"""The header of addresses that change with what is there."""


class SecurityHeaders:
    """Middleware that sets the headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        versioned = "/static/" in scope["path"] and scope["query_string"].startswith(b"v=")

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if "cache-control" not in headers:
                    headers["Cache-Control"] = FOREVER if versioned and message["status"] == 200 else "no-store"
            await send(message)

        await self._app(scope, receive, sending)
