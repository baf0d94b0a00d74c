from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lrpilot
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser.chromium import CHART, PATIENCE_MS, axe_findings, trace, until, watched, window
from tests.support.jobs.annealing_training import AnnealingTraining
from tuner_server.core.messages import Phase

pytestmark = pytest.mark.slow
expect.set_options(timeout=PATIENCE_MS)

SEARCH_LOSS, LOSS = trace("search loss"), trace("loss")
SEARCH_LR, LR = trace("search loss: LR"), trace("loss: LR")


def open_job(page: Page, job_id: str) -> None:
    """Until its chart is drawn, or it is said that there is nothing to draw."""
    page.goto(f"/jobs/{job_id}")
    expect(page.locator("#chart.drawn, #chart > .empty")).to_be_visible()


def shown_range(page: Page) -> list[float]:
    """The range of both plots, which have one x axis."""
    assert page.evaluate(f"{CHART}.data.every(trace => (trace.xaxis || 'x') === 'x')")
    found: list[float] = page.evaluate(f"{CHART}.layout.xaxis.range")
    return found


def test_what_happened_is_told_without_any_script(browser: Browser, dashboard: Any) -> None:
    with (
        window(browser, dashboard.url, java_script_enabled=False) as context,
        watched(context, dashboard.url) as page,
    ):
        page.goto(f"/jobs/{dashboard.jobs['finished']}")
        expect(page.get_by_text("went into search")).to_be_visible()
        expect(page.get_by_text("probes tried LRs from")).to_be_visible()
        expect(page.locator("svg.overview")).to_be_visible()
        expect(page.locator("table.candidates").first).to_be_visible()


def test_committed_and_search_steps_stages_and_decisions_are_drawn(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["stages"])
    assert page.evaluate(f"{SEARCH_LR}.x.length") > 10
    assert page.evaluate(f"{LR}.x.length") > 10
    assert page.evaluate(f"{CHART}.layout.shapes.length") >= 3, "searches, and every other stage"

    first = page.locator("details.stage").last
    first.locator("summary").click()
    for chart in ("probes", "evidence"):
        expect(first.locator(f".{chart} .main-svg").first).to_be_visible()
    names = page.evaluate("[...document.querySelectorAll('.evidence')].at(-1).data.map(trace => trace.name)")
    assert {"expected loss", "acquisition", "candidate", "actual loss"} <= set(names)
    expect(first).to_contain_text("the actual loss was")


def test_a_stage_says_what_it_cost_before_it_is_opened(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["stages"])
    closed = page.locator("details.stage:not([open]) summary")
    assert closed.count() > 0
    for words in closed.all_inner_texts():
        assert re.search(r"LR [\d.]+\s+\d.* of search, then \d.* committed, loss [\d.]+", words), words


