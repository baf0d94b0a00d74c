"""For those who sign in, who prefer the dark, who hold a phone, who have no mouse, and who listen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from lrpilot.credentials import Credentials
from lrpilot.transport.grpc_transport import GrpcTransport
from playwright.sync_api import Page, Route, expect

from tests.support.browser.chromium import PATIENCE_MS, POLL_MS, SharedWindows, axe_findings, until
from tests.support.jobs.sample_jobs import job_config
from tests.support.servers import wire_client
from tuner_server.web.server.access import COOKIE

pytestmark = pytest.mark.slow
expect.set_options(timeout=PATIENCE_MS)

BACKGROUND = "getComputedStyle(document.body).backgroundColor"
LIGHT, DARK = "rgb(245, 247, 249)", "rgb(18, 22, 27)"
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
PHONE = {"width": 375, "height": 720}


def addresses(dashboard: Any) -> list[str]:
    """One page of every kind."""
    jobs = dashboard.jobs
    return [
        "/",
        "/?state=attention",
        f"/jobs/{jobs['silent']}",
        f"/jobs/{jobs['stages']}",
        f"/jobs/{jobs['failed']}",
        f"/jobs/{jobs['waiting 00']}",
        f"/compare?job={jobs['finished']}&job={jobs['twin']}",
    ]


@pytest.fixture
def unwatched_page(guarded_windows: SharedWindows) -> Iterator[Page]:
    """A page on which nobody is signed in, and which is refused something."""
    with guarded_windows.unwatched_page() as page:
        yield page


def settled(page: Page, address: str) -> None:
    """Opens a page, and waits for its charts, or for the words of a job without steps."""
    page.goto(address)
    if page.locator("#chart").count():
        expect(page.locator("#chart.drawn, #chart > .empty")).to_be_visible()


def test_axe_finds_nothing_serious(page: Page, dashboard: Any) -> None:
    for address in [*addresses(dashboard), "/?q=nothing"]:
        settled(page, address)
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            assert axe_findings(page) == [], (address, scheme)


def test_a_phone_has_no_need_to_scroll_sideways(windows: SharedWindows, dashboard: Any) -> None:
    with windows.page(viewport=PHONE, has_touch=True, is_mobile=True) as page:
        for address in addresses(dashboard):
            settled(page, address)
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], address


def test_what_a_phone_opens_is_seen_whole(windows: SharedWindows, dashboard: Any, start_job: Any) -> None:
    job = start_job("a name that leaves no room")
    job.report(8)
    with windows.page(viewport=PHONE, has_touch=True, is_mobile=True) as page:
        for scale in (1.0, 0.8):  # beside the name, and below it
            page.set_viewport_size({"width": int(PHONE["width"] * scale), "height": PHONE["height"]})
            settled(page, f"/jobs/{job.id}")
            for button, opened in (("Cancel tuning…", "#cancel form"), ("Change the plan…", "#plan .forms")):
                page.get_by_text(button).tap()
                box = page.locator(opened).bounding_box()
                assert box
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= page.evaluate("innerWidth")
                page.get_by_text(button).tap()


def test_on_a_phone_compared_jobs_are_cards_that_name_their_facts(windows: SharedWindows, dashboard: Any) -> None:
    with windows.page(viewport=PHONE, has_touch=True, is_mobile=True) as page:
        settled(page, f"/compare?job={dashboard.jobs['finished']}&job={dashboard.jobs['stages']}")
        for card in page.locator("table.compared tbody tr").all():
            cells = card.locator("td").all()
            assert all(cell.get_attribute("data-name") for cell in cells)
            for cell in cells:
                box = cell.bounding_box()
                assert box
                assert box["x"] + box["width"] <= PHONE["width"], "nothing is to the right of the screen"


def test_the_theme_is_the_systems_until_it_is_chosen(windows: SharedWindows, dashboard: Any) -> None:
    with windows.page(color_scheme="dark") as page:
        settled(page, f"/jobs/{dashboard.jobs['finished']}")
        assert page.evaluate(BACKGROUND) == DARK
        text = page.evaluate("document.getElementById('chart').layout.font.color")
        switch = page.get_by_role("button", name="Theme")
        switch.click()
        assert page.evaluate(BACKGROUND) == LIGHT
        until(page, f"document.getElementById('chart').layout.font.color !== '{text}'")
        page.reload()
        expect(switch).to_have_text("Theme: light")
        assert page.evaluate(BACKGROUND) == LIGHT


def test_all_is_done_with_the_keyboard(page: Page, dashboard: Any) -> None:
    page.goto("/?state=finished&sort=name")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    link = page.get_by_role("link", name="finished", exact=True)
    for _ in range(30):
        page.keyboard.press("Tab")
        if link.evaluate("element => element === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#chart.drawn")).to_be_visible()

    page.get_by_role("button", name="Zoom in").focus()
    page.keyboard.press("Enter")
    until(page, "document.getElementById('chart').dataset.range")
    page.locator("details.stage summary").first.focus()
    page.keyboard.press("Space")
    expect(page.locator("table.candidates").first).to_be_hidden()


def test_what_is_seen_is_also_said(page: Page, dashboard: Any) -> None:
    settled(page, f"/jobs/{dashboard.jobs['finished']}")
    expect(page.get_by_role("img", name="Loss and LR over the steps that were run")).to_be_visible()
    expect(page.get_by_role("toolbar", name="Chart")).to_be_visible()
    expect(page.get_by_role("table", name="Candidates of Stage 1")).to_be_visible()
    assert page.locator("h1").count() == 1


def test_a_token_signs_in_and_its_scopes_say_what_is_offered(guarded_page: Page, guarded: Any) -> None:
    page, address = guarded_page, f"/jobs/{guarded.jobs['waiting 01']}"
    page.goto(address)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert axe_findings(page) == []
    page.get_by_label("Token").fill(guarded.tokens["reader"])
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{address}")
    expect(page.locator("#chart > .empty")).to_be_visible()
    expect(page.get_by_text("Cancel tuning")).to_have_count(0)
    expect(page.get_by_text("Change the plan")).to_have_count(0)
    assert page.evaluate("document.cookie") == "", "no script sees the token"

    page.get_by_role("button", name="Sign out").click()
    page.goto(address)
    page.get_by_label("Token").fill(guarded.tokens["owner"])
    page.keyboard.press("Enter")
    page.get_by_text("Cancel tuning…").click()
    page.get_by_role("button", name="Cancel the tuning").click()
    expect(page.locator("#state")).to_have_text("cancelled")


def test_a_project_without_jobs_says_how_to_get_one(guarded_page: Page, guarded: Any) -> None:
    page = guarded_page
    page.goto("/login")
    page.get_by_label("Token").fill(guarded.tokens["newcomer"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    assert axe_findings(page) == []


def test_what_is_not_there_and_what_is_refused_look_like_the_rest(unwatched_page: Page, guarded: Any) -> None:
    page = unwatched_page
    page.goto("/login")
    page.get_by_label("Token").fill("lrp_forged")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("the token is not valid")
    page.get_by_label("Token").fill(guarded.tokens["newcomer"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    page.goto(f"/jobs/{guarded.jobs['finished']}")  # another project's
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()
    assert axe_findings(page) == []


def test_who_asks_too_much_is_served_a_moment_later(unwatched_page: Page, guarded: Any) -> None:
    token = guarded.tokens["slow"]
    with contextlib.closing(GrpcTransport(guarded.process.target, Credentials(token=token))) as transport:
        job_id = wire_client.create(transport.stub, job_config("patient")).job.id
    page = unwatched_page
    page.context.add_cookies([{"name": COOKIE, "value": token, "url": guarded.url}])
    refused = page.get_by_role("heading", name="Too much at once")
    statuses: list[int] = []
    with page.expect_response(lambda response: "curves.json" in response.url and response.ok, timeout=PATIENCE_MS):
        while page.goto(f"/jobs/{job_id}") and refused.count():
            page.wait_for_timeout(POLL_MS)
        page.on("response", lambda response: statuses.append(response.status))
    expect(page.locator("#connection")).to_have_text("live")
    assert 429 in statuses


def test_a_comparison_whose_long_histories_have_to_wait_is_drawn_in_the_end(
    unwatched_page: Page, dashboard: Any
) -> None:
    """Where others' long histories go first, a server refuses and says when to come again."""
    page, refused = unwatched_page, set[str]()

    def busy_at_first(route: Route) -> None:
        if route.request.url in refused:
            route.continue_()
            return
        refused.add(route.request.url)
        route.fulfill(status=503, headers={"Retry-After": "1"}, json={"error": "come again later"})

    page.route("**/curves.json", busy_at_first)
    jobs = dashboard.jobs
    page.goto(f"{dashboard.url}/compare?job={jobs['finished']}&job={jobs['twin']}")
    expect(page.locator("#chart.drawn")).to_be_visible()
    assert len(refused) == 2
