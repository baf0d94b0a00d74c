from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser.chromium import CHART, PATIENCE_MS, until

pytestmark = pytest.mark.slow
expect.set_options(timeout=PATIENCE_MS)


def test_jobs_are_listed_filtered_sorted_and_paged(page: Page) -> None:
    page.goto("/")
    rows = page.locator("table.jobs tbody tr")
    expect(rows).to_have_count(25)
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_text("Page 2 of 2")).to_be_visible()

    page.get_by_label("Name or id").fill("waiting 0")
    page.get_by_role("button", name="Filter").click()
    expect(rows).to_have_count(10)

    page.get_by_role("link", name="Job", exact=True).click()
    expect(rows.first).to_contain_text("waiting 00")
    expect(page.get_by_role("columnheader", name="Job")).to_have_attribute("aria-sort", "ascending")
    page.get_by_role("link", name="Job", exact=True).click()
    expect(rows.first).to_contain_text("waiting 09")

    page.get_by_label("Name or id").fill("no such job")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No job matches")).to_be_visible()


def test_where_there_are_cards_and_no_heads_the_form_sorts(page: Page) -> None:
    page.set_viewport_size({"width": 800, "height": 800})
    page.goto("/?q=waiting 0")
    expect(page.locator("table.jobs thead")).to_be_hidden()
    page.get_by_label("Sort by").select_option("name")
    page.get_by_role("button", name="Filter").click()
    rows = page.locator("table.jobs tbody tr")
    expect(rows).to_have_count(10)
    expect(rows.first).to_contain_text("waiting 00")
    expect(page.get_by_label("Sort by")).to_have_value("name")


def test_a_table_with_all_its_columns_fits_a_small_desktop(page: Page, start_job: Callable[..., Any]) -> None:
    page.set_viewport_size({"width": 1280, "height": 800})
    start_job("a_name_without_any_break_that_a_line_could_be_broken_at_" * 3).report(8)
    page.goto("/")
    expect(page.locator("table.jobs thead")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    right = "document.querySelector('{}').getBoundingClientRect().right"
    assert page.evaluate(right.format("table.jobs")) <= page.evaluate(right.format("form.filter"))


def test_a_row_says_how_its_job_is(page: Page) -> None:
    page.goto("/?state=finished&sort=name")
    row = page.locator("table.jobs tbody tr").first
    for text in ("finished", "budget", "100%"):
        expect(row).to_contain_text(text)
    spark = row.locator("img")
    spark.scroll_into_view_if_needed()
    until(page, "document.querySelector('.spark img').naturalWidth > 0")


def test_the_list_follows_its_jobs_and_ticks_stay(page: Page, start_job: Callable[..., Any]) -> None:
    page.goto("/?q=follow")
    expect(page.locator("#connection")).to_have_text("live")
    job = start_job("follow me")
    row = page.locator("table.jobs tbody tr")
    expect(row).to_contain_text("follow me")
    expect(row).to_contain_text("0%")
    row.get_by_role("checkbox").check()

    job.report(12)
    expect(row.locator("[data-name=Search]")).not_to_have_text("0%")
    expect(row.get_by_role("checkbox")).to_be_checked()


def test_selected_jobs_are_compared(page: Page) -> None:
    page.goto("/?state=finished")
    for name in ("finished", "twin"):
        page.get_by_role("checkbox", name=f"Compare {name}").check()
    page.get_by_role("button", name="Compare the selected").click()
    expect(page.locator("table.compared tbody tr")).to_have_count(2)
    expect(page.locator("#chart.drawn")).to_be_visible()
    assert page.evaluate(f"{CHART}.data.filter(t => t.name.endsWith(': LR')).length") == 2

    page.goto("/compare")
    expect(page.get_by_text("Choose at least two jobs")).to_be_visible()
