"""Pages that follow what happens, and what they do when nobody looks, or the server is away."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lrpilot.credentials import Credentials
from lrpilot.transport.grpc_transport import GrpcTransport
from playwright.sync_api import Browser, Page, Route, expect

from tests.support.browser.chromium import PATIENCE_MS, SharedWindows, show, until, watched, window
from tests.support.jobs.sample_jobs import SlowTraining, job_config
from tests.support.servers import wire_client
from tests.support.servers.ports import HOST, free_port
from tests.support.servers.server_process import ServerProcess, running
from tuner_server.core.messages import Phase
from tuner_server.web.server.access import COOKIE

pytestmark = pytest.mark.slow
expect.set_options(timeout=PATIENCE_MS)

STAGES: dict[str, Any] = {"policy": "autolrs", "forecaster": "power_law", "final_decay": False}
"""A policy of many stages."""
N_PAGES = 8
"""More than the six connections that Chromium has for one server over HTTP/1.1."""


def report_until_stage(job: Any, stage: int) -> None:
    """Carries out directives until one of that stage is outstanding."""
    while job.directive.stage < stage:
        job.report()


def follow(page: Page, address: str) -> None:
    """Opens a page, and waits until it is told of changes."""
    page.goto(address)
    expect(page.locator("#connection")).to_have_text("live")


def steps_run(page: Page) -> str:
    """As the page says it."""
    return str(page.locator("#summary .fact").filter(has_text="Progress").locator(".note").text_content())


def mark(page: Page) -> None:
    """So that `marked` sees whether it is loaded anew."""
    page.evaluate("window.sameAsBefore = true")


def marked(page: Page) -> bool:
    return bool(page.evaluate("window.sameAsBefore === true"))


def test_the_evidence_comes_to_a_page_that_was_open_before_the_first_probe(
    page: Page, start_job: Callable[..., Any]
) -> None:
    job = start_job("from the start", **STAGES)
    follow(page, f"/jobs/{job.id}")
    mark(page)
    assert page.locator(".charts figure").count() == 0
    job.report_until(Phase.PROBE)
    job.report()
    search = page.locator("details.stage[open]").first
    expect(search.locator(".probes .main-svg").first).to_be_visible()
    report_until_stage(job, job.directive.stage + 1)
    expect(page.locator(".evidence .main-svg").first).to_be_visible()
    assert marked(page)


def test_the_chart_is_said_to_be_what_the_headline_says(page: Page, start_job: Callable[..., Any]) -> None:
    job = start_job("spoken of")
    follow(page, f"/jobs/{job.id}")
    before = str(page.locator(".headline").text_content())
    said = "Loss and LR over the steps that were run. "
    expect(page.locator("#chart")).to_have_attribute("aria-label", said + before.removesuffix(" Why?"))
    job.report(3)
    expect(page.locator(".headline")).not_to_have_text(before)
    label = f"document.getElementById('chart').ariaLabel.replace('{said}', '')"
    until(page, f"document.querySelector('.headline').textContent.startsWith({label})")


def test_a_section_that_the_user_opened_stays_open(page: Page, start_job: Callable[..., Any]) -> None:
    job = start_job("read on", total_steps=30_000, **STAGES)
    report_until_stage(job, job.directive.stage + 2)
    job.report()
    follow(page, f"/jobs/{job.id}")
    stages = page.locator("#stages > details")
    mine, latest, n = stages.last, stages.first, stages.count()
    names = [str(each.get_attribute("id")) for each in (mine, latest)]
    assert names[0] != names[1]
    expect(mine).not_to_have_attribute("open", "")
    mine.locator("summary").click()
    expect(mine.locator(".charts .main-svg").first).to_be_visible()

    report_until_stage(job, job.directive.stage + 2)
    until(page, f"document.querySelectorAll('#stages > details').length > {n}")
    mine, former = (page.locator(f"#{name}") for name in names)
    expect(stages.first).to_have_attribute("open", "")
    expect(mine).to_have_attribute("open", "")
    expect(former).not_to_have_attribute("open", "")


def test_more_pages_than_a_browser_has_connections_are_open_and_one_catches_up_when_it_is_shown(
    browser: Browser, dashboard: Any, start_job: Callable[..., Any]
) -> None:
    with window(browser, dashboard.url) as context, contextlib.ExitStack() as stack:
        pages = [stack.enter_context(watched(context, dashboard.url)) for _ in range(N_PAGES)]
        for page in pages:
            follow(page, "/?q=in+many+tabs")
            show(page, visible=False)  # the next one is in front
        first, last = pages[0], pages[-1]
        asked: list[str] = []
        first.on("request", lambda request: asked.append(request.url))
        show(last)
        start_job("in many tabs")
        expect(last.locator("#list")).to_contain_text("in many tabs")
        expect(first.locator("#list")).to_contain_text("No job matches")
        assert asked == [], "nobody sees it"

        show(last, visible=False)
        show(first)
        expect(first.locator("#list")).to_contain_text("in many tabs")
        expect(first.locator("#connection")).to_have_text("live")


def test_a_job_in_a_comparison_is_followed(page: Page, dashboard: Any, start_job: Callable[..., Any]) -> None:
    job = start_job("still running", total_steps=6000)
    job.report_until(Phase.TRAIN)
    job.report(2)
    follow(page, f"/compare?job={job.id}&job={dashboard.jobs['stages']}")
    expect(page.locator("#chart.drawn")).to_be_visible()
    row = page.locator(f"tr[data-src*='{job.id}']")
    progress = row.locator("td.num").first
    before, line = str(progress.text_content()), "document.getElementById('chart').data[0].x.at(-1)"
    end = page.evaluate(line)
    job.report(4)
    job.report_until(Phase.TRAIN)
    job.report(2)
    expect(progress).not_to_have_text(before)
    until(page, f"{line} > {end}")


def test_a_comparison_of_jobs_that_have_ended_is_as_it_is(page: Page, dashboard: Any) -> None:
    page.goto(f"/compare?job={dashboard.jobs['finished']}&job={dashboard.jobs['twin']}")
    expect(page.locator("#chart.drawn")).to_be_visible()
    expect(page.locator("#connection")).to_be_hidden()


class Restarted:
    """A job on a server that can be killed, and comes back at the same addresses."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self._training = SlowTraining(validates=True)
        created = wire_client.create(server.stub, job_config("survivor"))
        self.id, self._directive = created.job.id, wire_client.directive_from_pb(created.directive)

    def report(self) -> None:
        self._directive = wire_client.advance(self.server.stub, self.id, self._training.run(self._directive))


