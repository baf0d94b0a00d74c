from __future__ import annotations

import dataclasses
import math
from datetime import timedelta

import pytest

from tests.support.jobs.broken_promises import DEADLY_TWICE, DyingTraining
from tests.support.jobs.incomplete_rollback import LeakingTraining
from tests.support.jobs.sample_jobs import history, job_config, stored
from tests.support.jobs.simulated_training import QUICK, NoNumbers, Run, SimulatedTraining, config, drive
from tuner_server.core.config import JobConfig
from tuner_server.core.job.life import Life, Vitals
from tuner_server.core.job.machine import Status
from tuner_server.core.search.prior import Prior
from tuner_server.history.timeline import Timeline, timeline
from tuner_server.history.words.numbers import count, number, steps
from tuner_server.web.pages.facts import Fact
from tuner_server.web.pages.views import MAX_SECTIONS, JobView, job_view


def _run(job: JobConfig, max_directives: int = 10_000, edge_lr: float = 0.6) -> Run:
    return drive(job, SimulatedTraining(validates=job.has_validation, edge_lr=edge_lr), max_directives=max_directives)


def _view(run: Run) -> JobView:
    return job_view(stored(run.state), timeline(history(run)))


def _fact(view: JobView, name: str) -> Fact:
    return next(fact for fact in view.facts if fact.name == name)


@pytest.fixture(scope="module")
def diverging() -> Run:
    """Its every LR is too high, for nine times."""
    return _run(job_config("diverging"), edge_lr=1e-6)


def test_a_job_that_has_ended_has_the_peak_of_its_lr() -> None:
    run = _run(job_config("budget"))
    fact = _fact(_view(run), "Peak LR")
    assert (fact.value, fact.note) == (number(run.state.peak_lr), "nearly 0 at the end")


def test_a_job_that_was_cancelled_at_once_has_no_peak() -> None:
    run = _run(job_config("budget"), max_directives=1)
    cancelled = dataclasses.replace(run, state=run.state.model_copy(update={"status": Status.CANCELLED}))
    fact = _fact(_view(cancelled), "Peak LR")
    assert (fact.value, fact.note) == ("–", "no step was committed")


def test_before_anything_is_committed_no_loss_is_said_to_come_from_one() -> None:
    fact = _fact(_view(_run(job_config("budget"), max_directives=1)), "Loss")
    assert (fact.value, fact.note) == ("–", "mean of the last 10 committed")


def test_the_lr_now_and_the_headline_agree_in_a_search() -> None:
    view = _view(_run(job_config("budget"), max_directives=1))
    assert f"trying LR {_fact(view, 'LR now').value}," in view.headline


def test_a_search_tells_what_an_lr_would_have_cost_that_is_off() -> None:
    searched, running = _view(_run(job_config("budget"))), _view(_run(job_config("budget"), max_directives=1))
    assert searched.stages[0].sensitivity.startswith("Over a probe a third of the best LR would lose ")
    assert running.stages[0].sensitivity == ""


def test_all_jobs_have_as_many_facts_so_that_they_can_be_compared(diverging: Run) -> None:
    views = [_view(diverging), _view(_run(job_config("budget"), 1)), _view(_run(config(None, **QUICK), 9))]
    assert len({len(view.facts) for view in views}) == 1


def test_what_was_given_back_is_no_search(diverging: Run) -> None:
    found = timeline(history(diverging))
    view = _view(diverging)
    searched = sum(stage.search_steps for stage in found.stages)
    given_back, times = count(diverging.state.given_back_steps), len(found.stages) - 1
    note = f"{steps(searched)}, rolled back; {given_back} more rolled back after {times} divergences"
    assert _fact(view, "Search").note == note
    first = view.stages[-1]
    undone = found.stages[0].given_back_steps
    assert first.cost == f"{steps(searched)} of search. {steps(undone)} were rolled back after a divergence."


def test_each_stage_that_fell_short_is_a_section_with_its_evidence_in_the_next() -> None:
    run = drive(job_config("dying", total_steps=800), DyingTraining(deadly_lr=DEADLY_TWICE, validates=True))
    view = _view(run)
    last, second, first = view.stages
    assert [stage.title for stage in view.stages] == ["Stage 3", "Stage 2", "Stage 1"]
    assert first.cost.endswith(" of search. 100 steps were rolled back after a broken promise.")
    assert second.cost == "100 steps were rolled back after a broken promise."
    assert second.why.startswith(f"{first.lr} was committed, and its steps 51 to 100 had a median loss of ")
    assert last.why.startswith(f"{second.lr} was committed, and its steps 51 to 100 had a median loss of ")
    assert _fact(view, "Search").note.endswith("; 200 more rolled back after 2 broken promises")


