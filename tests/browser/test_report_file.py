from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser.chromium import PATIENCE_MS, axe_findings, until, watched, window

pytestmark = pytest.mark.slow
expect.set_options(timeout=PATIENCE_MS)


def test_a_saved_report_shows_all_without_a_server(
    page: Page, browser: Browser, dashboard: Any, tmp_path: Path
) -> None:
    page.goto(f"/jobs/{dashboard.jobs['stages']}")
    with page.expect_download() as download:
        page.get_by_text("This page as one file").click()
    file = tmp_path / "report.html"
    download.value.save_as(file)

    with window(browser, "", offline=True) as context, watched(context, "") as report:
        report.goto(file.as_uri())
        expect(report.locator("#chart.drawn")).to_be_visible()
        expect(report.locator(".evidence .main-svg").first).to_be_visible()
        expect(report.get_by_text("went into search")).to_be_visible()
        report.get_by_role("button", name="Zoom in").click()
        until(report, "document.getElementById('chart').dataset.range")
        report.locator("details.stage summary").last.click()
        expect(report.locator("details.stage").last.locator(".probes .main-svg").first).to_be_visible()
        assert axe_findings(report) == []
