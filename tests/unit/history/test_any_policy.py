"""A policy that nobody has heard of: its decisions say enough to be told, and its findings help its family."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from lrpilot.wire.profile import Profile
from markupsafe import escape

from tests.support.jobs.sample_jobs import history, run_job, stored
from tests.support.jobs.simulated_training import SimulatedTraining, drive
from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.job.machine import Status
from tuner_server.core.messages import Candidate, Decision, Directive, Extrapolation, Phase, Report
from tuner_server.core.policies import POLICIES
from tuner_server.core.policies.base import Options, Policy, PolicyState, Progress, Step
from tuner_server.core.search.prior import Optimum
from tuner_server.history.from_wire import job_and_history
from tuner_server.history.thinning import Window
from tuner_server.history.timeline import timeline
from tuner_server.report.report_file import report_html
from tuner_server.rpc.convert import schedule_to_pb
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


CONFIG = JobConfig(policy="halving", family="any", total_steps=200, lr_bounds=LrBounds(min=1e-3, max=1.0), base_lr=0.1)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line in the registry, as any policy has."""
    monkeypatch.setitem(POLICIES, Halving.name, Halving)


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
    elsewhere, entries = job_and_history(schedule_to_pb(job, entries, history=True))
    assert [other.why for other in job_view(elsewhere, timeline(entries)).stages] == [stage.why]


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