def test_a_run_that_is_too_short_for_a_search_has_none_among_its_facts() -> None:
    view = _view(_run(job_config("short", total_steps=400)))
    fact = _fact(view, "Search")
    assert (fact.value, fact.note) == ("none", "the run is too short for one")
    assert "too few for a search" in view.stages[0].why


def _bounds(run: Run) -> str:
    return next(fact.value for fact in _view(run).details if fact.name == "LR bounds")


def test_bounds_that_were_not_given_say_where_they_come_from() -> None:
    short = job_config("short", total_steps=400)
    assert _bounds(_run(short)) == "0.0001 to 1"
    unbounded = short.model_copy(update={"lr_bounds": None})
    assert _bounds(_run(unbounded)) == "0.00333 to 3, around the LR that was set"
    tested = unbounded.model_copy(update={"total_steps": 4000})
    assert _bounds(_run(tested, max_directives=0)) == "not known yet, by a range test"
    assert _bounds(_run(tested)).endswith(", by a range test")
    nothing = drive(tested, NoNumbers(), max_directives=3)
    assert _bounds(nothing) == "0.00333 to 3, around the LR that was set, as a range test told nothing"


def test_what_a_family_told_is_among_the_details() -> None:
    run = _run(job_config("new"), max_directives=1)
    assert all(fact.name != "Told by its family" for fact in _view(run).details)
    told = Prior(log_lr=math.log(0.05), sd=math.log(2.0), n_jobs=3, probe_steps=100)
    words = {
        fact.value
        for n_jobs in (1, 3)
        for fact in _view(
            dataclasses.replace(
                run, state=run.state.model_copy(update={"prior": told.model_copy(update={"n_jobs": n_jobs})})
            )
        ).details
        if fact.name == "Told by its family"
    }
    rest = "found the best LR over 100 steps around 0.05, so that of this job was expected between 0.0125 and 0.2."
    assert words == {f"1 earlier job {rest}", f"3 earlier jobs {rest}"}


def test_restarts_that_follow_each_other_are_one_section(diverging: Run) -> None:
    n_stages = len(timeline(history(diverging)).stages)
    last, restarts, first = _view(diverging).stages
    assert (last.title, first.title) == (f"Stage {n_stages}", "Stage 1")
    assert restarts.title == f"Stages 2 to {n_stages - 1}"
    assert restarts.cost.endswith(f"after {n_stages - 2} divergences.")
    assert restarts.index == 1


def test_one_section_is_open_the_latest_with_something_to_show(diverging: Run) -> None:
    assert [stage.open for stage in _view(diverging).stages] == [False, False, True]
    searching = _run(config(None, **QUICK), max_directives=9)
    assert searching.state.status is Status.SEARCHING
    assert [stage.open for stage in _view(searching).stages] == [False, True, False]
    assert [stage.open for stage in _view(_run(job_config("opened"), max_directives=0)).stages] == [True]


def test_a_page_has_the_latest_stages_and_says_how_many_it_leaves_out() -> None:
    run = _run(job_config("budget"))
    found = timeline(history(run))
    (stage,) = found.stages
    many = Timeline(found.spans, tuple(dataclasses.replace(stage, index=i) for i in range(MAX_SECTIONS + 7)))
    view = job_view(stored(run.state), many)
    assert [section.index for section in view.stages] == list(range(MAX_SECTIONS + 6, 6, -1))
    assert view.n_left_out == 7
    assert [section.open for section in view.stages].index(True) == 0


def test_a_search_that_was_not_finished_is_not_said_to_go_on() -> None:
    run = _run(job_config("budget"), max_directives=2)
    cancelled = dataclasses.replace(run, state=run.state.model_copy(update={"status": Status.CANCELLED}))
    assert _view(run).stages[0].title == "Searching"
    assert _view(cancelled).stages[0].title == "Search that was not finished"


