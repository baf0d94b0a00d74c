"""Whatever became of a job, all that shows it can be made, and has its books."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
import pytest
from lrpilot.schedule.notebook import schedule_html
from lrpilot.schedule.schedule import Schedule
from lrpilot.wire import schedule_file
from lrpilot.wire.messages.schedule_parts import merged
from rich.console import Console

from tests.support.jobs.broken_promises import DyingTraining, OverfittingTraining
from tests.support.jobs.incomplete_rollback import LeakingTraining
from tests.support.jobs.sample_jobs import NOW, history, job_config, stored
from tests.support.jobs.simulated_training import QUICK, NoNumbers, Run, SimulatedTraining, config, drive
from tuner_server.cli.picture import laid_out, picture
from tuner_server.core.job import machine
from tuner_server.core.job.life import UNTOLD
from tuner_server.history.from_wire import job_and_history
from tuner_server.history.thinning import Window
from tuner_server.history.timeline import timeline
from tuner_server.history.words.outlook import outlook_of_job
from tuner_server.rpc.schedule_messages import schedule_to_pb
from tuner_server.web.charts.drawing import overview, sparkline
from tuner_server.web.charts.evidence import stage_curves
from tuner_server.web.charts.job_chart import job_chart
from tuner_server.web.pages.listing import Row
from tuner_server.web.pages.views import job_view
from tuner_server.web.server.exports import data_csv, data_json, schedule_text


class Negative(SimulatedTraining):
    """Its losses are below zero, as a log-likelihood's may be."""

    def _step(self, lr: float) -> float:
        return float(np.float32(super()._step(lr) - 4.0))  # as on the wire


class NegativeDying(DyingTraining, Negative):
    """The same, of a network that dies."""


BUDGET, OPEN_END = job_config("budget", validates=False), config(None, **QUICK)
TOO_SHORT = job_config("short", total_steps=400, validates=False)
ALL_DIVERGE = 1e-6
RANGE_TEST = config(2000, bounds=False, **QUICK)


def cancelled(run: Run) -> Run:
    return Run(machine.cancel(run.state, "wrong data"), run.exchanges)


RUNS: dict[str, Callable[[], Run]] = {
    "not begun": lambda: drive(BUDGET, SimulatedTraining(), max_directives=0),
    "cancelled at once": lambda: cancelled(drive(BUDGET, SimulatedTraining(), max_directives=0)),
    "a range test that goes on": lambda: drive(RANGE_TEST, SimulatedTraining(), max_directives=0),
    "no loss is a number": lambda: drive(BUDGET, NoNumbers()),
    "no loss of a range test is a number": lambda: drive(RANGE_TEST, NoNumbers(), max_directives=3),
    "all probes diverged": lambda: drive(BUDGET, SimulatedTraining(edge_lr=ALL_DIVERGE), max_directives=12),
    "all diverged, to the end": lambda: drive(BUDGET, SimulatedTraining(edge_lr=ALL_DIVERGE)),
    "negative losses": lambda: drive(BUDGET, Negative()),
    "negative forecasts": lambda: drive(config(800, **QUICK | {"forecaster": "power_law"}), Negative()),
    "alone before the first report": lambda: drive(BUDGET, SimulatedTraining(), alone_after=0),
    "alone in a search": lambda: drive(BUDGET, SimulatedTraining(), alone_after=3),
    "alone, and searching anew": lambda: drive(OPEN_END, SimulatedTraining(), max_directives=9, alone_after=2),
    "alone in committed steps": lambda: drive(BUDGET, SimulatedTraining(), alone_after=11),
    "fell short": lambda: drive(BUDGET, DyingTraining(), max_directives=10),
    "fell short, and trained then": lambda: drive(BUDGET, NegativeDying()),
    "fell short each time": lambda: drive(BUDGET, DyingTraining(deadly_lr=1e-4)),
    "its validations fell short": lambda: drive(job_config("overfitting"), OverfittingTraining()),
    "alone after it fell short": lambda: drive(BUDGET, DyingTraining(), max_directives=12, alone_after=10),
    "too short for a search": lambda: drive(TOO_SHORT, SimulatedTraining()),
    "too short for a search, and diverged": lambda: drive(TOO_SHORT, SimulatedTraining(edge_lr=0.05)),
    "alone in a run that is too short": lambda: drive(TOO_SHORT, SimulatedTraining(), alone_after=1),
    "a rollback failed": lambda: drive(BUDGET, LeakingTraining(sound_probes=3)),
    "a rollback failed at once, and it diverged": lambda: drive(BUDGET, LeakingTraining(edge_lr=0.05)),
    "a rollback failed, and it was alone": lambda: drive(BUDGET, LeakingTraining(), alone_after=4),
    "a rollback failed, and there is no end": lambda: drive(OPEN_END, LeakingTraining(), max_directives=30),
    "a rollback failed, and the job was cancelled": lambda: cancelled(
        drive(BUDGET, LeakingTraining(), max_directives=4)
    ),
    "no end": lambda: drive(OPEN_END, SimulatedTraining(), max_directives=30),
}


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> Run:
    return RUNS[request.param]()


def test_the_dashboard_shows_it(run: Run) -> None:
    job, entries = stored(run.state), history(run)
    found = timeline(entries)
    view = job_view(job, found)
    assert "NaN" not in view.headline
    ahead = outlook_of_job(run.state, found)
    assert ahead is None or "nan" not in f"{ahead.words} {ahead.formula}".lower()
    assert Row.of(job, UNTOLD, NOW).steps == found.n_steps == run.state.run_steps
    for svg in (overview(found), sparkline(found)):
        assert "nan" not in svg
        assert "inf" not in svg
    for window in (Window(0, max(found.n_steps, 1), 500), Window(found.n_steps // 3, found.n_steps // 3 + 7, 500)):
        json.dumps(job_chart(found, window), allow_nan=False)
    for stage in found.stages:
        json.dumps(stage_curves(stage, run.state.config), allow_nan=False)


def test_it_can_be_taken_along(run: Run) -> None:
    job, entries = stored(run.state), history(run)
    found = timeline(entries)
    rows = "".join(data_csv(job, entries)).splitlines()[1:]
    assert len(rows) == found.n_steps
    outcomes = {row.rpartition(",")[2] for row in rows}
    assert outcomes == {e.report.outcome for e in entries if e.report is not None and e.report.n_steps}
    assert len(json.loads("".join(data_json(job, entries)))["rows"]) == found.n_steps
    response = merged(schedule_to_pb(job, entries, full=True))
    assert "".join(schedule_text(job, entries)) == schedule_file.dumps(Schedule.from_response(response))


def test_the_api_tells_enough_to_show_it_elsewhere(run: Run) -> None:
    response = merged(schedule_to_pb(stored(run.state), history(run), full=True))
    job, entries = job_and_history(response)
    here, there = job_view(stored(run.state), timeline(history(run))), job_view(job, timeline(entries))
    assert (there.headline, there.verdict, there.facts) == (here.headline, here.verdict, here.facts)
    assert job.state.unrepeatable == run.state.unrepeatable
    assert [stage.why for stage in there.stages] == [stage.why for stage in here.stages]
    file = io.StringIO()
    Console(width=200, file=file).print(picture(response.job, laid_out(response)))
    assert " ".join(here.headline.split()) in " ".join(file.getvalue().split())
    assert "</div>" in schedule_html(Schedule.from_response(response))
