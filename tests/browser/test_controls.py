"""What can be pressed, chosen and typed: signing in and out, sorting, paging, the theme, and the chart by keyboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.browser.chromium import CHART, PATIENCE_MS, SharedWindows, until

pytestmark = pytest.mark.slow
expect.set_options(timeout=PATIENCE_MS)
N_FINISHED = 2
"""Jobs that the dashboard's fixture has run to their end; those of other tests may be beside them."""


def looked_at(page: Page) -> tuple[float, float]:
    """The steps that the chart shows."""
    start, end = page.evaluate(f"{CHART}.layout.xaxis.range")
    return start, end


def pressed(page: Page, name: str, key: str) -> tuple[float, float]:
    """What the chart shows after a button of its tools was pressed by keyboard, and its finer data are there."""
    before = looked_at(page)
    page.get_by_role("toolbar", name="Chart").get_by_role("button", name=name, exact=True).focus()
    page.keyboard.press(key)
    until(page, f"String({CHART}.layout.xaxis.range) !== '{before[0]:g},{before[1]:g}'")
    return looked_at(page)


def test_the_chart_is_moved_with_the_keyboard(page: Page, dashboard: Any) -> None:
    page.goto(f"/jobs/{dashboard.jobs['finished']}")
    expect(page.locator("#chart.drawn")).to_be_visible()
    first, last = whole = looked_at(page)
    near = pressed(page, "Zoom in", "Enter")
    assert first < near[0] < near[1] < last
    nearer = pressed(page, "Zoom in", "Space")
    assert near[0] < nearer[0] < nearer[1] < near[1]
    earlier = pressed(page, "Earlier steps", "Enter")
    assert earlier[0] < nearer[0]
    assert earlier[1] < nearer[1]
    later = pressed(page, "Later steps", "Enter")
    assert later[0] > earlier[0]
    assert later[1] > earlier[1]
    out = pressed(page, "Zoom out", "Enter")
    assert out[1] - out[0] > later[1] - later[0]
    assert pressed(page, "Whole run", "Enter") == whole


def test_losses_below_zero_have_no_log_axis_to_choose(page: Page, dashboard: Any) -> None:
    def lowered(route: Route) -> None:
        data = route.fetch().json()
        data["loss_range"][0] = -0.5
        route.fulfill(json=data)

    scale = page.get_by_role("button", name="Log loss")
    page.goto(f"/jobs/{dashboard.jobs['finished']}")
    expect(page.locator("#chart.drawn")).to_be_visible()
    expect(scale).to_have_attribute("aria-pressed", "true")
    scale.click()
    expect(scale).to_have_attribute("aria-pressed", "false")
    expect(scale).to_be_enabled()
    page.route("**/curves.json*", lowered)
    page.reload()
    expect(page.locator("#chart.drawn")).to_be_visible()
    expect(scale).to_have_attribute("aria-pressed", "false")
    expect(scale).to_be_disabled()


def test_a_job_without_a_search_has_none_to_look_at(page: Page, dashboard: Any) -> None:
    def unsearched(route: Route) -> None:
        data = route.fetch().json()
        for stage in data["stages"]:
            stage["search"] = stage["start"]
        route.fulfill(json=data)

    latest = page.get_by_role("button", name="Latest search")
    page.goto(f"/jobs/{dashboard.jobs['finished']}")
    expect(page.locator("#chart.drawn")).to_be_visible()
    expect(latest).to_be_enabled()
    page.route("**/curves.json*", unsearched)
    page.reload()
    expect(page.locator("#chart.drawn")).to_be_visible()
    expect(latest).to_be_disabled()


def test_the_list_is_sorted_by_each_column_both_ways(page: Page) -> None:
    page.goto("/?state=finished")
    rows = page.locator("table.jobs tbody tr")
    expect(rows.nth(N_FINISHED - 1)).to_be_visible()
    for name in ("Job", "Loss", "Created"):
        head = page.get_by_role("columnheader", name=name, exact=True)
        orders = {}
        for _ in range(2):
            before = str(head.get_attribute("aria-sort"))
            head.get_by_role("link").press("Enter")
            expect(head).not_to_have_attribute("aria-sort", before)
            orders[head.get_attribute("aria-sort")] = rows.locator("th a").all_text_contents()
        assert set(orders) == {"ascending", "descending"}, name
        assert orders["ascending"] == orders["descending"][::-1], name


