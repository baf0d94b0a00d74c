"""What the charts show, how they are pointed at, touched, and taken along as images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.support.browser.chromium import CHART, PATIENCE_MS, SharedWindows, axe_findings, trace, until, window

pytestmark = pytest.mark.slow
expect.set_options(timeout=PATIENCE_MS)

VALIDATIONS = trace("validation", "markers")
PHONE = {"width": 380, "height": 760}
MIN_CONTRAST = 3.0
"""The contrast of graphical objects (WCAG 2.2, 1.4.11)."""


def open_job(page: Page, job_id: str) -> None:
    """Until its chart, and the charts of its latest decision, are drawn."""
    page.goto(f"/jobs/{job_id}")
    expect(page.locator("#chart.drawn")).to_be_visible()
    expect(page.locator("details.stage[open] .evidence .main-svg").first).to_be_visible()


@pytest.fixture
def phone(windows: SharedWindows) -> Iterator[Page]:
    with windows.page(viewport=PHONE, has_touch=True, is_mobile=True) as page:
        yield page


def keys(page: Page, selector: str) -> list[str]:
    """What the key beside a chart explains."""
    return [text.split("\n")[-1] for text in page.locator(f"{selector} ~ .keys li").all_inner_texts()]


def test_searches_and_every_other_stage_are_shaded_where_they_lie(page: Page, dashboard: Any) -> None:
    job_id = dashboard.jobs["stages"]
    open_job(page, job_id)
    stages = page.request.get(f"/jobs/{job_id}/curves.json").json()["stages"]
    searches = [[stage["search"], stage["start"]] for stage in stages if stage["start"] > stage["search"]]
    others = [[stage["start"], stage["end"]] for stage in stages if stage["index"] % 2 == 1]
    shapes = page.evaluate(f"{CHART}.layout.shapes.map(shape => [shape.x0, shape.x1])")
    assert sorted(shapes) == sorted(searches + others)
    assert len(searches) > 1


def test_forecasts_stand_beside_the_actual_losses(page: Page, dashboard: Any) -> None:
    job_id = dashboard.jobs["stages"]
    open_job(page, job_id)
    found = page.request.get(f"/jobs/{job_id}/curves.json").json()["forecasts"]
    assert len(found["x"]) > 0
    traces = page.evaluate(
        f"{CHART}.data.filter(t => t.mode === 'markers').map(t => [t.name, t.x, t.y, t.error_y?.array ?? null])"
    )
    stars = next(trace for trace in traces if trace[0] == "actual loss")
    assert stars[1:3] == [found["end"], found["actual"]]
    forecast = next(trace for trace in traces if trace[0].startswith("forecast ±"))
    beyond = next(trace for trace in traces if trace[0] == "forecast beyond the plot")
    assert forecast[3] == found["bar"]
    for i, loss in enumerate(found["loss"]):
        assert (forecast[2][i] == loss) != (beyond[1][i] is not None), "in its place, or pointed at from the edge"
    assert {"actual loss at the end", "forecast for its end, ± 2 standard errors"} <= set(keys(page, "#chart"))
    expect(page.locator("#forecasts")).to_have_text(
        re.compile(rf"\d+ of {len(found['x'])} stages? ended within 2 standard errors")
    )


def test_a_policy_that_measures_says_that_it_forecasts_nothing(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["finished"])
    expect(page.locator("#forecasts")).to_contain_text("Probes are not extrapolated")
    assert not any("forecast" in words for words in [*keys(page, "#chart"), *keys(page, ".evidence")])


def test_keys_explain_what_is_there_and_nothing_else(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["finished"])
    names = "[...document.querySelectorAll('.evidence')].map(e => e.data.filter(t => t.x.length).map(t => t.name))[0]"
    traces, explained = page.evaluate(names), keys(page, ".evidence")
    assert ("diverged" in traces) == ("diverged" in explained)
    assert ("beyond the plot" in traces) == ("goes on beyond the plot" in explained)
    assert "committed LR" in explained
    assert "actual loss at the end" not in explained
    broken = page.evaluate(f"{CHART}.data.some(t => t.name === 'diverged' && t.x.length)")
    assert ("diverged" in keys(page, "#chart")) == broken
    assert "every other stage" not in keys(page, "#chart"), "there is one"


def test_near_by_the_key_explains_what_is_seen_there(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["stages"])
    assert {"actual loss at the end", "forecast along a stage"} <= set(keys(page, "#chart"))
    first_search = "{'xaxis.range[0]': 1, 'xaxis.range[1]': 20}"
    page.evaluate(f"Plotly.relayout({CHART}, {first_search})")
    until(page, f"{CHART}.dataset.range === '1 20'")
    expect(page.locator("#chart ~ .keys li", has_text="forecast")).to_have_count(0)
    expect(page.locator("#chart ~ .keys li", has_text="actual loss")).to_have_count(0)
    expect(page.locator("#chart ~ .keys li", has_text="search, rolled back")).to_have_count(1)


def test_the_way_to_the_committed_lr_and_the_acquisition_are_named(page: Page, dashboard: Any) -> None:
    job_id = dashboard.jobs["finished"]
    open_job(page, job_id)
    data = page.request.get(f"/jobs/{job_id}/stages/0.json").json()
    texts = page.evaluate("document.querySelector('.evidence').layout.annotations.map(a => a.text)")
    assert data["corrected"]["ratio"] in texts
    explained = keys(page, ".evidence")
    assert any("worth trying" in words and "log expected improvement" in words for words in explained)
    assert any("for the longer run" in words for words in explained)


def test_a_probe_has_one_colour_in_both_charts(page: Page, dashboard: Any) -> None:
    job_id = dashboard.jobs["finished"]
    open_job(page, job_id)
    data = page.request.get(f"/jobs/{job_id}/stages/0.json").json()
    dots = page.evaluate("document.querySelector('.evidence').data.find(t => t.name === 'candidate').marker.color")
    lines = page.evaluate(
        "document.querySelector('.probes').data.filter(t => t.mode === 'lines').map(t => [t.name, t.line.color])"
    )
    assert len(set(dots)) == len(data["candidate_lr"]) > 2
    for probe in data["probes"]:
        dot = dots[data["candidate_lr"].index(probe["lr"])]
        assert {colour for name, colour in lines if name.split(",")[0] == probe["name"]} == {dot}


def test_means_show_the_way_until_one_looks_at_single_steps(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["finished"])
    mean, single = page.evaluate(f"[{trace('mean loss')}, {trace('loss')}]")
    assert len(mean["x"]) > 50
    assert single["opacity"] < 0.5 < mean["line"]["width"]
    assert single["line"]["width"] < mean["line"]["width"]
    explained = keys(page, "#chart")
    assert [words for words in explained if words.startswith("committed, ")] == explained[:2]
    for _ in range(4):
        page.get_by_role("button", name="Zoom in").click()
    until(page, f"!{trace('mean loss')}")
    assert page.evaluate(f"{trace('loss')}.opacity") == 1
    assert keys(page, "#chart")[0] == "committed"


def test_ticks_are_numbers_of_one_size(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["finished"])
    sizes = "[...document.querySelectorAll('#chart .ytick text, #chart .y2tick text')].map(e => e.style.fontSize)"
    assert len(set(page.evaluate(sizes))) == 1
    labels = page.locator("#chart .y2tick text").all_text_contents()
    assert len(labels) >= 3
    for label in labels:
        assert float(label.replace("\u2212", "-")) > 0


def test_the_acquisition_is_filled_where_it_is_high(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["finished"])
    base, curve = page.evaluate("document.querySelector('.evidence').data.filter(t => t.yaxis === 'y2')")
    low, high = page.evaluate("document.querySelector('.evidence').layout.yaxis2.range")
    assert curve["fill"] == "tonexty"
    assert set(base["y"]) == {low}, "from the lower end of its axis"
    assert low < max(curve["y"]) < high


def said_at(page: Page, step: float, axis: str) -> str:
    """What is said near a step, which may be off by a pixel's steps, in the plot of losses (`yaxis`) or LRs."""
    page.evaluate(f"{CHART}.scrollIntoView({{block: 'center'}})")
    x, y = page.evaluate(
        f"(() => {{ const box = {CHART}.getBoundingClientRect(), l = {CHART}._fullLayout;"
        f" return [box.x + l.xaxis._offset + l.xaxis.d2p({step}), box.y + l.{axis}._offset + 20]; }})()"
    )
    page.mouse.move(0, 0)
    expect(page.locator("#chart .hoverlayer .legend")).to_have_count(0)
    page.mouse.move(x - 1, y)
    page.mouse.move(x, y)
    expect(page.locator("#chart .hoverlayer .legend")).to_have_count(1)
    return page.locator("#chart .hoverlayer").text_content() or ""


