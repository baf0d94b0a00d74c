"""What every policy keeps to, and what everything that shows a job keeps to with every policy.

A policy is one line of `POLICIES`: its name, and the options with which it is through in some thousand steps. That of
the documentation, `grid`, is installed as its page says. `--policy` has another one tested that is installed.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lrpilot.schedule.schedule import Schedule
from lrpilot.wire import schedule_file
from lrpilot.wire.messages.schedule_parts import merged
from rich.console import Console

from tests.support.extensions import page_examples
from tests.support.jobs.sample_jobs import SlowTraining, history, stored
from tests.support.jobs.simulated_training import QUICK, Exchange, NoNumbers, Run, SimulatedTraining, drive
from tuner_server.cli.picture import laid_out, picture
from tuner_server.core import policies
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.evidence import restart
from tuner_server.core.evidence.restart import MAX_RESTARTS, RETREAT
from tuner_server.core.job import lockstep, machine
from tuner_server.core.job.lockstep import PendingSearch
from tuner_server.core.job.machine import JobState, Status, Transition
from tuner_server.core.messages import Directive, Outcome, Phase, Report
from tuner_server.core.policies import fedhyper, hypergradient, plugins
from tuner_server.core.search.prior import Optimum, Prior
from tuner_server.core.stages.fedhyper import Variant
from tuner_server.core.stages.hypergradient import Form
from tuner_server.history.from_wire import job_and_history
from tuner_server.history.thinning import Window
from tuner_server.history.timeline import timeline
from tuner_server.report.report_file import report_html
from tuner_server.rpc.schedule_messages import schedule_to_pb
from tuner_server.service.family import optimum_of, prior_from
from tuner_server.web.charts.drawing import overview, sparkline
from tuner_server.web.charts.evidence import stage_curves
from tuner_server.web.charts.job_chart import job_chart
from tuner_server.web.pages.views import job_view
from tuner_server.web.server.exports import data_csv, schedule_text

POLICIES: dict[str, dict[str, Any]] = {
    "autolrs": QUICK,
    "budget": {},
    "fedhyper": {"local_steps": 50},
    "grid": {},
    "hypergradient": {"every": 100},
    "open_ended": {"first_stage": 100},
    "refined": {"decay": "cosine"},
}
"""By name: the options."""

MEASURES = (*hypergradient.NEEDED[Form.MULTIPLICATIVE], *fedhyper.NEEDED[Variant.GM])
"""What policies of these options ask a client to measure."""
TOTAL, BASE_LR, BEST_LR = 1000, 0.1, 0.05
EVERYTHING_DIVERGES = 1e-30
ALONE_STEPS = 10
"""That `drive` has a training do by itself."""


@pytest.fixture(scope="module", autouse=True)
def documented(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The policy of the documentation is installed, unless another one is tested, which may have its name."""
    if request.config.getoption("--policy", default=None) is not None:
        yield
        return
    folder = tmp_path_factory.mktemp("site-packages")
    page_examples.install_policy(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        plugins.offered.cache_clear()
        yield
    plugins.offered.cache_clear()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each policy in turn, or the one that the command line names; each with its options."""
    if "policy" not in metafunc.fixturenames:
        return
    tested, name = POLICIES, metafunc.config.getoption("--policy", default=None)
    if name is not None:
        tested = {name: metafunc.config.getoption("--policy-options")}
    metafunc.parametrize("policy", list(tested.items()), ids=list(tested))


@pytest.fixture(params=[False, True], ids=["losses", "validated"])
def config(policy: tuple[str, dict[str, Any]], request: pytest.FixtureRequest) -> JobConfig:
    """A job of it, whose bounds hold the simulated optimum."""
    name, options = policy
    return JobConfig(
        policy=name,
        policy_options=options,
        total_steps=TOTAL,
        lr_bounds=LrBounds(min=1e-4, max=1.0),
        base_lr=BASE_LR,
        has_validation=request.param,
        measures=MEASURES,
    )


def searches(config: JobConfig) -> bool:
    """Whether there are probes in a job."""
    return policies.make(config).searches


class HotTraining(SimulatedTraining):
    """Its probes are sound at LRs at which its committed steps diverge, some twenty steps on."""

    def __init__(self, seed: int = 0, *, committed_edge: float, **arguments: Any) -> None:
        super().__init__(seed, **arguments)
        self._edges = {True: committed_edge, False: self.edge_lr}

    def run(self, directive: Any) -> Report:
        self.edge_lr = self._edges[directive.phase.committed]
        return super().run(directive)


def training(config: JobConfig, **arguments: Any) -> SimulatedTraining:
    return SimulatedTraining(best_lr=BEST_LR, validates=config.has_validation, **arguments)


def points(config: JobConfig, training: SimulatedTraining, events: Events | None = None) -> Iterator[Run]:
    """A job after each report, the first time before any; `events` may put another report in a training's place."""
    transition, exchanges = machine.create(config), list[Exchange]()
    while True:
        directive = transition.directive
        yield Run(transition.state, [*exchanges, Exchange(directive, transition.decision, None)])
        if directive.phase is Phase.STOP:
            return
        report = events(len(exchanges), transition.state, training) if events is not None else None
        report = training.run(directive) if report is None else report
        exchanges.append(Exchange(directive, transition.decision, report))
        assert len(exchanges) < TOTAL
        transition = machine.advance(transition.state, report)


Events = Callable[[int, JobState, SimulatedTraining], Report | None]
"""What comes of a directive, by its index; None: what the training makes of it."""


def unrepeatable_after(n_probes: int) -> Events:
    """The probe after so many of them does not begin where the first one did."""
    seen = 0

    def event(index: int, state: JobState, training: SimulatedTraining) -> Report | None:
        nonlocal seen
        if state.directive.phase is not Phase.PROBE:
            return None
        seen += 1
        if seen != n_probes + 1:
            return None
        report = training.run(state.directive)
        return report.model_copy(update={"outcome": Outcome.UNREPEATABLE, "note": "it began at another loss"})

    return event


def alone_after(n_directives: int) -> Events:
    """The training goes on by itself once, after so many directives."""

    def event(index: int, state: JobState, training: SimulatedTraining) -> Report | None:
        if index != n_directives or (state.remaining_steps or 0) < ALONE_STEPS:
            return None
        return training.run_alone(state.directive, ALONE_STEPS, 0.01)

    return event


SHORT_REST = 70
"""Steps that are too few for a search."""


def setback_then(unrepeatable: bool) -> Events:
    """After a setback the training goes on alone once, and once more when little is left.

    Args:
        unrepeatable: Whether the first probe after the setback does not begin where another did.
    """
    alone: list[int] = []

    def event(index: int, state: JobState, training: SimulatedTraining) -> Report | None:
        nonlocal unrepeatable
        remaining, set_back = state.remaining_steps or 0, state.given_back_steps > 0
        if set_back and unrepeatable and state.directive.phase is Phase.PROBE:
            unrepeatable = False
            report = training.run(state.directive)
            return report.model_copy(update={"outcome": Outcome.UNREPEATABLE, "note": "it began at another loss"})
        due = not alone or (len(alone) == 1 and remaining <= SHORT_REST)
        if not set_back or not due or remaining <= ALONE_STEPS:
            return None
        alone.append(index)
        return training.run_alone(state.directive, ALONE_STEPS, 1e-9)

    return event


def last(runs: Iterator[Run]) -> Run:
    """The end of a job."""
    *_, end = runs
    return end


def committed_peaks(run: Run) -> list[tuple[float, Outcome | None]]:
    """The peak LR of each training that a policy asked for, in order, and how it ended."""
    found: list[tuple[float, Outcome | None]] = []
    for exchange in run.exchanges:
        directive, report = exchange.directive, exchange.report
        if directive.phase is not Phase.TRAIN or directive.profile is None:
            continue
        outcome = None if report is None else report.outcome
        if found and found[-1][1] is Outcome.PARTIAL:
            found[-1] = (found[-1][0], outcome)
        else:
            found.append((directive.profile.peak, outcome))
    return found


def test_every_registered_policy_is_here() -> None:
    assert policies.POLICIES.keys() <= POLICIES.keys()


@pytest.mark.parametrize("bounds", [True, False], ids=["bounds", "range test"])
@pytest.mark.parametrize("seed", range(2))
def test_a_job_runs_as_many_steps_as_it_may(config: JobConfig, bounds: bool, seed: int) -> None:
    asked = config if bounds else config.model_copy(update={"lr_bounds": None})
    for make in (SimulatedTraining, SlowTraining):
        running = make(seed, validates=asked.has_validation)
        run = drive(asked, running)
        assert run.state.status is Status.FINISHED
        assert running.n_run == run.state.run_steps == TOTAL
        assert running.weights.n_lrs == len(running.lrs) == run.state.committed_steps > 0


@pytest.mark.parametrize("total_steps", [1, 7, 60, 499, 500, 777])
def test_a_job_that_is_too_short_is_refused_or_runs_to_its_end(config: JobConfig, total_steps: int) -> None:
    asked, running = config.model_copy(update={"total_steps": total_steps}), training(config)
    if refused := refused_fields(asked):
        assert refused == ["total_steps"]
        return
    run = drive(asked, running)
    assert run.state.status is Status.FINISHED
    assert running.n_run == total_steps
    assert not undecided(run)


def refused_fields(config: JobConfig) -> list[str]:
    """What a job is refused for; empty: it is accepted."""
    try:
        machine.create(config)
    except InvalidInputError as refused:
        return [violation.field for violation in refused.violations]
    return []


def test_an_option_that_it_has_not_is_refused_by_name(config: JobConfig) -> None:
    asked = config.model_copy(update={"policy_options": {**config.policy_options, "no_such_option": 1}})
    assert refused_fields(asked) == ["policy_options.no_such_option"]


def test_the_same_reports_give_the_same_schedule_bit_for_bit(config: JobConfig) -> None:
    first, second = drive(config, training(config)), drive(config, training(config))
    assert first == second
    assert first.state.model_dump_json() == second.state.model_dump_json()


def test_another_seed_gives_another_job_that_is_as_good(config: JobConfig) -> None:
    run = drive(config.model_copy(update={"seed": 7}), training(config, seed=7))
    assert run.state.status is Status.FINISHED


def test_its_state_is_all_in_its_json(config: JobConfig) -> None:
    running, expected = training(config), drive(config, training(config))
    transition = machine.create(config)
    kind = policies.find(config.policy).state_type
    for exchange in expected.exchanges:
        assert (transition.directive, transition.decision) == (exchange.directive, exchange.decision)
        kept = JobState.model_validate_json(transition.state.model_dump_json())
        assert kept == transition.state
        own = kind.model_validate(kept.policy_state)
        assert kind.model_validate_json(own.model_dump_json()) == own
        if transition.directive.phase is not Phase.STOP:
            transition = machine.advance(kept, running.run(transition.directive))
    assert transition.state == expected.state


def test_every_decision_explains_its_directive(config: JobConfig) -> None:
    probes: dict[int, float] = {}
    for run in points(config, training(config)):
        exchange = run.exchanges[-1]
        directive, decision = exchange.directive, exchange.decision
        if directive.phase is Phase.STOP or directive.profile is None:
            continue
        assert directive.reason
        if directive.phase is Phase.PROBE:
            probes[directive.number] = directive.profile.peak
        if decision is not None:
            assert (decision.stage, decision.lr) == (directive.stage, directive.profile.peak)
            assert decision.reason
            for candidate in decision.candidates:
                assert probes[candidate.directive_number] == candidate.lr
    assert probes or not searches(config), "this job is long enough for a search"


def undecided(run: Run) -> list[Directive]:
    """The directives of a policy that commit steps, and came without a decision; none are pieces of a longer way."""
    parts = {0: False} | {
        i: e.report is not None
        and e.directive.phase.committed
        and e.report.outcome in (Outcome.PARTIAL, Outcome.COMPLETED)
        for i, e in enumerate(run.exchanges, start=1)
    }
    return [
        exchange.directive
        for i, exchange in enumerate(run.exchanges)
        if exchange.directive.phase.committed and not parts[i] and exchange.decision is None
    ]


def test_a_client_that_trained_on_alone_may_come_back_at_any_time(config: JobConfig) -> None:
    n_directives = len(drive(config, training(config)).exchanges) - 1
    for index in range(0, n_directives, math.ceil(n_directives / 24)):
        running = training(config)
        run = last(points(config, running, alone_after(index)))
        assert run.state.status is Status.FINISHED
        assert not undecided(run)
        assert running.n_run == run.state.run_steps == TOTAL


def test_where_every_lr_diverges_it_ends(config: JobConfig) -> None:
    run = drive(config, training(config, edge_lr=EVERYTHING_DIVERGES))
    assert 0 < n_divergences(run) <= MAX_RESTARTS + 1
    assert run.state.run_steps == TOTAL or "DivergenceError" in run.state.message


def test_where_no_loss_is_a_number_the_lr_is_not_the_cause(config: JobConfig) -> None:
    run = drive(config, NoNumbers(validates=config.has_validation))
    assert len(run.exchanges) == restart.MAX_BEGINNINGS + 1, "and no step is spent on looking for one"
    assert run.state.status is Status.FAILED
    assert "none of 3 reports begins with a finite loss" in run.state.message
    assert run.state.run_steps < TOTAL


def n_divergences(run: Run) -> int:
    """How often committed steps diverged."""
    return [outcome for _, outcome in committed_peaks(run)].count(Outcome.DIVERGED)


@pytest.mark.parametrize("committed_edge", [0.02, 1e-3])
def test_after_a_divergence_it_trains_at_a_lower_lr(config: JobConfig, committed_edge: float) -> None:
    running = HotTraining(committed_edge=committed_edge, validates=config.has_validation)
    run = drive(config, running)
    peaks = committed_peaks(run)
    assert any(outcome is Outcome.DIVERGED for _, outcome in peaks)
    for (peak, outcome), (following, _) in itertools.pairwise(peaks):
        assert following < peak or outcome is not Outcome.DIVERGED
    assert run.state.status is Status.FINISHED
    assert running.n_run == TOTAL


@pytest.mark.parametrize("unrepeatable", [False, True], ids=["rejoined", "unrepeatable"])
@pytest.mark.parametrize("edges", [(0.6, 0.02), (0.6, 1e-3), (1e-6, 1e-6)], ids=str)
def test_after_a_setback_no_lr_comes_back_that_failed(
    config: JobConfig, edges: tuple[float, float], unrepeatable: bool
) -> None:
    edge, committed_edge = edges
    running = HotTraining(committed_edge=committed_edge, edge_lr=edge, validates=config.has_validation)
    run = last(points(config, running, setback_then(unrepeatable)))
    assert run.state.status is Status.FINISHED
    assert running.n_run == TOTAL
    assert not undecided(run)
    assert run.state.given_back_steps > 0, "there was a setback"
    assert sum(e.report is not None and e.report.outcome is Outcome.REPLACED for e in run.exchanges) == 2
    ceiling, sound = math.inf, 0.0
    for directive, report in ((exchange.directive, exchange.report) for exchange in run.exchanges):
        if directive.profile is None or report is None:
            continue
        peak = directive.profile.peak
        if directive.phase is Phase.PROBE and report.outcome is Outcome.COMPLETED:
            sound = max(sound, peak)
        if directive.phase is Phase.TRAIN:
            assert peak <= max(ceiling * (1 + 1e-9), sound if ceiling < math.inf else math.inf), directive.reason
            if report.outcome.rolls_back:
                ceiling, sound = min(ceiling, peak / RETREAT), 0.0


def test_jobs_that_are_searched_for_together_go_on_as_if_each_were_alone(config: JobConfig) -> None:
    jobs = [config.model_copy(update={"seed": seed}) for seed in range(3)]
    expected = [drive(asked, training(asked, seed=i)) for i, asked in enumerate(jobs)]
    trainings = [training(asked, seed=i) for i, asked in enumerate(jobs)]
    got = [machine.create(asked) for asked in jobs]
    most = 0
    while live := [i for i, transition in enumerate(got) if transition.directive.phase is not Phase.STOP]:
        begun = {i: lockstep.begin(got[i].state, trainings[i].run(got[i].directive)) for i in live}
        searches = {i: found for i, found in begun.items() if isinstance(found, PendingSearch)}
        most = max(most, len(searches))
        answered = dict(zip(searches, lockstep.finish_all(list(searches.values())), strict=True))
        got = [_settled(begun.get(i), answered.get(i), transition) for i, transition in enumerate(got)]
    assert [transition.state for transition in got] == [run.state for run in expected]


def _settled(begun: Transition | PendingSearch | None, answered: Transition | None, before: Transition) -> Transition:
    return answered or (begun if isinstance(begun, Transition) else before)


@pytest.mark.parametrize("n_probes", [1, 2])
@pytest.mark.parametrize("alone", [None, 6])
def test_after_a_rollback_that_failed_there_is_no_search(config: JobConfig, n_probes: int, alone: int | None) -> None:
    if not searches(config):
        pytest.skip("nothing is rolled back but steps that diverged")
    fails, goes = unrepeatable_after(n_probes), alone_after(alone) if alone is not None else None

    def events(index: int, state: JobState, training: SimulatedTraining) -> Report | None:
        return fails(index, state, training) or (goes(index, state, training) if goes is not None else None)

    running = training(config)
    run = last(points(config, running, events))
    failed = next(
        i for i, e in enumerate(run.exchanges) if e.report is not None and e.report.outcome is Outcome.UNREPEATABLE
    )
    after = run.exchanges[failed + 1 :]
    assert {exchange.directive.phase for exchange in after} == {Phase.TRAIN, Phase.STOP}
    assert all(e.directive.profile is None or e.directive.profile.peak <= BASE_LR for e in after)
    assert all(not exchange.directive.promise for exchange in after)
    first = after[0]
    assert first.decision is not None
    assert first.directive.profile is not None
    assert first.directive.profile.peak == BASE_LR
    assert "it began at another loss" in first.directive.reason
    assert run.state.status is Status.FINISHED
    assert running.n_run == TOTAL
    assert prior_from([run.state]) is None


def test_what_it_leaves_to_its_family_is_of_use(config: JobConfig) -> None:
    before = drive(config, training(config)).state
    optimum = optimum_of(before)
    assert optimum is None or abs(optimum.log_lr - math.log(BEST_LR)) < math.log(10.0)
    known = prior_from([before]) or Prior(log_lr=math.log(BEST_LR), sd=0.5, n_jobs=2, probe_steps=20)
    running = training(config)
    state = drive_with(config, known, running)
    assert state.status is Status.FINISHED
    assert running.n_run == TOTAL
    failed = before.model_copy(update={"status": Status.FAILED})
    assert optimum is None or optimum_of(failed) == optimum.model_copy(update={"good_end": False})
    assert isinstance(optimum, Optimum | None)


def drive_with(config: JobConfig, prior: Prior, training: SimulatedTraining) -> JobState:
    """The end of a job that earlier ones of its family have told something."""
    transition = machine.create(config, prior)
    while transition.directive.phase is not Phase.STOP:
        transition = machine.advance(transition.state, training.run(transition.directive))
    return transition.state


def _hot(config: JobConfig) -> HotTraining:
    return HotTraining(committed_edge=0.02, validates=config.has_validation)


LIVES: dict[str, Callable[[JobConfig], Iterator[Run]]] = {
    "to the end": lambda config: points(config, training(config)),
    "diverged": lambda config: points(config, _hot(config)),
    "all diverged": lambda config: points(config, training(config, edge_lr=EVERYTHING_DIVERGES)),
    "alone": lambda config: points(config, training(config), alone_after(5)),
    "a rollback failed": lambda config: points(config, training(config), unrepeatable_after(2)),
    "set back, alone, rejoined": lambda config: points(config, _hot(config), setback_then(unrepeatable=False)),
    "set back, unrepeatable": lambda config: points(config, _hot(config), setback_then(unrepeatable=True)),
}


@pytest.mark.parametrize("life", LIVES)
def test_a_job_can_be_shown_at_every_point(life: str, config: JobConfig) -> None:
    for run in LIVES[life](config):
        _show_on_the_dashboard(run)
        _show_elsewhere(run)


def _show_on_the_dashboard(run: Run) -> None:
    found = timeline(history(run))
    view = job_view(stored(run.state), found)
    assert view.headline
    assert found.n_steps == run.state.run_steps
    for svg in (overview(found), sparkline(found)):
        assert not {"nan", "inf"} & set(svg.split('"'))
    json.dumps(job_chart(found, Window(0, max(found.n_steps, 1), 200)), allow_nan=False)
    for stage in found.stages:
        json.dumps(stage_curves(stage, run.state.config), allow_nan=False)
    assert len("".join(data_csv(stored(run.state), history(run))).splitlines()) == 1 + found.n_steps


def _show_elsewhere(run: Run) -> None:
    """In a report, in a terminal, and as a schedule: what the API tells is enough for each, and says the same."""
    job, entries = stored(run.state), history(run)
    here = job_view(job, timeline(entries))
    response = merged(schedule_to_pb(job, entries, full=True))
    told, history_told = job_and_history(response)
    there = job_view(told, timeline(history_told))
    assert (there.headline, there.verdict, there.facts) == (here.headline, here.verdict, here.facts)
    assert [stage.why for stage in there.stages] == [stage.why for stage in here.stages]
    file = io.StringIO()
    Console(width=200, file=file).print(picture(response.job, laid_out(response)))
    assert " ".join(here.headline.split()) in " ".join(file.getvalue().split())
    schedule = Schedule.from_response(response)
    assert "".join(schedule_text(job, entries)) == schedule_file.dumps(schedule)
    assert schedule.n_steps == run.state.committed_steps


@pytest.mark.parametrize("life", ["to the end", "diverged", "a rollback failed"])
def test_a_report_can_be_made_of_it(life: str, config: JobConfig) -> None:
    runs = list(LIVES[life](config))
    for run in runs[:: max(len(runs) // 6, 1)]:
        text = report_html(stored(run.state), timeline(history(run)))
        assert "<html" in text
        assert "NaN" not in text.partition("<body>")[2].partition("<script")[0]


def test_a_job_can_be_shown_when_its_policy_is_gone(config: JobConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = list(points(config, training(config)))
    monkeypatch.setattr(policies, "POLICIES", {})
    monkeypatch.setattr(plugins, "offered", dict)
    for run in runs:
        _show_on_the_dashboard(run)
        _show_elsewhere(run)
    assert report_html(stored(runs[-1].state), timeline(history(runs[-1])))
    assert optimum_of(runs[-1].state) is None
