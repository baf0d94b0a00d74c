"""A policy that nobody has heard of: its decisions say enough to be told, and its findings help its family."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from lrpilot.wire.messages.schedule_parts import merged
from lrpilot.wire.profile import Profile, Shape
from markupsafe import escape

from tests.support.jobs.sample_jobs import history, run_job, stored
from tests.support.jobs.simulated_training import Run, SimulatedTraining, drive
from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.job.machine import Status
from tuner_server.core.messages import Candidate, Decision, Directive, Extrapolation, Outcome, Phase, Report
from tuner_server.core.policies import POLICIES
from tuner_server.core.policies.base import Options, Policy, PolicyState, Progress, Step
from tuner_server.core.search.prior import Optimum
from tuner_server.history.from_wire import job_and_history
from tuner_server.history.stage import Undoing
from tuner_server.history.thinning import Window
from tuner_server.history.timeline import Timeline, timeline
from tuner_server.history.words.headline import headline
from tuner_server.history.words.reasons import why
from tuner_server.report.report_file import report_html
from tuner_server.rpc.schedule_messages import schedule_to_pb
from tuner_server.service.family import optimum_of
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import open_storage
from tuner_server.web.charts.evidence import stage_curves
from tuner_server.web.charts.job_chart import job_chart
from tuner_server.web.pages.views import job_view

N_PROBE = 20


class HalvingState(PolicyState):
    """Between two directives."""

    candidates: tuple[Candidate, ...] = ()


class Halving(Policy[Options, HalvingState]):
    """Tries an LR and half of it, and trains with half the better one. It begins where the family left off."""

    name = "halving"
    options_type = Options
    state_type = HalvingState

    def start(self, progress: Progress) -> Step[HalvingState]:
        """The first probe."""
        lr = self.config.base_lr if progress.prior is None else math.exp(progress.prior.log_lr)
        return self._probe(HalvingState(), lr)

    def advance(
        self, state: HalvingState, directive: Directive, report: Report, progress: Progress
    ) -> Step[HalvingState]:
        """The second probe, then the rest."""
        assert directive.profile is not None
        lr, loss = directive.profile.start_lr, report.losses[-1]
        judged = Candidate(directive_number=directive.number, lr=lr, forecast=loss, forecast_sd=0.1, raw_forecast=loss)
        state = HalvingState(candidates=(*state.candidates, judged))
        if len(state.candidates) < 2:
            return self._probe(state, lr / 2)
        best = min(state.candidates, key=lambda candidate: candidate.rank)
        decision = Decision(
            stage=0,
            lr=best.lr / 2,
            reason="half of the better one is safer",
            candidates=state.candidates,
            optimum=best.lr,
            correction=0.9,
            extrapolation=Extrapolation(forecaster="a ruler", horizon=40, losses=(3.0, 2.0)),
        )
        return self._train(state, decision, progress)

    def rejoin(self, state: HalvingState, progress: Progress) -> Step[HalvingState]:
        """The rest, as it was set."""
        return self.without_search(state, progress, "back")

    def without_search(self, state: HalvingState, progress: Progress, reason: str) -> Step[HalvingState]:
        """The rest, as it was set."""
        return self._train(state, Decision(stage=0, lr=self.config.base_lr, reason=reason), progress)

    @classmethod
    def optimum(cls, state: HalvingState) -> Optimum | None:
        """The better one."""
        if len(state.candidates) < 2:
            return None
        best = min(state.candidates, key=lambda candidate: candidate.rank)
        return Optimum(log_lr=math.log(best.lr), probe_steps=N_PROBE)

    def _probe(self, state: HalvingState, lr: float) -> Step[HalvingState]:
        directive = Directive(phase=Phase.PROBE, stage=0, n_steps=N_PROBE, profile=Profile.constant(lr, N_PROBE))
        return Step(state, directive, Decision(stage=0, lr=lr, reason="tried", candidates=state.candidates))

    def _train(self, state: HalvingState, decision: Decision, progress: Progress) -> Step[HalvingState]:
        n_steps = progress.remaining_steps or N_PROBE
        profile = Profile.constant(decision.lr, n_steps)
        return Step(state, Directive(phase=Phase.TRAIN, stage=0, n_steps=n_steps, profile=profile), decision)


class RampState(PolicyState):
    """It keeps nothing."""


class Ramp(Policy[Options, RampState]):
    """Never searches: trains at an LR that rises from 0.01 to 0.05, and says why."""

    name = "ramp"
    options_type = Options
    state_type = RampState

    @property
    def searches(self) -> bool:
        """It does not."""
        return False

    def start(self, progress: Progress) -> Step[RampState]:
        """All steps."""
        return self.without_search(RampState(), progress, "a ramp is what this model likes")

    def advance(self, state: RampState, directive: Directive, report: Report, progress: Progress) -> Step[RampState]:
        """All that is left."""
        return self.without_search(state, progress, "once more")

    def rejoin(self, state: RampState, progress: Progress) -> Step[RampState]:
        """All that is left."""
        return self.without_search(state, progress, "back")

    def without_search(self, state: RampState, progress: Progress, reason: str) -> Step[RampState]:
        """All that is left."""
        n_steps = progress.remaining_steps or N_PROBE
        profile = Profile(Shape.LINEAR, 0.01, 0.05, n_steps)
        return Step(state, Directive(phase=Phase.TRAIN, stage=0, n_steps=n_steps, profile=profile, reason=reason))


CONFIG = JobConfig(policy="halving", family="any", total_steps=200, lr_bounds=LrBounds(min=1e-3, max=1.0), base_lr=0.1)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line in the registry, as any policy has."""
    monkeypatch.setitem(POLICIES, Halving.name, Halving)
    monkeypatch.setitem(POLICIES, Ramp.name, Ramp)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[TunerService]:
    with open_storage(f"sqlite:///{tmp_path}/lrpilot.db") as storage, TunerService(storage) as service:
        yield service