def test_one_pages_on_and_back(page: Page) -> None:
    page.goto("/?q=waiting&sort=name")
    names = page.locator("table.jobs tbody th a")
    expect(names).to_have_count(25)
    first = names.all_text_contents()
    expect(page.get_by_role("link", name="Previous")).to_have_count(0)
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_text("Page 2 of 2")).to_be_visible()
    assert not set(first) & set(names.all_text_contents())
    expect(page.get_by_role("link", name="Next")).to_have_count(0)
    page.get_by_role("link", name="Previous").click()
    expect(page.get_by_text("Page 1 of 2")).to_be_visible()
    assert names.all_text_contents() == first


def test_the_list_is_filtered_by_family(page: Page) -> None:
    page.goto("/")
    rows = page.locator("table.jobs tbody tr")
    page.get_by_label("Family").fill("simulated")
    page.locator("select[name=state]").select_option("finished")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Filter").press("Enter")
    expect(rows.nth(N_FINISHED - 1)).to_be_visible()
    expect(page.get_by_label("Family")).to_have_value("simulated")
    page.get_by_label("Family").fill("simul")  # a family is named in full
    page.keyboard.press("Enter")
    expect(page.get_by_text("No job matches")).to_be_visible()


def test_the_theme_goes_round_and_is_kept(windows: SharedWindows) -> None:
    with windows.page(color_scheme="light") as page:
        page.goto("/")
        switch, seen = page.get_by_role("button", name="Theme"), []
        for theme in ("auto", "light", "dark"):
            expect(switch).to_have_text(f"Theme: {theme}")
            seen.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            switch.press("Enter")
        expect(switch).to_have_text("Theme: auto")
        assert seen[0] == seen[1] != seen[2]
        switch.press("Space")
        switch.press("Space")
        page.goto("/?state=finished")
        expect(switch).to_have_text("Theme: dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == seen[2]


def test_every_step_is_in_the_file(page: Page, dashboard: Any, tmp_path: Path) -> None:
    page.goto(f"/jobs/{dashboard.jobs['finished']}")
    with page.expect_download() as download:
        page.get_by_text("Every step (JSON)", exact=True).click()
    download.value.save_as(tmp_path / "data.json")
    data = json.loads((tmp_path / "data.json").read_text())
    rows = [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]
    assert [row["step"] for row in rows] == list(range(1, 4001))
    committed = [row for row in rows if row["committed"]]
    assert [row["committed_step"] for row in committed] == list(range(1, len(committed) + 1))
    assert {"probe", "train"} <= {row["phase"] for row in rows}
    assert all(row["loss"] > 0 and row["lr"] > 0 for row in committed[:-1])


def test_signing_out_closes_every_page(guarded_page: Page, guarded: Any) -> None:
    page = guarded_page
    page.goto("/?state=finished&sort=name")
    heading = page.get_by_role("heading", name="Sign in")
    expect(heading).to_be_visible()
    expect(page.get_by_label("Token")).to_be_focused()
    page.keyboard.type(guarded.tokens["reader"])
    page.get_by_role("button", name="Sign in").press("Enter")
    page.wait_for_url("**/?state=finished&sort=name")
    expect(page.locator("table.jobs tbody tr").nth(N_FINISHED - 1)).to_be_visible()
    assert [cookie["httpOnly"] for cookie in page.context.cookies()] == [True]

    page.get_by_role("button", name="Sign out").press("Enter")
    expect(heading).to_be_visible()
    assert page.context.cookies() == []
    for address in ("/", f"/jobs/{guarded.jobs['finished']}", "/compare?job=none"):
        page.goto(address)
        expect(heading).to_be_visible()
    assert page.request.get(f"/jobs/{guarded.jobs['finished']}/data.json").status == 401
