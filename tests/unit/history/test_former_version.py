"""Jobs that the former version stored, whose decisions tell less, are told as they were."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lrpilot.wire.messages.schedule_parts import merged
from markupsafe import escape

from tests.support.jobs.sample_jobs import history, stored
from tests.support.jobs.simulated_training import Exchange, Run
from tests.support.repository import old_databases
from tuner_server.core.job.state import JobState
from tuner_server.core.messages import Decision, Directive, Report
from tuner_server.history.from_wire import job_and_history
from tuner_server.history.thinning import Window
from tuner_server.history.timeline import timeline
from tuner_server.history.words.reasons import actual_end
from tuner_server.report.report_file import report_html
from tuner_server.rpc.schedule_messages import schedule_to_pb
from tuner_server.service.family import optimum_of
from tuner_server.storage import KnownHistory, StoredJob, open_storage
from tuner_server.web.charts.evidence import stage_curves
from tuner_server.web.charts.job_chart import job_chart
from tuner_server.web.pages.views import job_view

FILE = Path(__file__).parents[2] / "data" / "former_decisions.json.gz"
"""Jobs as JSON, and what their pages said. Written at c46c5b4, the last commit at which decisions told neither what was
asked, nor what moved an LR, nor what was extrapolated; the sentences were turned into the usual order since."""
NAMES = ("budget, lowered", "autolrs, corrected", "autolrs, kappa 2")
REWORDED = {
    r"expects its small run to end at (.*?); the run is held to that": (
        r"expects a probe at the best LR to end at \1; the run, which is longer, is held to that"
    ),
    r"expected of its small run": "expected of a probe at the best LR",
}
"""Sentences that have had other words since."""


class Former(NamedTuple):
    """A job of the former version."""

    job: StoredJob
    entries: KnownHistory
    said: dict[str, Any]


@pytest.fixture(scope="module", params=NAMES)
def former(request: pytest.FixtureRequest) -> Former:
    found = json.loads(gzip.decompress(FILE.read_bytes()))[request.param]
    exchanges = [
        Exchange(
            Directive.model_validate_json(json.dumps(directive)),
            None if decision is None else Decision.model_validate_json(json.dumps(decision)),
            None if report is None else Report.model_validate_json(json.dumps(report)),
        )
        for directive, decision, report in found["exchanges"]
    ]
    state = JobState.model_validate_json(json.dumps(found["state"]))
    said = json.dumps(found["said"])
    for former_words, words in REWORDED.items():
        said = re.sub(former_words, words, said)
    return Former(stored(state), history(Run(state, exchanges)), json.loads(said))


def _said(job: StoredJob, entries: KnownHistory) -> dict[str, Any]:
    """What its page and its charts say in words."""
    found = timeline(entries)
    view, charts = job_view(job, found), [stage_curves(stage, job.state.config) for stage in found.stages]
    return {
        "headline": view.headline,
        "verdict": view.verdict.why,
        "forecasts": view.forecasts,
        "why": [stage.why for stage in reversed(view.stages)],
        "acquisition": [
            acquisition and acquisition["name"] for acquisition in (chart["acquisition"] for chart in charts)
        ],
        "way": [corrected and corrected["way"] for corrected in (chart["corrected"] for chart in charts)],
    }


def test_the_file_holds_what_it_is_for(former: Former) -> None:
    decisions = [entry.decision for entry in former.entries if entry.decision is not None]
    assert not any(decision.asked or decision.extrapolation for decision in decisions)
    assert not any(decision.drawn_to or decision.lowered_by for decision in decisions)
    assert any(decision.posterior for decision in decisions)


def test_its_page_says_what_it_said(former: Former) -> None:
    assert _said(former.job, former.entries) == former.said


def test_what_the_api_gives_of_it_says_the_same(former: Former) -> None:
    job, entries = job_and_history(merged(schedule_to_pb(former.job, former.entries, full=True)))
    assert _said(job, entries) == former.said


def test_its_report_can_be_made_and_only_the_extrapolated_curve_is_missing(former: Former) -> None:
    found = timeline(former.entries)
    chart = job_chart(found, Window(0, found.n_steps, 500))["forecasts"]
    assert chart["curve"] == {"x": [], "y": []}
    assert chart["x"] == chart["end"]
    assert len(chart["loss"]) == sum(actual_end(stage) is not None for stage in found.stages)
    report = report_html(former.job, found)
    assert all(str(escape(sentence)) in report for sentence in former.said["why"])


@pytest.fixture(scope="module", params=old_databases.FILES)
def old_jobs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Former]]:
    """All jobs of a file of an earlier schema version."""
    file = tmp_path_factory.mktemp("old") / "old.db"
    shutil.copy(old_databases.FILES[request.param], file)
    with open_storage(f"sqlite:///{file}") as storage:
        jobs = storage.page("default", 100).jobs
        yield [Former(job, KnownHistory(storage.history(job.id, losses=True)), {}) for job in jobs]


def test_jobs_of_earlier_schema_versions_are_told_here_and_elsewhere(old_jobs: list[Former]) -> None:
    for job, entries, _ in old_jobs:
        job_elsewhere, entries_elsewhere = job_and_history(merged(schedule_to_pb(job, entries, full=True)))
        assert _said(job_elsewhere, entries_elsewhere) == _said(job, entries)


def test_finished_jobs_of_earlier_schema_versions_say_what_they_said(old_jobs: list[Former]) -> None:
    said = {job.state.config.name: _said(job, entries) for job, entries, _ in old_jobs}
    assert said["budget-finished"]["why"] == ["400 steps are too few for a search, so they have the LR that was set."]
    assert said["autolrs-finished"]["acquisition"] == ["lower confidence bound, sign turned (κ = 1×10⁶)"] * 4
    assert said["autolrs-finished"]["why"][0] == (
        "3 probes tried LRs from 0.001 to 0.223. LR 0.0157 forecast the lowest loss, 2.07. Next came 0.223 with 2.19. "
        "The forecast for its end was 2.07 ± 0.28; the actual loss was 1.94, 0.4 standard errors below."
    )
    assert said["autolrs-finished"]["forecasts"] == (
        "4 of 4 stages ended within 2 standard errors of the winner's forecast."
    )


def test_a_family_can_read_what_they_left(old_jobs: list[Former]) -> None:
    assert {optimum_of(job.state) for job, _, _ in old_jobs if job.state.config.policy == "autolrs"} == {None}