def test_a_zoom_moves_both_plots_and_brings_finer_data(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["finished"])
    whole = shown_range(page)
    assert page.evaluate(f"{LOSS}.x.length") < whole[1], "thinned"

    box = page.locator("#chart .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.5, steps=4)
    page.mouse.up()
    until(page, f"{CHART}.dataset.range")
    start, end = shown_range(page)
    assert 0.45 * whole[1] < start < end < 0.65 * whole[1]
    until(page, f"{LOSS}.x[1] - {LOSS}.x[0] === 1")  # every step

    page.get_by_role("button", name="Whole run").click()
    until(page, f"!{CHART}.dataset.range && {LOSS}.x.at(-1) === {whole[1]}")
    assert shown_range(page) == whole


def test_the_loss_is_seen_on_a_logarithmic_axis_or_on_a_linear_one(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["finished"])
    losses = page.evaluate(f"{LOSS}.y.filter(loss => loss !== null)")
    ends = {"linear": (min(losses), max(losses)), "log": (math.log10(min(losses)), math.log10(max(losses)))}
    button = page.get_by_role("button", name="Log loss")
    for kind, pressed in (("log", "true"), ("linear", "false"), ("log", "true")):
        until(page, f"{CHART}._fullLayout.yaxis.type === '{kind}'")
        expect(button).to_have_attribute("aria-pressed", pressed)
        low, high = page.evaluate(f"{CHART}._fullLayout.yaxis.range")
        assert low <= ends[kind][0] < ends[kind][1] <= high, "all of it is seen"
        assert ends[kind][1] - ends[kind][0] > 0.5 * (high - low), "and fills the plot"
        button.click()


def test_the_latest_search_is_gone_to_at_once(page: Page, dashboard: Any) -> None:
    job_id = dashboard.jobs["stages"]
    open_job(page, job_id)
    whole = shown_range(page)
    searches = [
        (stage["search"], stage["start"])
        for stage in page.request.get(f"/jobs/{job_id}/curves.json").json()["stages"]
        if stage["start"] > stage["search"]
    ]
    assert len(searches) > 1
    page.get_by_role("button", name="Latest search").click()
    until(page, f"{CHART}.dataset.range")
    start, end = shown_range(page)
    first, last = searches[-1]
    assert whole[0] < start <= first < last <= end
    assert start > searches[-2][1], "and no other"
    assert last - first > 0.7 * (end - start), "it fills the plot"
    until(page, f"{SEARCH_LOSS}.x[1] - {SEARCH_LOSS}.x[0] === 1")  # every step


def test_a_running_job_is_followed(page: Page, start_job: Callable[..., Any]) -> None:
    job = start_job("running", total_steps=6000)
    open_job(page, job.id)
    expect(page.locator("#state")).to_have_text("searching")
    expect(page.get_by_text("Cancel tuning")).to_be_visible()

    job.report(2)
    expect(page.locator("details.stage").first).to_contain_text("2 probes judged")
    job.report_until(Phase.TRAIN)
    expect(page.locator("#state")).to_have_text("training")
    job.report(3)
    expect(page.locator("#summary")).to_contain_text("Training at LR")
    expect(page.locator("#stage-0-head")).to_contain_text("Stage 1")
    until(page, f"{LR}.x.length > 2")

    # What is looked at stays when something new comes.
    page.get_by_role("button", name="Zoom in").click()
    before = shown_range(page)
    steps = page.locator(".fact").filter(has_text="Progress").locator(".note").text_content()
    job.report()
    expect(page.locator(".fact").filter(has_text="Progress").locator(".note")).not_to_have_text(str(steps))
    assert shown_range(page) == before

    job.report_until(Phase.STOP)
    expect(page.locator("#state")).to_have_text("finished")
    expect(page.locator("#connection")).to_have_text("ended")
    expect(page.get_by_text("Cancel tuning")).to_have_count(0)


def test_what_annealing_now_would_give_appears_once_the_losses_tell_it(
    page: Page, start_job: Callable[..., Any]
) -> None:
    job = start_job("planted", training=AnnealingTraining(validates=True))
    open_job(page, job.id)
    heading = page.get_by_role("heading", name="What would annealing now give?")
    expect(heading).to_have_count(0)
    job.report_until(Phase.TRAIN)
    job.report(15)
    expect(heading).to_be_visible()
    fact = page.locator("#outlook .fact").filter(has_text="Annealing now")
    expect(fact).to_contain_text("±")
    expect(fact.locator(".note")).to_have_text(re.compile(r"training loss after \d+ steps, falling .* along a line"))
    assert axe_findings(page) == []
    job.report_until(Phase.STOP)
    expect(heading).to_have_count(0)


def test_everything_can_be_taken_along(page: Page, dashboard: Any, tmp_path: Path) -> None:
    open_job(page, dashboard.jobs["finished"])
    for name in ("Schedule (JSON)", "Every step (CSV)", "Every step (JSON)", "PNG", "SVG"):
        with page.expect_download() as download:
            page.get_by_text(name, exact=True).click()
        download.value.save_as(tmp_path / name)
    schedule = lrpilot.Schedule.load(tmp_path / "Schedule (JSON)")
    with (tmp_path / "Every step (CSV)").open() as file:
        lrs = [float(row["lr"]) for row in csv.DictReader(file) if row["committed"] == "1"]
    assert lrs == schedule.lrs()
    assert (tmp_path / "PNG").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "SVG").read_text()[:500]


def test_tuning_is_cancelled_after_a_second_thought(page: Page, start_job: Callable[..., Any]) -> None:
    job = start_job("to be cancelled")
    job.report(2)
    open_job(page, job.id)
    button = page.get_by_role("button", name="Cancel the tuning of to be cancelled")
    expect(button).to_be_hidden()
    page.get_by_text("Cancel tuning…").click()
    button.click()
    expect(page.locator("#state")).to_have_text("cancelled")
    job.report()
    assert job.directive.phase is Phase.STOP


