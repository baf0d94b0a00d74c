from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from lrpilot.wire.messages.directive_steps import bar_begins
from lrpilot.wire.profile import Profile

from tests.support.jobs.sample_jobs import NOW, history, job_config
from tests.support.jobs.simulated_training import QUICK, Run, SimulatedTraining, config, drive
from tuner_server.core.config import JobConfig
from tuner_server.core.messages import Bar, Directive, Outcome, Phase, Replacement, Validation
from tuner_server.history.stage import Undoing
from tuner_server.history.timeline import timeline
from tuner_server.storage import Entry, KnownHistory, StoredReport
from tuner_server.storage.codec import series


@pytest.mark.parametrize(
    ("job", "edge_lr"),
    [
        (config(800, **QUICK), 0.6),
        (config(None, **QUICK), 0.6),
        (job_config("budget"), 0.6),
        (job_config("budget"), 1e-6),
        (config(800, bounds=False, **QUICK), 0.6),
    ],
)
def test_steps_add_up_to_the_books(job: JobConfig, edge_lr: float) -> None:
    run = drive(job, SimulatedTraining(validates=job.has_validation, edge_lr=edge_lr), max_directives=60)
    found = timeline(history(run))

    assert found.n_steps == run.state.committed_steps + run.state.search_steps
    assert len(found.committed_losses()) == run.state.committed_steps
    assert sum(stage.committed_steps for stage in found.stages) == run.state.committed_steps
    searched = sum(stage.search_steps for stage in found.stages)
    assert searched == run.state.probe_steps
    assert sum(stage.given_back_steps for stage in found.stages) == run.state.given_back_steps
    assert (run.state.given_back_steps > 0) is (edge_lr < 1e-4)
    assert found.peak_lr == run.state.peak_lr
    for before, after in zip(found.spans, found.spans[1:], strict=False):
        assert after.start == before.end


def test_a_stage_has_its_probes_as_they_were_judged_and_all_parts_of_its_steps() -> None:
    run = drive(job_config("budget"), SimulatedTraining(validates=True))
    (stage,) = timeline(history(run)).stages

    probes = run.of(Phase.PROBE)
    assert [probe.directive.number for probe in stage.probes] == [exchange.directive.number for exchange in probes]
    assert all(probe.candidate is not None and probe.candidate.lr == probe.lr for probe in stage.probes)
    assert len(stage.spans) == len(run.of(Phase.TRAIN))
    assert stage.decision is not None
    assert stage.lr == stage.decision.lr
    assert stage.end_loss == pytest.approx(run.state.last_loss)
    assert stage.end_validation == run.state.last_validation


def test_a_search_that_goes_on_is_a_stage_without_an_lr() -> None:
    run = drive(job_config("budget"), SimulatedTraining(validates=True), max_directives=3)
    *_, stage = timeline(history(run)).stages

    assert stage.lr is None
    assert stage.directive is None
    assert [probe.span is None for probe in stage.probes] == [False, False, False, True]
    assert len(stage.candidates) == 3


def _entry(
    number: int, phase: Phase, n_steps: int, outcome: Outcome, restore: bool = False, first: bool = False
) -> Entry:
    directive = Directive(
        number=number,
        phase=phase,
        n_steps=n_steps,
        profile=Profile.constant(0.1, n_steps),
        restore=restore,
        snapshot=first,
    )
    report = StoredReport(outcome, n_steps, (), 0.0, NOW, series((1.0,) * n_steps))
    return Entry(directive, None, report)


def test_committed_steps_that_diverged_are_shown_as_rolled_back() -> None:
    found = timeline(
        KnownHistory(
            [
                _entry(1, Phase.TRAIN, 5, Outcome.PARTIAL, first=True),
                _entry(2, Phase.TRAIN, 3, Outcome.DIVERGED),
                _entry(3, Phase.TRAIN, 4, Outcome.COMPLETED, restore=True),
            ]
        )
    )
    assert [span.kept for span in found.spans] == [False, False, True]
    first, second = found.stages
    assert first.undoing == second.retreats_from == Undoing(Outcome.DIVERGED, 0.1, first_step=6, last_step=8)
    assert (first.retreats_from, second.undoing) == (None, None)
    assert [stage.n_setbacks for stage in found.stages] == [0, 1]
    assert [stage.given_back_steps for stage in found.stages] == [8, 0]
    assert found.spans[-1].committed_start == 0


def _promising(entry: Entry, *bars: tuple[int, float], done: int = 0) -> Entry:
    """An entry whose directive has such bars, after so many steps of theirs."""
    promise = tuple(Bar(from_step=bar_begins(step, done), loss=loss) for step, loss in bars)
    return dataclasses.replace(entry, directive=entry.directive.model_copy(update={"promise": promise}))


@pytest.mark.parametrize(
    ("bars", "bar"),
    [
        (((0, 0.9), (5, 0.5), (6, 0.1)), 0.5),
        (((5, 0.5), (5, 0.4)), 0.4),
        (((6, 0.5),), None),
        (((0, 0.9), (2, math.inf)), None),
        ((), None),
    ],
)
def test_the_bar_that_steps_fell_short_of_is_the_last_one_that_their_report_had_reached(
    bars: tuple[tuple[int, float], ...], bar: float | None
) -> None:
    found = timeline(
        KnownHistory(
            [
                _promising(_entry(1, Phase.TRAIN, 5, Outcome.PARTIAL, first=True), *bars),
                _promising(_entry(2, Phase.TRAIN, 3, Outcome.FELL_SHORT), *bars, done=5),
                _entry(3, Phase.TRAIN, 4, Outcome.COMPLETED, restore=True),
            ]
        )
    )
    first, second = found.stages
    assert first.undoing == second.retreats_from == Undoing(Outcome.FELL_SHORT, 0.1, 6, 8, loss=1.0, bar=bar)
    assert [span.kept for span in found.spans] == [False, False, True]


