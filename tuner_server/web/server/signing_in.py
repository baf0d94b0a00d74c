"""How people sign in to the dashboard with a token, and out again."""

from __future__ import annotations

import structlog
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from tuner_server.core.errors import AccessDeniedError, UnauthenticatedError
from tuner_server.web.pages.pages import Pages
from tuner_server.web.server import parameters
from tuner_server.web.server.access import COOKIE, Gate, check_same_origin, cookie_path, local_path
from tuner_server.web.server.refusals import STATUS

log = structlog.get_logger(__name__)


class SigningIn:
    """The handlers that give a browser its cookie, and take it back."""

    def __init__(self, pages: Pages, gate: Gate, base_path: str) -> None:
        """Shows `pages`, which are under `base_path`; `gate` knows the tokens."""
        self._pages, self._gate, self._base = pages, gate, base_path

    async def page(self, request: Request) -> Response:
        """Asks for a token."""
        if not self._gate.asks:
            return RedirectResponse(f"{self._base}/", 303)
        return self._page(local_path(request.query_params.get("next", ""), self._base), "", 200)

    async def sign_in(self, request: Request) -> Response:
        """Takes a token."""
        check_same_origin(request)
        if not self._gate.asks:
            return RedirectResponse(f"{self._base}/", 303)
        fields = await parameters.form(request)
        onward = local_path(fields.get("next", ""), self._base)
        response = RedirectResponse(onward, 303)
        try:
            await self._gate.sign_in(fields.get("token", "").strip(), request, response)
        except (UnauthenticatedError, AccessDeniedError) as error:
            log.warning("sign-in refused", client=request.client and request.client.host, why=str(error))
            return self._page(onward, str(error), STATUS[type(error)])
        return response

    async def sign_out(self, request: Request) -> Response:
        """Forgets the token."""
        check_same_origin(request)
        response = RedirectResponse(f"{self._base}/{'login' if self._gate.asks else ''}", 303)
        response.delete_cookie(COOKIE, path=cookie_path(request), httponly=True, samesite="strict")
        return response

    def _page(self, onward: str, problem: str, status: int) -> Response:
        return HTMLResponse(self._pages.render("login.html", next=onward, problem=problem, signed_in=False), status)
