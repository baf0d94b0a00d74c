from __future__ import annotations

from typing import Any

import pytest
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.jobs.sample_jobs import history, job_config, stored
from tests.support.jobs.simulated_training import QUICK, Run, SimulatedTraining, config, drive
from tuner_server.core.job import schedule
from tuner_server.history.from_wire import job_and_history
from tuner_server.history.timeline import timeline
from tuner_server.report.report_file import report_html
from tuner_server.rpc import convert, schedule_messages
from tuner_server.web.pages.views import job_view


def response(run: Run) -> pb.GetScheduleResponse:
    """As the server sends it."""
    entries = history(run)
    kept = schedule.committed(entries)
    return pb.GetScheduleResponse(
        job=convert.job_to_pb(stored(run.state)), history=map(schedule_messages.entry_to_pb, entries, kept)
    )


@pytest.fixture(scope="module", params=["budget", "autolrs", "open end", "not begun"])
def run(request: pytest.FixtureRequest) -> Run:
    jobs: dict[str, tuple[Any, int]] = {
        "budget": (job_config("budget"), 10_000),
        "autolrs": (config(800, bounds=False, **QUICK | {"forecaster": "power_law"}), 10_000),
        "open end": (config(None, **QUICK), 20),
        "not begun": (job_config("<not begun>"), 0),
    }
    job, directives = jobs[request.param]
    return drive(job, SimulatedTraining(validates=job.has_validation), max_directives=directives)


def test_the_api_tells_all_that_a_page_says(run: Run) -> None:
    here = job_view(stored(run.state), timeline(history(run)))
    job, entries = job_and_history(response(run))
    there = job_view(job, timeline(entries))
    for field in ("title", "state", "headline", "verdict", "facts", "stages"):
        assert getattr(there, field) == getattr(here, field)


def test_a_report_needs_nothing_beside_itself(run: Run) -> None:
    text = report_html(stored(run.state), timeline(history(run)))
    page = text.partition("<body>")[2].partition("<script")[0]
    assert "src=" not in page.replace("data-src=", "")
    assert "href=" not in page.replace('href="#', ""), "but for places in itself"
    assert "url(" not in text.partition("<style>")[2].partition("</style>")[0]
    assert text.count("<script") == text.count("</script>")
    assert "<not begun>" not in text
