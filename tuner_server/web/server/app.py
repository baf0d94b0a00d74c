"""The dashboard as an ASGI app, which turns requests into pages, data and streams."""

from __future__ import annotations

import asyncio
import functools
import math
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote, urlencode

import anyio
import structlog
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import BaseRoute, Route

from tuner_server.access.principal import Principal, Scope
from tuner_server.access.shares import Shares
from tuner_server.base.failures import FAILURES
from tuner_server.core.config import MAX_NAME
from tuner_server.core.errors import (
    AccessDeniedError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    RateError,
    StorageError,
    TunerError,
    UnauthenticatedError,
)
from tuner_server.core.job.life import Life
from tuner_server.history.outlook import outlook_of_job
from tuner_server.history.timeline import Timeline
from tuner_server.report.report_file import report_html
from tuner_server.rpc import untrusted
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import StoredJob
from tuner_server.web.charts.drawing import overview, sparkline
from tuner_server.web.charts.evidence import StageCurves, stage_curves
from tuner_server.web.charts.job_chart import JobChart, job_chart
from tuner_server.web.pages.listing import STATES, Column, ListingQuery, title
from tuner_server.web.pages.pages import Pages
from tuner_server.web.pages.views import job_view, version_of
from tuner_server.web.server import exports, parameters
from tuner_server.web.server.access import (
    COOKIE,
    Authenticate,
    AuthorizedEndpoint,
    Gate,
    LoopbackOnly,
    RequestHandler,
    check_same_origin,
    cookie_path,
    local_path,
)
from tuner_server.web.server.exports import attachment
from tuner_server.web.server.front import BehindFront, Front
from tuner_server.web.server.headers import FOREVER, SecurityHeaders
from tuner_server.web.server.listing_cache import ListingCache
from tuner_server.web.server.live import Version, VersionPoller, events
from tuner_server.web.server.plan_form import change_from_form
from tuner_server.web.server.static_files import static_routes
from tuner_server.web.server.timeline_cache import TimelineCache

THREADS = 4
"""Threads that read and lay out. They are not those that answer training jobs, which go first."""
_STATUS: dict[type[TunerError], int] = {
    InvalidInputError: 400,
    UnauthenticatedError: 401,
    AccessDeniedError: 403,
    NotFoundError: 404,
    PreconditionError: 409,
    RateError: 429,
    StorageError: 503,
}
P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger(__name__)


def dashboard(
    service: TunerService,
    stopping: asyncio.Event,
    shares: Shares,
    authenticate: Authenticate | None = None,
    *,
    loopback_only: bool = False,
    front: Front = Front(),  # noqa: B008  # it has no state
) -> Starlette:
    """The app.

    Args:
        service: the one whose jobs are shown.
        stopping: ends the streams, which would go on for as long as somebody looks.
        shares: what projects may use of this process; each request is a call, each stream of events a stream.
        authenticate: gives whoever shows a token; None: whoever can reach the port may look and cancel.
        loopback_only: whether requests must ask for a name of this machine. Where no tokens are needed this keeps pages
            of other sites out, which may have a name of their own point to this machine (DNS rebinding).
        front: the proxy that browsers ask instead of us.
    """
    gate = Gate(authenticate, shares)
    site = _Site(service, stopping, gate, front.base_path)
    return Starlette(
        routes=_routes(site, gate),
        middleware=[
            Middleware(SecurityHeaders),
            *([Middleware(LoopbackOnly)] if loopback_only else []),
            Middleware(BehindFront, front=front),
            Middleware(GZipMiddleware, compresslevel=5),
        ],
        exception_handlers={TunerError: site.refused, HTTPException: site.http_error, Exception: site.failed},
    )


