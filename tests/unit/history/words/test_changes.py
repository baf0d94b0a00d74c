"""Changes of the plan in the history of a job: marked where they took effect, told with who asked and why, exported."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from lrpilot.schedule.schedule import Schedule
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.plan_change import ChangeKind, ChangeOrigin
from rich.console import Console

from tests.support.jobs.kept_jobs import KeptJobs
from tests.support.training.planned_run import TOTAL, PlannedRun
from tuner_server.cli.picture import laid_out, picture
from tuner_server.core.job.life import Signs
from tuner_server.core.messages import PlanChange
from tuner_server.history.from_wire import job_and_history
from tuner_server.history.schedule_data import data_of_schedule
from tuner_server.history.thinning import Window
from tuner_server.history.timeline import timeline
from tuner_server.history.words.changes import told
from tuner_server.history.words.headline import headline
from tuner_server.history.words.reasons import why
from tuner_server.history.words.verdict import verdict
from tuner_server.report.report_file import report_html
from tuner_server.storage import StoredJob
from tuner_server.web.charts.curves import job_curves
from tuner_server.web.server.exports import data_json

NOW = datetime.datetime(2026, 3, 29, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def jobs() -> KeptJobs:
    return KeptJobs()


@pytest.fixture(scope="module")
def run(jobs: KeptJobs) -> PlannedRun:
    """Extended by its program, and at the server; annealed, which is undone; and over."""
    run = PlannedRun(jobs)
    run.train_to_commit()
    run.tuner.extend(100)
    run.train(30)
    jobs.request(PlanChange(kind=ChangeKind.EXTEND, total_steps=800, reason="not <there> yet"))
    run.train(60)
    run.tuner.anneal(40)
    run.train()
    run.tuner.undo_annealing()
    run.train()
    assert run.n_steps == 800
    return run


@pytest.fixture(scope="module")
def stored(jobs: KeptJobs, run: PlannedRun) -> StoredJob:
    return StoredJob(jobs.job_id, "default", jobs.state, 9, NOW, NOW, Signs(NOW))


@pytest.fixture(scope="module")
def response(jobs: KeptJobs, run: PlannedRun) -> pb.GetScheduleResponse:
    return jobs.get_schedule(pb.GetScheduleRequest(job_id=jobs.job_id), 1.0)


def test_each_is_marked_where_it_took_effect_and_an_undone_annealing_as_such(jobs: KeptJobs, run: PlannedRun) -> None:
    found = timeline(jobs.history)
    kinds = [mark.change.kind for mark in found.changes]
    assert kinds == [ChangeKind.EXTEND, ChangeKind.EXTEND, ChangeKind.ANNEAL, ChangeKind.UNDO_ANNEALING]
    assert [mark.undone for mark in found.changes] == [False, False, True, False]
    steps = [mark.step for mark in found.changes]
    assert steps == sorted(steps)
    assert steps[3] - steps[2] == 40
    [annealing] = [stage for stage in found.stages if stage.undone_annealing]
    assert annealing.given_back_steps == 40 == jobs.state.given_back_steps
    assert not any(span.kept for span in annealing.spans)
    assert job_curves(found, Window(0, found.n_steps, 100))["changes"]["text"][2].endswith("undone later")


def test_a_sentence_says_what_became_of_the_run_who_asked_and_why(jobs: KeptJobs, run: PlannedRun) -> None:
    found = timeline(jobs.history)
    first, second, third, fourth = told(jobs.state, found.changes)
    assert "the end moved to step 700 (the training program asked for it)" in first
    assert "the end moved to step 800 (somebody at the server asked for it: not <there> yet)" in second
    assert "the LR anneals over 40 steps, which end the run" in third
    assert "it was undone, and its steps are rolled back" in third
    assert "the annealing was undone" in fourth
    words = headline(jobs.state, found)
    assert "It was the last of 4 changes." in words
    assert "after an undone annealing" in words
    reasons = [why(stage, jobs.state.config) for stage in found.stages if stage.change is not None]
    assert reasons[0].startswith("The end moved to step 700 (the training program asked for it). LR ")
    assert reasons[2].endswith("It was undone, and its steps are rolled back.")
    assert verdict(jobs.state, found).words


def test_the_schedule_has_them_on_all_ways(
    jobs: KeptJobs, run: PlannedRun, stored: StoredJob, response: pb.GetScheduleResponse, tmp_path: Path
) -> None:
    own = run.tuner.schedule
    assert [replan.origin for replan in own.replans] == [
        ChangeOrigin.CLIENT,
        ChangeOrigin.OPERATOR,
        ChangeOrigin.CLIENT,
        ChangeOrigin.CLIENT,
    ]
    assert Schedule.from_response(response).replans == own.replans
    assert data_of_schedule(stored, jobs.history).replans == own.replans
    own.save(tmp_path / "schedule.json")
    assert Schedule.load(tmp_path / "schedule.json").replans == own.replans
    document = json.loads((tmp_path / "schedule.json").read_text())
    del document["replans"]
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert Schedule.load(tmp_path / "old.json").replans == ()


def test_every_face_shows_them(
    jobs: KeptJobs, run: PlannedRun, stored: StoredJob, response: pb.GetScheduleResponse, tmp_path: Path
) -> None:
    found = timeline(jobs.history)
    html = report_html(stored, found)
    assert "not &lt;there&gt; yet" in html
    assert html.count('class="change"') == 4
    head = json.loads("".join(data_json(stored, jobs.history)))
    assert [change["kind"] for change in head["plan_changes"]] == ["extend", "extend", "anneal", "undo_annealing"]
    console = Console(record=True, width=160)
    console.print(picture(response.job, laid_out(response)))
    text = console.export_text()
    assert "changes of the plan" in text
    assert "annealing, 40 steps rolled back" in text
    drawn = run.tuner.schedule._repr_html_()
    assert "not &lt;there&gt; yet" in drawn
    assert drawn.count("stroke-dasharray") == 4
    run.tuner.schedule.plot(tmp_path / "schedule.svg")
    assert (tmp_path / "schedule.svg").stat().st_size


def test_what_waits_comes_over_the_wire(jobs: KeptJobs) -> None:
    waiting = KeptJobs()
    run = PlannedRun(waiting)
    run.train(3)
    waiting.request(PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=70, reason="soon"))
    waiting.request(PlanChange(kind=ChangeKind.REPLAN, batch_factor=2.0))
    found, _ = job_and_history(waiting.get_schedule(pb.GetScheduleRequest(job_id=waiting.job_id), 1.0))
    assert found.state.requested == waiting.state.requested
    first, second = told(found.state, ())
    asked = "somebody at the server asked for it"
    assert first == f"Waiting for the next report: to anneal over 70 steps, and end ({asked}: soon)."
    assert second == f"Waiting for the next report: to plan the LR anew ({asked})."


def test_losses_of_other_data_are_not_compared(jobs: KeptJobs) -> None:
    other = KeptJobs()
    run = PlannedRun(other)
    run.train_to_commit()
    run.train(100)
    before = other.state.run_steps
    run.tuner.replan("other data")
    run.train(30)
    found = timeline(other.history)
    assert before <= found.first_comparable_step <= before + 30
    assert len(found.committed_losses(found.first_comparable_step)) < len(found.committed_losses())
    assert "Too early to say" in verdict(other.state, found).words or run.n_steps > TOTAL