def test_a_plan_is_changed_in_a_form_and_shown_as_waiting_until_it_takes_effect(
    page: Page, start_job: Callable[..., Any]
) -> None:
    job = start_job("to be extended")
    job.report_until(Phase.TRAIN)
    open_job(page, job.id)
    steps = page.get_by_label("Run on for")
    expect(steps).to_be_hidden()
    page.get_by_text("Change the plan…").click()
    assert axe_findings(page) == []
    steps.fill("500")
    page.get_by_role("button", name="Extend").click()
    expect(page.locator("#summary")).to_contain_text("Waiting for the next report: to end 500 steps later")
    page.get_by_text("Change the plan…").click()
    page.get_by_label("Plan anew, because").fill("the <second> data set")
    page.keyboard.press("Enter")
    expect(page.locator("#plan-changes")).to_contain_text("the <second> data set")
    while job.directive.change is None:
        job.report()
    took_effect = page.locator("#plan-changes li", has_text="After")
    expect(took_effect).to_contain_text(
        re.compile(r"the end moved to step 4\s500 \(somebody at the server asked for it\)")
    )
    expect(page.locator("#chart.drawn")).to_be_visible()
    marks = f"{CHART}.data.find((trace) => trace.name === 'the plan changed').text"
    until(page, f"{marks}.length > 0")  # the chart follows the words
    texts = page.evaluate(marks)
    assert re.fullmatch(r"the end moved to step 4\s500", texts[0])
    expect(page.locator(".keys").first).to_contain_text("the plan changed")


def test_a_plan_is_changed_without_any_script(browser: Browser, dashboard: Any, start_job: Callable[..., Any]) -> None:
    job = start_job("to be annealed without a script")
    with window(browser, dashboard.url, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"/jobs/{job.id}")
        page.get_by_text("Change the plan…").click()
        page.get_by_label("Anneal over").fill("70")
        page.get_by_role("button", name="Anneal and end").click()
        expect(page.locator("#plan-changes")).to_contain_text("to anneal over 70 steps")
        expect(page.locator("#summary")).to_contain_text("Waiting for the next report")


def test_steps_that_are_none_are_not_sent(page: Page, start_job: Callable[..., Any]) -> None:
    job = start_job("to be annealed")
    open_job(page, job.id)
    page.get_by_text("Change the plan…").click()
    page.get_by_label("Anneal over").fill("0")
    page.get_by_role("button", name="Anneal and end").click()
    assert page.url.endswith(f"/jobs/{job.id}")
    expect(page.locator("#plan-changes li")).to_have_count(0)
    page.get_by_label("Anneal over").fill("100")
    page.get_by_role("button", name="Anneal and end").click()
    expect(page.locator("#plan-changes li")).to_have_count(1)


def test_a_failed_job_says_why(page: Page, dashboard: Any) -> None:
    open_job(page, dashboard.jobs["failed"])
    expect(page.locator("#summary")).to_contain_text("float division by zero")
    expect(page.locator(".verdict.bad")).to_be_visible()


def test_a_job_that_nobody_trains_is_not_said_to_go_well(page: Page, dashboard: Any) -> None:
    page.goto(f"/jobs/{dashboard.jobs['silent']}")
    expect(page.locator("#state")).to_have_text(re.compile(r"silent for 1\d minutes"))
    verdict = page.locator(".fact.verdict")
    expect(verdict.locator("dd").first).to_have_text(re.compile(r"Silent for 1\d minutes"))
    expect(verdict).not_to_have_class(re.compile("good"))
    expect(page.locator("#summary .facts")).to_contain_text("Last LR")
    page.goto(f"/compare?job={dashboard.jobs['silent']}&job={dashboard.jobs['abandoned']}")
    expect(page.locator("table.compared tbody tr").nth(1)).to_contain_text("Abandoned for 3 days")


def test_the_first_sentences_say_what_led_to_the_lr_and_lead_to_the_reasons(page: Page, dashboard: Any) -> None:
    page.goto(f"/jobs/{dashboard.jobs['finished']}")
    expect(page.locator(".headline")).to_contain_text(re.compile(r"\d+ probes, of LRs from .+ to .+, led to "))
    page.get_by_role("link", name="Why?").click()
    expect(page.get_by_role("heading", name="Why each LR was chosen")).to_be_in_viewport()
