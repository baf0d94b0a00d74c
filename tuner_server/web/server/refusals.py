"""What a browser or a program is answered whose request can't be carried out."""

from __future__ import annotations

import math
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from tuner_server.base.failures import FAILURES
from tuner_server.core.errors import (
    AbandonedError,
    AccessDeniedError,
    BusyError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    RateError,
    StorageError,
    TunerError,
    UnauthenticatedError,
)
from tuner_server.web.pages.pages import Pages
from tuner_server.web.server import parameters
from tuner_server.web.server.access import Gate

STATUS: dict[type[TunerError], int] = {
    InvalidInputError: 400,
    UnauthenticatedError: 401,
    AccessDeniedError: 403,
    NotFoundError: 404,
    PreconditionError: 409,
    ConflictError: 409,
    BusyError: 503,
    RateError: 429,
    AbandonedError: 499,
    StorageError: 503,
}
"""The HTTP status that tells of an error."""


class Refusals:
    """The handlers of errors: a page for people, and JSON for programs."""

    def __init__(self, pages: Pages, gate: Gate, base_path: str) -> None:
        """Shows `pages`, which are under `base_path`; whoever lacks a token that `gate` asks for may sign in."""
        self._pages, self._gate, self._base = pages, gate, base_path

    async def refused(self, request: Request, error: Exception) -> Response:
        """Says what we refuse on purpose, and why."""
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        if status >= 500:
            FAILURES.because(error)
        if status == 401 and request.method == "GET" and parameters.wants_page(request):
            onward = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"{self._base}/login?next={quote(onward)}", 303)
        response = self._answer(request, status, error.told if isinstance(error, TunerError) else str(error))
        if isinstance(error, RateError):
            response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
        return response

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Says that there is no such page, or no such method."""
        assert isinstance(error, HTTPException)
        return self._answer(
            request, error.status_code, "There is no such page." if error.status_code == 404 else error.detail
        )

    async def failed(self, request: Request, error: Exception) -> Response:
        """Says that something went wrong. What was not foreseen is told to our log alone."""
        FAILURES.unforeseen(error)
        return self._answer(request, 500, "internal error; the server's log has it")

    def _answer(self, request: Request, status: int, message: str) -> Response:
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        if not parameters.wants_page(request):
            return JSONResponse({"error": message}, status, headers=headers)
        text = self._pages.render("error.html", status=status, message=message, signed_in=self._gate.asks)
        return HTMLResponse(text, status, headers=headers)