def _validated(entry: Entry, *validations: Validation) -> Entry:
    assert entry.report is not None
    return dataclasses.replace(entry, report=dataclasses.replace(entry.report, validations=validations))


@pytest.mark.parametrize(
    ("loss", "bar", "expected"),
    [
        (1.5, 0.5, {"last_step": 7, "loss": 2.0, "bar": 0.5, "validated": True}),
        (0.9, 0.5, {"last_step": 8, "loss": 1.0, "bar": 0.9}),
        (math.inf, 0.5, {"last_step": 7, "loss": 2.0, "bar": 0.5, "validated": True}),
    ],
)
def test_steps_whose_mean_kept_the_promise_fell_short_by_their_validation(
    loss: float, bar: float, expected: dict[str, Any]
) -> None:
    first = _entry(1, Phase.TRAIN, 5, Outcome.PARTIAL, first=True)
    promise = (Bar(from_step=0, loss=0.1, validation=0.1), Bar(from_step=0, loss=loss, validation=bar))
    last = _validated(_entry(2, Phase.TRAIN, 3, Outcome.FELL_SHORT), Validation(step=2, loss=2.0))
    last = dataclasses.replace(last, directive=last.directive.model_copy(update={"promise": promise}))
    (stage,) = timeline(KnownHistory([first, last])).stages
    assert stage.undoing == Undoing(Outcome.FELL_SHORT, 0.1, **({"first_step": 6} | expected))


def test_steps_that_begin_anew_are_a_stage_whatever_was_reported_last() -> None:
    first = _entry(1, Phase.TRAIN, 5, Outcome.PARTIAL, first=True)
    found = timeline(KnownHistory([first, _entry(2, Phase.TRAIN, 4, Outcome.COMPLETED, restore=True)]))
    assert [stage.given_back_steps for stage in found.stages] == [5, 0]


def test_a_run_that_was_told_to_train_at_first_has_no_search() -> None:
    short = drive(job_config("short", total_steps=400), SimulatedTraining(validates=True))
    assert timeline(history(short)).unsearched == short.directives[0]
    for searched in (job_config("budget"), config(800, warmup_steps=20, **QUICK)):
        run = drive(searched, SimulatedTraining(validates=searched.has_validation), max_directives=3)
        assert timeline(history(run)).unsearched is None
    alone = drive(job_config("budget"), SimulatedTraining(validates=True), alone_after=0, max_directives=3)
    assert timeline(history(alone)).unsearched is None


def test_steps_without_the_server_stand_apart_and_wasted_ones_take_their_width() -> None:
    replacement = Replacement(profile=Profile.constant(0.2, 7), wasted_steps=3)
    own = StoredReport(Outcome.REPLACED, 7, (), 0.0, NOW, series((1.0,) * 7), replacement)
    directive = _entry(2, Phase.PROBE, 5, Outcome.COMPLETED).directive
    first = _entry(1, Phase.TRAIN, 5, Outcome.COMPLETED, first=True)
    found = timeline(KnownHistory([first, Entry(directive, None, own)]))

    assert [(span.start, span.n_steps) for span in found.spans] == [(0, 5), (8, 7)]
    assert found.spans[-1].phase is Phase.TRAIN
    assert [stage.replaced for stage in found.stages] == [False, True]
    assert found.stages[-1].lr == 0.2
    assert found.peak_lr == found.last_lr == 0.2


def test_a_decision_has_the_probes_that_were_run_before_the_client_went_on_by_itself() -> None:
    run = drive(job_config("budget"), SimulatedTraining(validates=True), alone_after=3)
    alone, stage = timeline(history(run)).stages
    assert (alone.replaced, alone.tried, alone.winner) == (True, alone.probes, None)
    assert (stage.rejoins, stage.probes, stage.search_steps) == (True, (), 0)
    assert stage.tried == alone.probes
    assert [candidate.directive_number for candidate in stage.candidates] == [1, 2, 3]
    assert stage.winner is not None
    assert stage.winner.candidate == stage.best


def test_the_first_loss_is_the_first_that_is_a_number_at_the_beginning_of_a_report() -> None:
    entries = [_entry(i, Phase.PROBE, 2, Outcome.DIVERGED, restore=i > 1, first=i == 1) for i in (1, 2, 3)]
    reports = [StoredReport(Outcome.DIVERGED, 2, (), 0.0, NOW, series((first, 9.0))) for first in (math.nan, 2.5, 3.0)]
    entries = [dataclasses.replace(e, report=report) for e, report in zip(entries, reports, strict=True)]
    assert timeline(KnownHistory(entries)).first_loss == 2.5
    assert timeline(KnownHistory(entries[:1])).first_loss is None


def test_a_job_without_reports_has_no_steps() -> None:
    run = drive(job_config("budget"), SimulatedTraining(), max_directives=0)
    found = timeline(history(Run(run.state, run.exchanges)))
    assert found.n_steps == 0
    assert found.committed_losses().tolist() == []
    assert len(found.stages) == 1


def test_a_warm_up_has_the_lr_that_it_leads_to() -> None:
    run = drive(config(800, warmup_steps=20, **QUICK), SimulatedTraining(), max_directives=2)
    found = timeline(history(run))
    assert found.stages[0].lr == 0.1
    assert found.last_lr == found.peak_lr == pytest.approx(0.1 * 20 / 21)
