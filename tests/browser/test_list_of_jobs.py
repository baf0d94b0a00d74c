from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from lrpilot.wire.text.job_names import generated
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


@pytest.mark.parametrize("width", [1000, 1200, 1400])
def test_a_job_is_one_line_on_ordinary_screens(page: Page, start_job: Callable[..., Any], width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    start_job("a name that is far too long for the line that it has to share with all the others " * 2).report(8)
    page.goto("/")
    expect(page.locator("table.jobs thead")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    heights = page.evaluate("[...document.querySelectorAll('tbody tr')].map(row => row.getBoundingClientRect().height)")
    assert max(heights) < 50, "a second line would make it higher"
    name = page.locator("tbody tr th a").first
    assert str(name.get_attribute("title")).startswith("a name that is far too long"), "what is cut off is told"
    # At once, as the rows may be made anew in between.
    shown = page.evaluate("document.querySelector('tbody tr th a').getBoundingClientRect().width")
    assert shown >= 80, "as much as it takes to tell it from others"


def test_a_job_whose_client_is_gone_looks_so_and_says_since_when(page: Page) -> None:
    page.goto("/?q=silent")
    badge = page.locator("tbody tr .state")
    expect(badge).to_have_text(re.compile(r"silent for 1\d min"))
    expect(page.locator("tbody tr")).to_have_class("gone")
    expect(page.locator("tbody [data-name='Time left']")).to_have_text("–")
    expect(page.locator("tbody [data-name='LR']")).to_contain_text("last")
    page.goto("/?q=abandoned")
    expect(badge).to_have_text("abandoned for 3 d")


def test_the_strip_counts_jobs_and_leads_to_them(page: Page) -> None:
    page.goto("/")
    strip = page.get_by_role("navigation", name="Jobs by what became of them")
    for words, count in (("abandoned", 1), ("failed", 1), ("need attention", 3)):
        tile = strip.get_by_role("link", name=words)
        expect(tile.locator("b")).to_have_text(str(count))
        tile.click()
        expect(page.locator("tbody tr")).to_have_count(count)
        expect(tile).to_have_attribute("aria-current", "true")
        tile.click()  # once more: all again
        expect(page.locator("tbody tr")).to_have_count(25)
    strip.get_by_role("link", name="went into search").click()
    expect(page.get_by_label("Sort by")).to_have_value("-search")


def test_the_bar_for_comparing_is_in_sight_as_soon_as_a_job_is_ticked(page: Page) -> None:
    page.set_viewport_size({"width": 1200, "height": 600})
    page.goto("/")
    button = page.get_by_role("button", name="Compare the selected")
    below = "document.querySelector('.comparing').getBoundingClientRect().bottom"
    assert page.evaluate(below) > 600, "the list is longer than the window"
    expect(button).to_be_disabled()
    boxes = page.locator(".pick input")
    boxes.nth(0).check()
    assert page.evaluate(below) <= 600
    expect(page.locator("#ticked")).to_have_text("1 job is ticked; tick another one to compare them.")
    boxes.nth(1).check()
    expect(page.locator("#ticked")).to_have_text("2 jobs are ticked.")
    expect(button).to_be_enabled()
    page.get_by_role("button", name="Untick all").click()
    expect(page.locator("#ticked")).to_contain_text("Tick two to 8 jobs")
    assert page.evaluate(below) > 600


def test_a_job_that_trains_says_how_fast_and_how_long_still(page: Page, start_job: Callable[..., Any]) -> None:
    start_job("brisk").report(12)
    page.goto("/?q=brisk")
    expect(page.locator("tbody [data-name='Time left']")).to_have_text(re.compile(r"^\d+ (s|min)\s+\d+/s$"))


def test_a_job_that_was_given_no_name_has_one_that_can_be_said_and_looked_for(
    page: Page, start_job: Callable[..., Any]
) -> None:
    job_id = start_job("").id
    name = generated(job_id)
    page.goto(f"/?q={name}")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