def _routes(site: _Site, gate: Gate) -> list[BaseRoute]:
    get, post = ["GET"], ["POST"]
    job = "/jobs/{job_id:str}"

    def read(handle: RequestHandler, *, streams: bool = False) -> AuthorizedEndpoint:
        return AuthorizedEndpoint(gate, Scope.READ, handle, streams=streams)

    return [
        Route("/", read(site.jobs), methods=get),
        Route("/events", read(site.jobs_events, streams=True), methods=get),
        Route(job, read(site.job), methods=get),
        Route(f"{job}/events", read(site.job_events, streams=True), methods=get),
        Route(f"{job}/curves.json", read(site.curves), methods=get),
        Route(f"{job}/stages/{{index:int}}.json", read(site.stage), methods=get),
        Route(f"{job}/sparkline.svg", read(site.sparkline), methods=get),
        Route(f"{job}/schedule.json", read(site.schedule), methods=get),
        Route(f"{job}/data.json", read(site.data_json), methods=get),
        Route(f"{job}/data.csv", read(site.data_csv), methods=get),
        Route(f"{job}/report.html", read(site.report), methods=get),
        Route(f"{job}/cancel", AuthorizedEndpoint(gate, Scope.CANCEL, site.cancel), methods=post),
        Route(f"{job}/plan", AuthorizedEndpoint(gate, Scope.PLAN, site.change_plan), methods=post),
        Route(f"{job}/describe", AuthorizedEndpoint(gate, Scope.EDIT, site.describe), methods=post),
        Route(f"{job}/delete", AuthorizedEndpoint(gate, Scope.DELETE, site.delete), methods=post),
        Route("/compare", read(site.compare), methods=get),
        Route("/compare/events", read(site.compare_events, streams=True), methods=get),
        Route("/login", site.login, methods=get),
        Route("/login", site.sign_in, methods=post),
        Route("/logout", site.sign_out, methods=post),
        *static_routes(),
    ]