def test_at_a_step_are_its_loss_and_its_lr(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["finished"])
    validated: list[float] = page.evaluate(f"{VALIDATIONS}.x")
    for axis in ("yaxis", "yaxis2"):
        text = said_at(page, validated[2] + 0.5 * (validated[3] - validated[2]), axis)
        found = re.match(r"step ([\d\u202f]+)loss ([\d.]+)LR ([\d.]+)$", text.strip())
        assert found is not None, text
        step = int(found[1].replace("\u202f", ""))
        rows = page.evaluate(f"{CHART}.data.filter(t => ['loss', 'loss: LR'].includes(t.name)).map(t => [t.x, t.y])")
        assert [f"{ys[xs.index(step)]:.3g}" for xs, ys in rows] == [f"{float(found[2]):.3g}", f"{float(found[3]):.3g}"]


def test_a_validation_says_at_which_step_it_was(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["finished"])
    step = int(page.evaluate(f"{VALIDATIONS}.x")[2])
    text = said_at(page, step, "yaxis")
    assert re.search(rf"validation [\d.]+ after step {step:,}".replace(",", "\u202f"), text), text


def test_the_last_validation_is_whole(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["finished"])
    assert page.evaluate(f"{VALIDATIONS}.cliponaxis") is False
    assert page.evaluate(f"{VALIDATIONS}.x.at(-1) === {CHART}.layout.xaxis.range[1]")