def test_its_page_its_report_and_what_the_api_gives_say_why() -> None:
    run = drive(CONFIG, SimulatedTraining())
    job, entries = stored(run.state), history(run)
    found = timeline(entries)
    (stage,) = job_view(job, found).stages
    assert "LR 0.05 forecast the lowest loss" in stage.why
    assert "times 0.9 for the decay over 160 steps is 0.045. LR 0.025 was committed: half of the better" in stage.why
    assert str(escape(stage.why)) in report_html(job, found)
    elsewhere, entries = job_and_history(merged(schedule_to_pb(job, entries, full=True)))
    assert [other.why for other in job_view(elsewhere, timeline(entries)).stages] == [stage.why]


def test_a_policy_that_never_searches_is_told_as_it_is() -> None:
    run = drive(JobConfig(policy="ramp", total_steps=2000, base_lr=0.1), SimulatedTraining())
    job, found = stored(run.state), timeline(history(run))
    view = job_view(job, found)
    (stage,) = view.stages
    words = " ".join((view.headline, view.verdict.words, view.verdict.why, stage.why, *map(str, view.facts)))
    assert "The LR rose from 0.01 to 0.05 along a line." in view.headline
    assert "No steps went into search." in view.headline
    assert stage.lr == "LR 0.05"
    assert stage.why == (
        "LR 0.05 was committed for 2\u202f000 steps, without a search: a ramp is what this model likes."
    )
    assert str(escape(stage.why)) in report_html(job, found)
    assert not any(wrong in words for wrong in ("too few", "too short", "decay", "fell from", "was set", "rolled back"))
    assert next(fact for fact in view.facts if fact.name == "Search").value == "none"
    (bounds,) = (fact.value for fact in view.details if fact.name == "LR bounds")
    assert bounds == "0.00333 to 3, around the LR that was set"


