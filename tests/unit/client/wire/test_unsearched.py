"""Runs that are too short for a search say so: in the log, in a notebook, in the schedule."""

from __future__ import annotations

import logging
from typing import Any

import lrpilot
import pytest
import torch
from lrpilot.schedule.schedule import Schedule
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.directives import begins_unsearched
from lrpilot.wire.messages.schedule_parts import merged
from torch import nn

from tests.support.jobs.broken_promises import DEADLY_TWICE, DyingTraining
from tests.support.jobs.sample_jobs import history, job_config, stored
from tests.support.jobs.simulated_training import Run, SimulatedTraining, drive
from tests.support.training.scripted_directives import probe, training
from tuner_server.rpc.schedule_messages import schedule_to_pb


def _tuner(script: list[pb.Directive], **options: Any) -> lrpilot.Tuner:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return lrpilot.Tuner(model, optimizer, transport=ScriptedTransport(script), total_steps=5, **options)


def _run(tuner: lrpilot.Tuner) -> None:
    while not tuner.finished:
        tuner.step(1.0)


def test_it_is_said_once_where_people_see_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lrpilot")
    with _tuner([training(0.1, 5, report_every=2), training(0.1, 3)]) as tuner:
        _run(tuner)
    said = [(record.levelno, record.getMessage()) for record in caplog.records if "search" in record.getMessage()]
    words = "lrpilot: no search: 5 steps are too few for one, so the highest LR is the 0.1 that was set"
    assert said == [(logging.WARNING, words)]


@pytest.mark.parametrize(("rank", "n_warnings"), [(0, 1), (1, 0)])
def test_one_rank_says_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, rank: int, n_warnings: int
) -> None:
    monkeypatch.setattr(lrpilot.Tuner, "rank", rank)
    with _tuner([training(0.1, 5)]) as tuner:
        assert tuner.schedule.unsearched, "all ranks know"
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == n_warnings


@pytest.mark.parametrize(
    "script",
    [[probe(0.1, 2, first=True), training(0.1, 3, restore=True)], [training(0.1, 2), training(0.1, 3)]],
    ids=["a search", "not to the end"],
)
def test_nothing_is_said_of_other_runs(caplog: pytest.LogCaptureFixture, script: list[pb.Directive]) -> None:
    with _tuner(script) as tuner:
        _run(tuner)
    assert not [record for record in caplog.records if "search" in record.getMessage()]
    assert not tuner.schedule.unsearched
    assert "search <b>none</b>" not in tuner._repr_html_()


def test_what_a_client_does_without_a_server_is_not_taken_for_such_a_run() -> None:
    config, directive = pb.JobConfig(total_steps=5), training(0.1, 5)
    directive.number = 1
    assert begins_unsearched(directive, config)
    directive.stage = 0
    assert not begins_unsearched(directive, config)
    assert not begins_unsearched(training(0.1, 5), pb.JobConfig())


def test_a_notebook_shows_it_and_calls_what_was_rolled_back_no_search() -> None:
    with _tuner([training(0.1, 5)]) as tuner:
        assert "search <b>none</b>" in tuner._repr_html_(), "before the first report"
        assert "0 committed, 0 rolled back" in tuner._repr_html_()
        _run(tuner)
    assert "search <b>none</b>" in tuner.schedule._repr_html_()


def test_committed_steps_that_fell_short_are_in_no_probe_and_on_no_curve() -> None:
    short = training(0.1, 5, report_every=2, promise=[pb.Bar(from_step=0, loss=0.5)])
    lower = training(0.03, 3, restore=True)
    with _tuner([short, lower]) as tuner:
        _run(tuner)
    assert (tuner.committed_step, tuner.search_steps) == (3, 2)
    schedule = tuner.schedule
    assert (schedule.n_steps, len(schedule.losses), schedule.probes) == (3, 3, ())
    assert "3 committed, 2 rolled back" in tuner._repr_html_()


def test_a_tuner_that_goes_on_from_a_checkpoint_still_knows() -> None:
    with _tuner([training(0.1, 5, report_every=2), training(0.1, 3)]) as first:
        first.step(1.0)
        first.step(1.0)
        state = first.state_dict()
    record = first._record
    record.unsearched = False
    record.load_state_dict(state["record"])
    assert record.schedule("", pb.JobConfig(), None).unsearched


def _response(run: Run, *, with_history: bool) -> pb.GetScheduleResponse:
    return merged(schedule_to_pb(stored(run.state), history(run), full=with_history))


@pytest.mark.parametrize("with_history", [True, False])
@pytest.mark.parametrize("max_directives", [0, 2, 10_000])
def test_a_servers_schedule_says_it_with_and_without_its_history(with_history: bool, max_directives: int) -> None:
    short = job_config("short", total_steps=400, validates=False)
    for edge_lr in (0.6, 0.05):  # the second diverges, and is rolled back
        run = drive(short, SimulatedTraining(edge_lr=edge_lr), max_directives=max_directives)
        assert Schedule.from_response(_response(run, with_history=with_history)).unsearched


@pytest.mark.parametrize("with_history", [True, False])
def test_a_job_that_searched_or_was_alone_first_is_no_such_run(with_history: bool) -> None:
    short = job_config("short", total_steps=400, validates=False)
    searched = drive(job_config("dying", total_steps=800), DyingTraining(deadly_lr=DEADLY_TWICE, validates=True))
    new = drive(job_config("new"), SimulatedTraining(validates=True), max_directives=0)
    alone = drive(short, SimulatedTraining(), alone_after=0)
    for run in (searched, new, alone):
        assert not Schedule.from_response(_response(run, with_history=with_history)).unsearched


def test_the_schedule_of_a_run_that_fell_short_has_its_probes_alone() -> None:
    run = drive(job_config("dying", total_steps=800), DyingTraining(deadly_lr=DEADLY_TWICE, validates=True))
    schedule = Schedule.from_response(_response(run, with_history=True))
    assert sum(probe.n_steps for probe in schedule.probes) == run.state.probe_steps < run.state.search_steps
    assert len(schedule.losses) == schedule.n_steps == run.state.committed_steps