def test_a_page_outlives_its_server(browser: Browser, tmp_path: Path) -> None:
    http = f"{HOST}:{free_port()}"
    page = browser.new_page(base_url=f"http://{http}")  # unwatched: Chromium reports a server that is away
    with running(f"sqlite:///{tmp_path}/jobs.db", "--http", http) as server, contextlib.closing(page):
        job = Restarted(server)
        follow(page, f"/jobs/{job.id}")
        mark(page)
        before = steps_run(page)
        server.kill()
        expect(page.locator("#connection")).to_have_text("reconnecting")
        server.restart()
        expect(page.locator("#connection")).to_have_text("live")
        job.report()
        expect(page.locator("#summary .fact").filter(has_text="Progress").locator(".note")).not_to_have_text(before)
        assert marked(page)


def test_a_server_that_can_not_answer_is_asked_again(windows: SharedWindows, start_job: Callable[..., Any]) -> None:
    job = start_job("asked again")
    with windows.unwatched_page() as page:
        follow(page, f"/jobs/{job.id}")
        mark(page)
        before = steps_run(page)
        refused: list[int] = []

        def refuse(route: Route) -> None:
            refused.append(503)
            route.fulfill(status=503, body="the database can't be used")

        page.route(f"**/jobs/{job.id}", refuse)
        job.report()
        expect(page.locator("#connection")).to_have_text("reconnecting")
        until_refused_again = len(refused) + 1
        while len(refused) < until_refused_again:
            page.wait_for_event("request")
        assert steps_run(page) == before, "what is known is still shown"
        page.unroute(f"**/jobs/{job.id}")
        expect(page.locator("#connection")).to_have_text("live")
        expect(page.locator("#summary .fact").filter(has_text="Progress").locator(".note")).not_to_have_text(before)
        assert marked(page)


def test_who_is_signed_out_elsewhere_is_asked_to_sign_in(guarded_page: Page, guarded: Any) -> None:
    token, page, context = guarded.tokens["owner"], guarded_page, guarded_page.context
    with contextlib.closing(GrpcTransport(guarded.process.target, Credentials(token=token))) as transport:
        context.add_cookies([{"name": COOKIE, "value": token, "url": guarded.url}])
        created = wire_client.create(transport.stub, job_config("signed out"))
        follow(page, f"/jobs/{created.job.id}")
        context.clear_cookies()
        directive = wire_client.directive_from_pb(created.directive)
        wire_client.advance(transport.stub, created.job.id, SlowTraining(validates=True).run(directive))
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_the_list_goes_on_when_a_job_ends(page: Page, start_job: Callable[..., Any]) -> None:
    follow(page, "/?q=in+turn")
    first = start_job("in turn 1", total_steps=2000)
    first.report_until(Phase.STOP)
    rows = page.locator("table.jobs tbody tr")
    expect(rows).to_have_count(1)
    expect(rows.locator("[data-name=State]")).to_have_text("finished")
    expect(page.locator("#connection")).to_have_text("live")
    start_job("in turn 2")
    expect(rows).to_have_count(2)
