"""A stage has one number, from 1 on, wherever people read it: page, terminal, files, wire, notebook."""

from __future__ import annotations

import csv
import io

import pytest
from lrpilot.schedule.curves import bands, pieces
from lrpilot.schedule.schedule import Schedule
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.schedule_parts import merged
from rich.console import Console

from tests.support.jobs.sample_jobs import history, job_config, stored
from tests.support.jobs.simulated_training import QUICK, Run, SimulatedTraining, config, drive
from tuner_server.cli.picture import laid_out, picture
from tuner_server.core.config import JobConfig
from tuner_server.history.schedule_data import data_of_schedule
from tuner_server.history.timeline import timeline
from tuner_server.rpc.schedule_messages import schedule_to_pb
from tuner_server.web.pages.views import job_view
from tuner_server.web.server.exports import data_csv

JOBS = {
    "two searches": config(400, **QUICK),
    "too short for a search": job_config("short", total_steps=60),
    "one search": job_config("one", total_steps=800, validates=False),
}


@pytest.fixture(params=list(JOBS.values()), ids=list(JOBS))
def run(request: pytest.FixtureRequest) -> Run:
    job: JobConfig = request.param
    return drive(job, SimulatedTraining())


def on_the_wire(run: Run) -> pb.GetScheduleResponse:
    return merged(schedule_to_pb(stored(run.state), history(run), full=True))


def numbers(run: Run) -> list[int]:
    """The stages of the committed steps, as the page numbers them."""
    return [stage.index + 1 for stage in timeline(history(run)).stages if stage.spans]


def test_the_page_and_the_terminal_have_the_same(run: Run) -> None:
    view = job_view(stored(run.state), timeline(history(run)))
    titles = [stage.title for stage in reversed(view.stages)]
    assert titles == [f"Stage {number}" for number in numbers(run)]
    found, file = on_the_wire(run), io.StringIO()
    Console(width=200, file=file).print(picture(found.job, laid_out(found)))
    lines = file.getvalue().splitlines()
    head = next(i for i, line in enumerate(lines) if "search steps" in line)
    rows = [line.split()[0] for line in lines[head + 2 : head + 2 + len(titles)]]
    assert rows == [str(number) for number in numbers(run)]


def test_the_wire_has_the_same(run: Run) -> None:
    found = on_the_wire(run)
    kept = [entry.directive.stage for entry in found.history if entry.committed]
    assert list(dict.fromkeys(kept)) == numbers(run)
    assert list(dict.fromkeys(segment.stage for segment in found.segments)) == numbers(run)
    assert {entry.decision.stage for entry in found.history if entry.HasField("decision")} <= set(numbers(run))
    assert found.job.stage == found.job.directive.stage


def test_schedules_and_notebooks_have_the_same(run: Run) -> None:
    schedules = [Schedule.from_response(on_the_wire(run)), data_of_schedule(stored(run.state), history(run))]
    for schedule in schedules:
        assert list(dict.fromkeys(segment.stage for segment in schedule.segments)) == numbers(run)
        assert {probe.stage for probe in schedule.probes} <= set(numbers(run))
        assert [band.stage for band in bands(pieces(schedule)) if band.kept] == numbers(run)


def test_files_have_the_same(run: Run) -> None:
    rows = csv.DictReader(io.StringIO("".join(data_csv(stored(run.state), history(run)))))
    kept = [int(row["stage"]) for row in rows if row["committed"] == "1"]
    assert list(dict.fromkeys(kept)) == numbers(run)