def _told(decision: Decision) -> str:
    """What is said of the halving job's stage, had its policy decided so."""
    run = drive(CONFIG, SimulatedTraining())
    (stage,) = timeline(history(run)).stages
    assert stage.decision is not None
    return why(dataclasses.replace(stage, decision=decision.model_copy(update={"stage": 0})), CONFIG)


def test_a_decision_whose_lr_our_words_do_not_explain_gives_its_own_reason() -> None:
    low, high = (
        Candidate(directive_number=n, lr=lr, forecast=loss, forecast_sd=0.1)
        for n, lr, loss in ((1, 0.1, 2.0), (2, 0.05, 2.5))
    )
    decision = Decision(stage=0, lr=0.3, reason="a coin fell so", candidates=(low, high))
    said = "LR 0.3 was committed: a coin fell so."
    assert said in _told(decision)
    assert said in _told(decision.model_copy(update={"optimum": 0.1}))
    diverged = tuple(Candidate(directive_number=n, lr=lr, at_least=9.0) for n, lr in ((1, 0.1), (2, 0.05)))
    assert f"All diverged. {said}" in _told(decision.model_copy(update={"candidates": diverged}))
    longer = decision.model_copy(update={"optimum": 0.1, "correction": 3.0})
    assert "A longer run wants a higher LR" in _told(longer)


def test_what_comes_after_a_rollback_is_called_lower_only_where_it_is() -> None:
    run = drive(JobConfig(policy="ramp", total_steps=2000, base_lr=0.1), SimulatedTraining())
    (stage,) = timeline(history(run)).stages
    for lr, words in ((0.3, "and a lower LR, 0.05, took"), (0.02, "rolled back, and LR 0.05 took")):
        undoing = Undoing(Outcome.DIVERGED, lr, 1, 9)
        assert words in why(dataclasses.replace(stage, retreats_from=undoing), CONFIG)


def test_a_ramp_after_another_is_told_from_where_to_where() -> None:
    run = drive(JobConfig(policy="ramp", total_steps=2000, base_lr=0.1), SimulatedTraining())
    (stage,) = timeline(history(run)).stages
    twice = Timeline(stage.spans, (stage, dataclasses.replace(stage, index=1)))
    assert "; in the last it rose from 0.01 to 0.05 along a line." in headline(run.state, twice)


def test_a_warm_up_is_called_linear_only_where_it_is() -> None:
    run = drive(JobConfig(policy="ramp", total_steps=2000, base_lr=0.1), SimulatedTraining())
    (stage,) = timeline(history(run)).stages
    for shape, words in ((Shape.LINEAR, "A linear warm-up"), (Shape.COSINE, "A warm-up")):
        profile = Profile(shape, 0.01, 0.05, 2000)
        directive = Directive(phase=Phase.WARM_UP, n_steps=2000, profile=profile)
        said = why(dataclasses.replace(stage, directive=directive), CONFIG)
        assert said == f"{words} to LR 0.05 over 2\u202f000 steps."


def test_a_part_of_a_decay_has_the_lr_that_it_begins_with() -> None:
    run = drive(JobConfig(policy="ramp", total_steps=2000, base_lr=0.1), SimulatedTraining())
    (stage,) = timeline(history(run)).stages
    profile = Profile(Shape.LINEAR, 0.4, 0.0, 4000, offset=2000)
    part = Directive(phase=Phase.TRAIN, n_steps=1000, profile=profile)
    assert dataclasses.replace(stage, directive=part).lr == pytest.approx(0.2)
    span = dataclasses.replace(stage.spans[0], profile=profile)
    found = Timeline((span,), (dataclasses.replace(stage, spans=(span,)),))
    assert "The LR fell from 0.2 to 0 along a line." in headline(run.state, found)


