"""The files that pages are made with: styles, scripts, and Plotly."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from tuner_server.web.pages.pages import STATIC, plotly_js, plotly_js_gzipped


def static_routes() -> list[BaseRoute]:
    """The routes of all files, which anybody may read."""
    return [
        Route("/static/plotly.min.js", _plotly, methods=["GET"]),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]


def _plotly(request: Request) -> Response:
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return FileResponse(plotly_js(), media_type="text/javascript")
    headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Response(plotly_js_gzipped(), media_type="text/javascript", headers=headers)
