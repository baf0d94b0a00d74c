"""The dashboard as an ASGI app, which turns requests into pages, data and streams."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from tuner_server.access.principal import Principal, Scope
from tuner_server.access.shares import Shares
from tuner_server.base.interest import Interest
from tuner_server.core.config import MAX_NAME
from tuner_server.core.errors import NotFoundError, TunerError
from tuner_server.core.job.life import Life
from tuner_server.history.timeline import Timeline
from tuner_server.history.words.outlook import outlook_of_job
from tuner_server.report.report_file import report_html
from tuner_server.rpc import untrusted
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import History, StoredJob
from tuner_server.web.charts.drawing import overview, sparkline
from tuner_server.web.charts.evidence import StageCurves, stage_curves
from tuner_server.web.charts.job_chart import JobChart, job_chart
from tuner_server.web.pages.listing import STATES, Column, ListingQuery, title
from tuner_server.web.pages.pages import Pages
from tuner_server.web.pages.views import JobView, job_view, version_of
from tuner_server.web.server import exports, parameters
from tuner_server.web.server.access import (
    Authenticate,
    AuthorizedEndpoint,
    Gate,
    LoopbackOnly,
    RequestHandler,
    check_same_origin,
)
from tuner_server.web.server.answering import Answering
from tuner_server.web.server.exports import attachment
from tuner_server.web.server.front import BehindFront, Front
from tuner_server.web.server.headers import FOREVER, SecurityHeaders
from tuner_server.web.server.listing_cache import ListingCache
from tuner_server.web.server.live import Version, VersionPoller, events
from tuner_server.web.server.plan_form import change_from_form
from tuner_server.web.server.refusals import Refusals
from tuner_server.web.server.signing_in import SigningIn
from tuner_server.web.server.static_files import static_routes
from tuner_server.web.server.timeline_cache import TimelineCache

_FILES: dict[str, Callable[[StoredJob, History], Iterator[str]]] = {
    "schedule.json": exports.schedule_text,
    "data.json": exports.data_json,
    "data.csv": exports.data_csv,
}
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
    pages = Pages(front.base_path)
    site = _Site(service, stopping, gate, pages, front.base_path)
    signing_in, refusals = SigningIn(pages, gate, front.base_path), Refusals(pages, gate, front.base_path)
    return Starlette(
        routes=_routes(site, signing_in, gate),
        middleware=[
            Middleware(SecurityHeaders),
            *([Middleware(LoopbackOnly)] if loopback_only else []),
            Middleware(BehindFront, front=front),
            Middleware(GZipMiddleware, compresslevel=5),
        ],
        exception_handlers={
            TunerError: refusals.refused,
            HTTPException: refusals.http_error,
            Exception: refusals.failed,
        },
    )


def _routes(site: _Site, signing_in: SigningIn, gate: Gate) -> list[BaseRoute]:
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
        *(Route(f"{job}/{name}", read(site.file), methods=get) for name in _FILES),
        Route(f"{job}/report.html", read(site.report), methods=get),
        Route(f"{job}/cancel", AuthorizedEndpoint(gate, Scope.CANCEL, site.cancel), methods=post),
        Route(f"{job}/plan", AuthorizedEndpoint(gate, Scope.PLAN, site.change_plan), methods=post),
        Route(f"{job}/describe", AuthorizedEndpoint(gate, Scope.EDIT, site.describe), methods=post),
        Route(f"{job}/delete", AuthorizedEndpoint(gate, Scope.DELETE, site.delete), methods=post),
        Route("/compare", read(site.compare), methods=get),
        Route("/compare/events", read(site.compare_events, streams=True), methods=get),
        Route("/login", signing_in.page, methods=get),
        Route("/login", signing_in.sign_in, methods=post),
        Route("/logout", signing_in.sign_out, methods=post),
        *static_routes(),
    ]


class _Site:
    """The handlers of what is shown of jobs, and of what is asked for them."""

    def __init__(
        self, service: TunerService, stopping: asyncio.Event, gate: Gate, pages: Pages, base_path: str
    ) -> None:
        self._service, self._stopping, self._gate = service, stopping, gate
        self._pages, self._base = pages, base_path
        self._timelines = TimelineCache(service)
        self._listings = ListingCache(service)
        self._list_versions, self._job_versions = VersionPoller(self._look_at_list), VersionPoller(self._look_at_job)
        self._answering = Answering(service.long_reads)
        self._run = self._answering.run

    async def jobs(self, request: Request, caller: Principal) -> Response:
        """Shows the list of jobs."""
        query = ListingQuery.parse(request.query_params)
        found = await self._run(self._listings.get, caller.project, query)
        values = {"query": query, "listing": found, "columns": Column, "states": STATES}
        values["limit"] = parameters.MAX_COMPARED
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

        def render(job: StoredJob, found: Timeline) -> str:
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

        return HTMLResponse(await self._read(request, caller, render))

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

    async def file(self, request: Request, caller: Principal) -> Response:
        """Sends one of `_FILES`, which is made of the job's history while it is sent."""
        name = request.url.path.rpartition("/")[2]
        job = await self._run(self._service.get_job, caller.project, parameters.job_id(request))

        def parts(interest: Interest) -> Iterator[str]:
            return _FILES[name](job, self._service.history(job, interest.check))

        media_type = "text/csv" if name.endswith(".csv") else "application/json"
        return await self._answering.download(request, job, parts, media_type, attachment(title(job), name))

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
        jobs = [await self._run(self._service.get_job, caller.project, job_id) for job_id in ids]

        def view(job_id: str, interest: Interest) -> JobView:
            job, timeline = self._timelines.get(caller.project, job_id, interest)
            return job_view(job, timeline, self._service.vitals(job))

        def render(interest: Interest) -> str:
            found = [view(job_id, interest) for job_id in ids]  # one history at a time: each may be very long
            return self._pages.render(
                "compare.html",
                jobs=found,
                query=urlencode([("job", job_id) for job_id in ids]),
                version=_joined(job.version for job in found),
                limit=parameters.MAX_COMPARED,
                signed_in=self._gate.asks,
            )

        return HTMLResponse(await self._answering.wanted(request, jobs, render))

    async def compare_events(self, request: Request, caller: Principal) -> Response:
        """Says when one of several jobs changed."""
        return await self._jobs_events(request, caller, parameters.compared(request))

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
        job_id = parameters.job_id(request)
        job = await self._run(self._service.get_job, caller.project, job_id)

        def read(interest: Interest) -> T:
            return function(*self._timelines.get(caller.project, job_id, interest))

        return await self._answering.wanted(request, [job], read)


def _joined(versions: Iterable[str]) -> str:
    """The version of several jobs."""
    return "-".join(versions)