def test_losses_of_candidates_have_the_digits_of_their_errors_or_those_that_tell_them_apart() -> None:
    run = _run(config(800, **{**QUICK, "forecaster": "power_law"}), max_directives=5)
    loss = _view(run).stages[-1].candidates[0].loss
    value, _, error = loss.partition(" ± ")
    assert len(value.partition(".")[2]) == len(error.partition(".")[2].removesuffix(", bounded")) > 0

    run = _run(job_config("budget"))
    found = timeline(history(run))
    (stage,) = found.stages
    assert stage.decision is not None
    best, *others = stage.candidates
    near = (best.model_copy(update={"forecast": 1.00004}), others[0].model_copy(update={"forecast": 1.00001}))
    tied = dataclasses.replace(stage, decision=stage.decision.model_copy(update={"candidates": near}))
    probes = tuple(dataclasses.replace(p, candidate=c) for p, c in zip(stage.probes, near, strict=False))
    (view,) = job_view(stored(run.state), Timeline(found.spans, (dataclasses.replace(tied, probes=probes),))).stages
    assert [row.loss for row in view.candidates] == ["1.00004", "1.00001"]


def test_a_stage_whose_probes_were_run_before_the_client_was_away_shows_them() -> None:
    run = drive(job_config("budget"), SimulatedTraining(validates=True), alone_after=3)
    stage, alone = _view(run).stages
    assert (stage.title, alone.title) == ("Stage 2", "On its own")
    assert [row.chosen for row in stage.candidates].count(True) == 1
    assert [(row.lr, row.loss) for row in alone.candidates] == [(row.lr, row.loss) for row in stage.candidates]
    assert not any(row.chosen for row in alone.candidates)


def test_a_range_test_is_no_probe_among_the_candidates() -> None:
    (stage,) = _view(drive(config(2000, bounds=False, **QUICK), SimulatedTraining(), max_directives=2)).stages
    first, probe = stage.candidates[0], stage.candidates[1]
    assert (first.lr, first.outcome) == ("1×10⁻⁶, rising", "range test")
    assert (probe.outcome, "rising" in probe.lr) == ("lowest", False)


def test_only_a_job_with_steps_has_something_to_draw() -> None:
    words = _view(_run(job_config("opened"), max_directives=0)).nothing_drawn
    assert words.startswith("No steps have been reported yet. The chart begins with the first report, after ")
    assert _view(_run(job_config("begun"), max_directives=1)).nothing_drawn == ""


def test_a_search_that_ended_since_a_rollback_failed_is_shown_as_what_it_is() -> None:
    run = drive(job_config("leaking"), LeakingTraining(validates=True), max_directives=5)
    view = job_view(stored(run.state), timeline(history(run)))
    assert [row.outcome for row in view.stages[-1].candidates] == ["completed", "not repeatable"]
    assert "The search ended there, as a rollback failed." in view.headline
    (fact,) = (fact for fact in view.facts if fact.name == "Search")
    assert fact.note.endswith("it ended, as a rollback failed")


def test_a_job_that_trains_says_how_long_it_still_takes_and_one_that_does_not_how_long_it_took() -> None:
    run = _run(job_config("budget"), max_directives=12)
    left = _fact(_view(run), "Time left")
    assert left.note.startswith("at ")
    assert left.note.endswith("steps/s")
    assert _fact(_view(_run(job_config("budget"))), "Training time").note == left.note
    assert _fact(_view(_run(job_config("budget"), max_directives=0)), "Time left").note == "told with the first report"


def test_a_job_whose_client_is_gone_says_so_wherever_it_would_say_how_it_goes() -> None:
    run = _run(job_config("budget"), max_directives=12)
    view = job_view(stored(run.state), timeline(history(run)), Vitals(Life.SILENT, timedelta(minutes=12)))
    assert (view.state, view.since) == ("silent", "for 12 minutes")
    assert view.verdict.words == "Silent for 12 minutes"
    assert [fact.name for fact in view.facts][1:3] == ["Training time", "Last LR"]
    assert view.nothing_drawn == ""
    opened = _run(job_config("budget"), max_directives=0)
    gone = job_view(stored(opened.state), timeline(history(opened)), Vitals(Life.ABANDONED, timedelta(days=2)))
    assert gone.nothing_drawn.startswith("No steps were reported before its client was gone.")
    ended = dataclasses.replace(opened, state=opened.state.model_copy(update={"status": Status.CANCELLED}))
    assert _view(ended).nothing_drawn == "The job ended before its first report, so there is nothing to draw."