def saved(page: Page, kind: str, folder: Path) -> Path:
    """An image of the chart, under the name that it is given."""
    with page.expect_download() as download:
        page.get_by_role("button", name=kind, exact=True).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_an_image_from_the_dark_is_for_white_paper(dark_page: Page, dashboard: Any, tmp_path: Path) -> None:
    open_job(dark_page, dashboard.jobs["finished"])
    path = saved(dark_page, "PNG", tmp_path)
    assert path.name == "finished.png"
    with Image.open(path) as image:
        pixels = image.convert("RGBA")
    assert pixels.getchannel("A").getextrema() == (255, 255), "opaque"
    width, height = pixels.size
    for corner in ((0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)):
        assert pixels.getpixel(corner) == (255, 255, 255, 255)
    colours = pixels.convert("RGB").getcolors(width * height)
    assert colours is not None
    counts = {colour: count for count, colour in colours}
    for light in ((0x1B, 0x21, 0x29), (0x0B, 0x63, 0xA5), (0x00, 0x79, 0x5A)):
        assert counts.get(light, 0) > 20, "text, loss and validation in the colours of the light"
    assert (0x6C, 0xB6, 0xF0) not in counts, "and none of the dark"

    text = saved(dark_page, "SVG", tmp_path).read_text()
    for words in ("finished", "search loss", "validation"):
        assert f">{words}<" in text, "a title, and a legend"


def test_an_image_of_a_comparison_names_its_jobs(page: Page, dashboard: Any, tmp_path: Path) -> None:
    jobs = dashboard.jobs
    page.goto(f"/compare?job={jobs['finished']}&job={jobs['twin']}")
    expect(page.locator("#chart.drawn")).to_be_visible()
    path = saved(page, "SVG", tmp_path)
    assert path.name == "finished-twin.svg"
    text = path.read_text()
    for words in ("finished, twin", "finished", "twin"):
        assert f">{words}<" in text


def drag_by_finger(page: Page, selector: str, distance: float) -> float:
    """Puts a finger on the middle of something and moves it up. By how much the page scrolled."""
    page.evaluate(f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})")
    box, before = page.locator(selector).bounding_box(), page.evaluate("scrollY")
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.context.new_cdp_session(page)
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for i in range(1, 11):
        point = {"x": x, "y": y - distance * i / 10}
        session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    session.detach()
    scrolled: float = page.evaluate("scrollY") - before
    return scrolled


def test_a_finger_on_a_chart_scrolls_the_page(phone: Page, dashboard: Any) -> None:
    open_job(phone, dashboard.jobs["stages"])
    for selector in (".facts", "#chart", "details.stage[open] .evidence"):
        assert drag_by_finger(phone, selector, 150.0) > 50.0, selector
    assert phone.evaluate(f"{CHART}.dataset.range || ''") == "", "it did not zoom"