class _Site:
    """The handlers of all routes."""

    def __init__(self, service: TunerService, stopping: asyncio.Event, gate: Gate, base_path: str) -> None:
        self._service, self._stopping, self._gate, self._base = service, stopping, gate, base_path
        self._timelines = TimelineCache(service)
        self._listings = ListingCache(service)
        self._list_versions, self._job_versions = VersionPoller(self._look_at_list), VersionPoller(self._look_at_job)
        self._pages = Pages(base_path)
        self._limiter = anyio.CapacityLimiter(THREADS)

    async def jobs(self, request: Request, caller: Principal) -> Response:
        """Shows the list of jobs."""
        query = ListingQuery.parse(request.query_params)
        found = await self._run(self._listings.get, caller.project, query)
        values = {"query": query, "listing": found, "columns": Column, "states": STATES}
        return self._page("jobs.html", caller, **values)

    async def jobs_events(self, request: Request, caller: Principal) -> Response:
        """Says when the list changed."""
        query = ListingQuery.parse(request.query_params)

        async def version() -> Version:
            await self._gate.principal(request, Scope.READ)
            return await self._list_versions((caller.project, query))

        return events(version, self._stopping)

    async def job(self, request: Request, caller: Principal) -> Response:
        """Shows a job's page."""

        def render() -> str:
            job, found = self._timelines.get(caller.project, parameters.job_id(request))
            live, vitals = job.state.status.live, self._service.vitals(job)
            return self._pages.render(
                "job.html",
                job=job_view(job, found, vitals),
                overview=overview(found),
                outlook=outlook_of_job(job.state, found),
                may_cancel=live and Scope.CANCEL in caller.scopes,
                may_plan=live and Scope.PLAN in caller.scopes,
                may_edit=Scope.EDIT in caller.scopes,
                may_delete=vitals.life is not Life.ALIVE and Scope.DELETE in caller.scopes,
                request_id=uuid.uuid4(),
                signed_in=self._gate.asks,
            )

        return HTMLResponse(await self._run(render))

    async def job_events(self, request: Request, caller: Principal) -> Response:
        """Says when a job changed."""
        return await self._jobs_events(request, caller, [parameters.job_id(request)])

    async def curves(self, request: Request, caller: Principal) -> Response:
        """Sends the chart's data; `from`, `to` and `buckets` say what is looked at."""

        def read(_job: StoredJob, found: Timeline) -> JobChart:
            return job_chart(found, parameters.window(request.query_params, found.n_steps))

        return JSONResponse(await self._read(request, caller, read))

    async def stage(self, request: Request, caller: Principal) -> Response:
        """Sends a decision's data."""
        index = request.path_params["index"]

        def read(job: StoredJob, found: Timeline) -> StageCurves:
            if index >= len(found.stages):
                raise NotFoundError(f"job {job.id} has no stage {index}")
            return stage_curves(found.stages[index], job.state.config)

        return JSONResponse(await self._read(request, caller, read))

    async def sparkline(self, request: Request, caller: Principal) -> Response:
        """Sends the loss in miniature; a browser may keep it if the address names a version."""
        text = await self._read(request, caller, lambda _job, found: sparkline(found))
        headers = {"Cache-Control": FOREVER.replace("public", "private")} if "v" in request.query_params else {}
        return Response(text, media_type="image/svg+xml", headers=headers)

    async def schedule(self, request: Request, caller: Principal) -> Response:
        """Sends the schedule, as `lrpilot export` writes it."""

        def read() -> tuple[StoredJob, str]:
            job = self._service.get_job(caller.project, parameters.job_id(request))
            return job, exports.schedule_text(job, self._service.history(job, losses=True))

        job, text = await self._run(read)
        return Response(text, media_type="application/json", headers=attachment(title(job), "schedule.json"))

    async def data_json(self, request: Request, caller: Principal) -> Response:
        """Sends every step as JSON."""
        job, found = await self._read(request, caller, lambda *both: both)
        rows = exports.data_json(job, found)
        return StreamingResponse(rows, media_type="application/json", headers=attachment(title(job), "data.json"))

    async def data_csv(self, request: Request, caller: Principal) -> Response:
        """Sends every step as CSV."""
        job, found = await self._read(request, caller, lambda *both: both)
        rows = exports.data_csv(found)
        return StreamingResponse(rows, media_type="text/csv", headers=attachment(title(job), "data.csv"))

    async def report(self, request: Request, caller: Principal) -> Response:
        """Sends the page as one file. It is saved and not opened here, where its scripts are forbidden."""

        def read(job: StoredJob, found: Timeline) -> tuple[StoredJob, str]:
            return job, report_html(job, found, self._service.vitals(job))

        job, text = await self._read(request, caller, read)
        return Response(text, media_type="text/html", headers=attachment(title(job), "report.html"))

    async def cancel(self, request: Request, caller: Principal) -> Response:
        """Ends the tuning of a job."""
        check_same_origin(request)
        job_id = parameters.job_id(request)
        await self._run(self._service.cancel_job, caller.project, job_id, "cancelled in the dashboard")
        log.info("job cancelled", job_id=job_id, token=caller.token_id)
        return RedirectResponse(f"{self._base}/jobs/{job_id}", 303)

    async def change_plan(self, request: Request, caller: Principal) -> Response:
        """Asks for a change of a job's plan."""
        check_same_origin(request)
        job_id, fields = parameters.job_id(request), await parameters.form(request)

        await self._run(self._service.change_plan, caller.project, job_id, change_from_form(fields))
        log.info("plan changed", job_id=job_id, change=fields["kind"], token=caller.token_id)
        return RedirectResponse(f"{self._base}/jobs/{job_id}", 303)

    async def describe(self, request: Request, caller: Principal) -> Response:
        """Gives a job another name, and another note."""
        check_same_origin(request)
        job_id, fields = parameters.job_id(request), await parameters.form(request)
        name = untrusted.name("name", fields.get("name", "").strip(), MAX_NAME)
        note = untrusted.sentence("note", " ".join(fields.get("note", "").split()))
        await self._run(self._service.describe_job, caller.project, job_id, name, note)
        log.info("job described", job_id=job_id, token=caller.token_id)
        return RedirectResponse(f"{self._base}/jobs/{job_id}", 303)

    async def delete(self, request: Request, caller: Principal) -> Response:
        """Deletes a job whose client is not there."""
        check_same_origin(request)
        job_id = parameters.job_id(request)
        await self._run(self._service.delete_job, caller.project, job_id, force=False)
        log.info("job deleted", job_id=job_id, token=caller.token_id)
        return RedirectResponse(f"{self._base}/", 303)

    async def compare(self, request: Request, caller: Principal) -> Response:
        """Shows several jobs in one chart."""
        ids = parameters.compared(request)

        def render() -> str:
            both = [self._timelines.get(caller.project, job_id) for job_id in ids]
            found = [job_view(job, timeline, self._service.vitals(job)) for job, timeline in both]
            return self._pages.render(
                "compare.html",
                jobs=found,
                query=urlencode([("job", job_id) for job_id in ids]),
                version=_joined(job.version for job in found),
                limit=parameters.MAX_COMPARED,
                signed_in=self._gate.asks,
            )

        return HTMLResponse(await self._run(render))

    async def compare_events(self, request: Request, caller: Principal) -> Response:
        """Says when one of several jobs changed."""
        return await self._jobs_events(request, caller, parameters.compared(request))

    async def login(self, request: Request) -> Response:
        """Asks for a token."""
        if not self._gate.asks:
            return RedirectResponse(f"{self._base}/", 303)
        return self._login_page(local_path(request.query_params.get("next", ""), self._base), "", 200)

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
            return self._login_page(onward, str(error), _STATUS[type(error)])
        return response

    async def sign_out(self, request: Request) -> Response:
        """Forgets the token."""
        check_same_origin(request)
        response = RedirectResponse(f"{self._base}/{'login' if self._gate.asks else ''}", 303)
        response.delete_cookie(COOKIE, path=cookie_path(request), httponly=True, samesite="strict")
        return response

    async def refused(self, request: Request, error: Exception) -> Response:
        """Says what we refuse on purpose, and why."""
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
        if status >= 500:
            FAILURES.because(error)
        if status == 401 and request.method == "GET" and parameters.wants_page(request):
            onward = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"{self._base}/login?next={quote(onward)}", 303)
        response = self._error(request, status, error.told if isinstance(error, TunerError) else str(error))
        if isinstance(error, RateError):
            response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
        return response

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Says that there is no such page, or no such method."""
        assert isinstance(error, HTTPException)
        return self._error(
            request, error.status_code, "There is no such page." if error.status_code == 404 else error.detail
        )

    async def failed(self, request: Request, error: Exception) -> Response:
        """Says that something went wrong. What was not foreseen is told to our log alone."""
        FAILURES.unforeseen(error)
        return self._error(request, 500, "internal error; the server's log has it")

    def _error(self, request: Request, status: int, message: str) -> Response:
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        if not parameters.wants_page(request):
            return JSONResponse({"error": message}, status, headers=headers)
        text = self._pages.render("error.html", status=status, message=message, signed_in=self._gate.asks)
        return HTMLResponse(text, status, headers=headers)

    def _login_page(self, onward: str, problem: str, status: int) -> Response:
        return HTMLResponse(self._pages.render("login.html", next=onward, problem=problem, signed_in=False), status)

    def _page(self, name: str, caller: Principal, **values: Any) -> Response:
        return HTMLResponse(self._pages.render(name, project=caller.project, signed_in=self._gate.asks, **values))

    async def _jobs_events(self, request: Request, caller: Principal, ids: Sequence[str]) -> Response:
        """Says when one of some jobs changed. Raises: NotFoundError: one is not there."""
        for job_id in ids:
            await self._job_versions((caller.project, job_id))

        async def version() -> Version:
            await self._gate.principal(request, Scope.READ)
            found = [await self._job_versions((caller.project, job_id)) for job_id in ids]
            return _joined(job_version for job_version, _ in found), any(live for _, live in found)

        return events(version, self._stopping)

    async def _look_at_list(self, key: tuple[str, ListingQuery]) -> Version:
        return (await self._run(self._listings.get, *key)).version, True

    async def _look_at_job(self, key: tuple[str, str]) -> Version:
        job = await self._run(self._service.get_job, *key)
        return version_of(job, self._service.vitals(job)), job.state.status.live

    async def _read(self, request: Request, caller: Principal, function: Callable[[StoredJob, Timeline], T]) -> T:
        """What a function makes of the job that a request names."""

        def read() -> T:
            return function(*self._timelines.get(caller.project, parameters.job_id(request)))

        return await self._run(read)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await run_sync(functools.partial(function, *args, **kwargs), limiter=self._limiter)


def _joined(versions: Iterable[str]) -> str:
    """The version of several jobs."""
    return "-".join(versions)