def test_a_client_by_itself_does_not_decay_if_no_end_is_known() -> None:
    run = drive(JobConfig(policy="ramp", total_steps=2000, base_lr=0.1), SimulatedTraining())
    (stage,) = timeline(history(run)).stages
    span = dataclasses.replace(stage.spans[0], profile=Profile.constant(0.1, 2000))
    alone = dataclasses.replace(stage, directive=None, replaced=True, spans=(span,))
    assert why(alone, CONFIG.model_copy(update={"total_steps": None})).endswith("at LR 0.1.")


def test_its_charts_show_what_its_decisions_tell() -> None:
    found = timeline(history(drive(CONFIG, SimulatedTraining())))
    forecasts = job_chart(found, Window(0, found.n_steps, 500))["forecasts"]
    start = found.stages[0].spans[0].start
    assert forecasts["x"] == [start + 40]
    assert forecasts["curve"] == {"x": [start, start + 40, None], "y": [3.0, 2.0, None]}
    curves = stage_curves(found.stages[0], CONFIG)
    json.dumps(curves, allow_nan=False)
    assert curves["acquisition"] is None
    assert curves["corrected"] is not None
    assert curves["corrected"]["way"] == "× 0.9 for the longer run"


@pytest.mark.parametrize("forecast", [math.inf, -math.inf, math.nan, 1e308, -1e308])
@pytest.mark.parametrize("sd", [None, math.inf, -1e308, math.nan])
def test_a_forecast_that_has_no_place_in_a_plot_hinders_no_page(forecast: float, sd: float | None) -> None:
    run = drive(CONFIG, SimulatedTraining())
    exchanges = []
    for exchange in run.exchanges:
        decision = exchange.decision
        if decision is not None:
            fields = {"forecast": forecast, "forecast_sd": sd}
            candidates = tuple(candidate.model_copy(update=fields) for candidate in decision.candidates)
            changed = decision.model_copy(update={**fields, "candidates": candidates})
            decision = Decision.model_validate_json(changed.model_dump_json())
        exchanges.append(dataclasses.replace(exchange, decision=decision))
    job, found = stored(run.state), timeline(history(Run(run.state, exchanges)))
    for stage in found.stages:
        json.dumps(stage_curves(stage, CONFIG), allow_nan=False)
    json.dumps(job_chart(found, Window(0, found.n_steps, 500)), allow_nan=False)
    assert job_view(job, found).stages


def test_what_it_found_is_where_the_next_job_of_its_family_begins(service: TunerService) -> None:
    first = service.get_job(DEFAULT_PROJECT, run_job(service, CONFIG, SimulatedTraining()))
    assert first.state.prior is None
    assert optimum_of(first.state) == Optimum(log_lr=math.log(0.05), probe_steps=N_PROBE)
    higher = CONFIG.model_copy(update={"base_lr": 0.7})
    second = service.get_job(DEFAULT_PROJECT, run_job(service, higher, SimulatedTraining(), max_reports=1))
    assert second.state.prior is not None
    assert second.state.directive.profile is not None
    assert second.state.directive.profile.start_lr == pytest.approx(0.025), "half of 0.05, and not of 0.7"


def test_a_family_uses_nothing_of_a_search_that_told_nothing(service: TunerService) -> None:
    state = service.get_job(DEFAULT_PROJECT, run_job(service, CONFIG, SimulatedTraining())).state
    assert optimum_of(state.model_copy(update={"policy_state": None})) is None
    assert optimum_of(state.model_copy(update={"unrepeatable": "another loss"})) is None
    unknown = state.model_copy(update={"config": CONFIG.model_copy(update={"policy": "of a plugin that is gone"})})
    assert optimum_of(unknown) is None
    failed = optimum_of(state.model_copy(update={"status": Status.FAILED}))
    assert failed is not None
    assert not failed.good_end


def test_most_policies_leave_nothing(service: TunerService) -> None:
    autolrs = CONFIG.model_copy(update={"policy": "autolrs", "policy_options": {"tau": 40, "tau_prime": 8}})
    run = drive(autolrs, SimulatedTraining())
    assert optimum_of(run.state) is None