def test_the_tools_are_one_row_on_a_phone(phone: Page, dashboard: Any) -> None:
    open_job(phone, dashboard.jobs["finished"])
    boxes = [button.bounding_box() for button in phone.locator(".tools button").all()]
    assert len({round(box["y"]) for box in boxes if box}) == 1
    assert all(box and box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"] for box in boxes)
    phone.get_by_role("button", name="Zoom in").tap()
    until(phone, f"{CHART}.dataset.range")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of `rgb(r, g, b)`."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_decision_charts_can_be_seen_in_the_dark(dark_page: Page, dashboard: Any) -> None:
    page = dark_page
    open_job(page, dashboard.jobs["stages"])
    card = luminance(page.evaluate("getComputedStyle(document.querySelector('details.stage')).backgroundColor"))
    assert card < 0.05
    for chart in ("probes", "evidence"):
        colours = page.evaluate(
            f"[...document.querySelectorAll('.{chart}')][0].data.flatMap(t => [t.marker?.color, t.line?.color]).flat()"
            ".filter(c => c?.startsWith('rgb('))"
        )
        assert len(colours) > 2
        for colour in set(colours):
            assert (luminance(colour) + 0.05) / (card + 0.05) >= MIN_CONTRAST, (chart, colour)
    assert axe_findings(page) == []


def test_a_chart_that_can_not_be_drawn_says_so(browser: Browser, dashboard: Any) -> None:
    # Unwatched: Chromium itself reports what it could not load.
    with window(browser, dashboard.url) as context:
        page = context.new_page()
        page.route("**/plotly.min.js*", lambda route: route.abort())
        page.goto(f"/jobs/{dashboard.jobs['finished']}")
        expect(page.get_by_role("alert")).to_contain_text("can't be drawn")
        expect(page.locator("svg.overview")).to_be_visible()


def test_jobs_beyond_the_fourth_are_told_apart_by_dashes_too(page: Page, dashboard: Any) -> None:
    names = ["finished", "twin", "stages", "failed", "waiting 00"]
    page.goto("/compare?" + "&".join(f"job={dashboard.jobs[name]}" for name in names))
    expect(page.locator("#chart.drawn")).to_be_visible()
    dashes = page.evaluate(f"{CHART}.data.filter(t => t.name.endsWith(': LR')).map(t => t.line.dash)")
    assert [dash == "solid" for dash in dashes] == 4 * [True] + [False]
    styles = page.evaluate("[...document.querySelectorAll('.key')].map(e => getComputedStyle(e).borderTopStyle)")
    assert styles == 4 * ["solid"] + ["dashed"]


def test_on_paper_charts_fit_and_are_light(dark_page: Page, dashboard: Any) -> None:
    page = dark_page
    open_job(page, dashboard.jobs["stages"])
    page.get_by_role("button", name="Theme").click(click_count=2)  # dark, whatever the system prefers
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.emulate_media(media="print")
    expect(page.locator(".tools")).to_be_hidden()
    expect(page.locator("#cancel")).to_be_hidden()
    assert luminance(page.evaluate("getComputedStyle(document.querySelector('.headline')).color")) < 0.05, "on white"
    assert "invert" in page.evaluate("getComputedStyle(document.querySelector('#chart .main-svg')).filter")
    page.evaluate("document.body.style.width = '680px'")  # as wide as paper, and no resize is heard of
    for selector in ("#chart", "details.stage[open] .evidence"):
        box = page.locator(selector).first.bounding_box()
        drawing = page.locator(f"{selector} .nsewdrag").first.bounding_box()
        assert box
        assert drawing
        assert drawing["x"] >= box["x"]
        assert drawing["x"] + drawing["width"] <= box["x"] + box["width"]


def test_what_exploded_is_pointed_at_from_the_edge_and_stretches_no_axis(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["exploding"])
    top = page.evaluate(f"{CHART}.layout.yaxis.range[1]")
    assert top < 2, "on a logarithmic axis: below a loss of 100"
    peak = page.evaluate(f"{trace('loss beyond the plot', 'markers')}.text")
    assert any("loss 1000000 at step" in words for words in peak)
    assert "goes on beyond the plot: point at it to see how far" in keys(page, "#chart")


def test_a_job_without_steps_says_why_its_chart_is_empty_and_until_when(page: Page, dashboard: Any) -> None:
    page.goto(f"/jobs/{dashboard.jobs['waiting 01']}")
    expect(page.locator("#chart > .empty")).to_have_text(
        re.compile(r"No steps have been reported yet\. The chart begins with the first report, after \d+ steps\.")
    )
