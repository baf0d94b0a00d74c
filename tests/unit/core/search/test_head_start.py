"""Searches with a prior: what a right one saves, and that a wrong one costs at most one probe."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.jobs.simulated_training import SimulatedTraining, drive
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.job import machine
from tuner_server.core.job.machine import JobState
from tuner_server.core.messages import Directive, Outcome, Phase, Report, Validation
from tuner_server.core.search.prior import Prior
from tuner_server.service.family import optimum_of, prior_from

Loss = Callable[[float], float]
"""A loss over log LR; infinite where training diverges."""
PROBE_STEPS = 20


def config(bounds: tuple[float, float] = (1e-4, 1.0), total_steps: int = 4000, **options: Any) -> JobConfig:
    return JobConfig(
        policy="budget",
        policy_options={"probe_steps": PROBE_STEPS} | options,
        total_steps=total_steps,
        lr_bounds=LrBounds(min=bounds[0], max=bounds[1]),
        base_lr=0.1,
        has_validation=True,
    )


def prior_at(lr: float, sd: float = 0.5) -> Prior:
    return Prior(log_lr=math.log(lr), sd=sd, n_jobs=4, probe_steps=PROBE_STEPS)


def bowl(best_lr: float, edge_lr: float = math.inf) -> Loss:
    best, edge = math.log(best_lr), math.log(edge_lr)
    return lambda x: math.inf if x > edge else 1.0 + 0.1 * (x - best) ** 2


def report_on(directive: Directive, loss: Loss) -> Report:
    assert directive.profile is not None
    level = loss(math.log(directive.profile.start_lr))
    diverged = math.isinf(level)
    return Report(
        directive_number=directive.number,
        outcome=Outcome.DIVERGED if diverged else Outcome.COMPLETED,
        losses=(1.0,) * (directive.n_steps - 1) + (math.nan if diverged else 1.0,),
        validations=() if diverged else tuple(Validation(step=step, loss=level) for step in directive.validate_at),
    )


def search(config: JobConfig, loss: Loss, prior: Prior | None = None) -> tuple[list[float], JobState]:
    """The log LRs that are tried, and the state when the committed lease is issued."""
    transition = machine.create(config, prior)
    tried = []
    while transition.directive.phase is Phase.PROBE:
        assert transition.directive.profile is not None
        tried.append(math.log(transition.directive.profile.start_lr))
        transition = machine.advance(transition.state, report_on(transition.directive, loss))
    return tried, transition.state


def found(state: JobState) -> float:
    """Log LR of the optimum that a search found."""
    optimum = optimum_of(state)
    assert optimum is not None
    return optimum.log_lr


# --- a right prior ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("best_lr", [3e-4, 2e-3, 0.01, 0.05, 0.4])
@pytest.mark.parametrize("off", [0.8, 1.0, 1.25])
def test_a_right_prior_saves_probes_and_the_optimum_is_found_as_well(best_lr: float, off: float) -> None:
    without, _ = search(config(), bowl(best_lr))
    tried, state = search(config(), bowl(best_lr), prior_at(best_lr * off))
    assert len(tried) <= len(without) - 2
    assert abs(found(state) - math.log(best_lr)) < math.log(1.26)


def test_the_prior_comes_first_then_the_middle_then_what_is_beside_the_prior() -> None:
    tried, _ = search(config(), bowl(0.1), prior_at(0.1))
    assert tried == pytest.approx([math.log(0.1), math.log(0.01), math.log(0.2), math.log(0.05)])


def test_a_prior_for_longer_probes_is_shifted() -> None:
    longer = prior_at(0.1).model_copy(update={"probe_steps": 4 * PROBE_STEPS})
    tried, _ = search(config(length_exponent=0.25), bowl(0.1), longer)
    assert math.exp(tried[0]) == pytest.approx(0.1 * 4**0.25)


def test_a_prior_at_the_middle_is_checked_by_its_neighbours() -> None:
    tried, _ = search(config(), bowl(0.01), prior_at(0.011))
    assert tried == pytest.approx([math.log(lr) for lr in (0.01, 0.02, 0.005)])


@pytest.mark.parametrize("off", [0.5, 2.0])
def test_a_prior_that_is_a_little_off_still_saves_probes(off: float) -> None:
    without, _ = search(config(), bowl(0.05))
    tried, state = search(config(), bowl(0.05), prior_at(0.05 * off))
    assert len(tried) < len(without)
    assert abs(found(state) - math.log(0.05)) < math.log(1.26)


# --- a wrong prior ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("best_lr", [3e-4, 2e-3, 0.01, 0.05, 0.4])
@pytest.mark.parametrize("off", [1 / 300, 1 / 30, 1 / 5, 5.0, 30.0, 300.0])
@pytest.mark.parametrize("sd", [0.3, 1.0])
def test_the_optimum_is_found_in_spite_of_a_wrong_prior(best_lr: float, off: float, sd: float) -> None:
    without, _ = search(config(), bowl(best_lr))
    tried, state = search(config(), bowl(best_lr), prior_at(best_lr * off, sd))
    assert len(tried) <= len(without) + 1
    assert abs(found(state) - math.log(best_lr)) < math.log(1.5)


def test_a_prior_no_better_than_the_middle_is_only_one_more_probe() -> None:
    without, _ = search(config(refinements=0), bowl(0.02))
    tried, _ = search(config(refinements=0), bowl(0.02), prior_at(1e-3))
    assert tried[1:] == without


def test_a_prior_at_which_training_diverges_is_only_one_more_probe() -> None:
    loss = bowl(0.005, edge_lr=0.03)
    without, _ = search(config(refinements=0), loss)
    tried, state = search(config(refinements=0), loss, prior_at(0.5))
    assert tried[1:] == without
    assert found(state) < math.log(0.03)


@pytest.mark.parametrize("prior_lr", [1e-4, 1e-3, 4e-3, 0.01, 0.1])
def test_the_optimum_below_a_middle_that_diverges_is_found(prior_lr: float) -> None:
    loss = bowl(2e-3, edge_lr=8e-3)
    without, _ = search(config(), loss)
    tried, state = search(config(), loss, prior_at(prior_lr))
    assert len(tried) <= len(without) + 1
    assert abs(found(state) - math.log(2e-3)) < math.log(1.5)


@st.composite
def rugged(draw: st.DrawFn) -> Loss:
    """A bowl with waves of any height and an edge: also what no search was made for."""
    best, edge = draw(st.floats(-12.0, 4.0)), draw(st.floats(-12.0, 20.0))
    height, pitch = draw(st.floats(0.0, 5.0)), draw(st.floats(0.2, 5.0))
    return lambda x: math.inf if x > edge else 0.1 * (x - best) ** 2 + height * math.sin(pitch * x)


@given(
    loss=rugged(),
    prior=st.builds(prior_at, st.floats(1e-8, 1e4), st.floats(0.01, 10.0)),
    bounds=st.tuples(st.floats(1e-6, 1.0), st.floats(1.01, 1e5)).map(lambda b: (b[0], b[0] * b[1])),
    total_steps=st.integers(300, 5000),
    options=st.fixed_dictionaries(
        {},
        optional={
            "max_candidates": st.integers(1, 12),
            "refinements": st.integers(0, 5),
            "widening": st.floats(1.0, 100.0),
        },
    ),
)
@settings(max_examples=150, deadline=None)
def test_no_prior_costs_more_than_one_probe(
    loss: Loss, prior: Prior, bounds: tuple[float, float], total_steps: int, options: dict[str, Any]
) -> None:
    asked = config(bounds, total_steps, **options)
    without, _ = search(asked, loss)
    tried, state = search(asked, loss, prior)
    assert state.status.live
    assert len(tried) <= len(without) + 1


# --- from job to job --------------------------------------------------------------------------------------------------


@given(st.floats(1e-4, 1.0), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_a_prior_of_any_kind_in_a_simulated_training(lr: float, seed: int) -> None:
    def probes(prior: Prior | None) -> tuple[int, float]:
        training = SimulatedTraining(seed, validates=True)
        transition = machine.create(config(), prior)
        count = 0
        while transition.directive.phase is Phase.PROBE:
            count += 1
            transition = machine.advance(transition.state, training.run(transition.directive))
        return count, found(transition.state)

    without, best = probes(None)
    count, other = probes(prior_at(lr))
    assert count <= without + 1
    # The bell of the simulation is 1.5 wide in log LR, and its probes are noisy: both lie well inside it.
    assert max(abs(best - math.log(0.05)), abs(other - math.log(0.05))) < 1.5


def test_a_family_of_simulated_jobs_searches_less_than_its_first() -> None:
    states: list[JobState] = []
    for seed in range(4):
        training = SimulatedTraining(seed, validates=True)
        transition = machine.create(config(), prior_from(reversed(states)))
        while transition.directive.phase is not Phase.STOP:
            transition = machine.advance(transition.state, training.run(transition.directive))
        states.append(transition.state)
    assert all(state.search_steps < states[0].search_steps for state in states[1:])


def test_a_job_replayed_with_its_prior_is_the_same_bit_for_bit() -> None:
    prior = prior_at(0.1)
    transition = machine.create(config(), prior)
    reports = []
    while transition.directive.phase is Phase.PROBE:
        reports.append(report_on(transition.directive, bowl(0.06)))
        state = JobState.model_validate_json(transition.state.model_dump_json())
        assert state == transition.state
        transition = machine.advance(state, reports[-1])
    assert machine.replay(config(), reports, prior) == transition
    assert transition.state.prior == prior


def test_a_state_from_before_there_were_priors_still_loads() -> None:
    transition = machine.create(config())
    stored = transition.state.model_dump(mode="json")
    del stored["prior"], stored["policy_state"]["head_start"], stored["policy_state"]["optimum"]
    state = JobState.model_validate(stored)
    assert machine.advance(state, report_on(transition.directive, bowl(0.06))).directive.phase is Phase.PROBE


def test_an_optimum_is_known_once_the_search_is_over_and_a_divergence_after_it_counts_against_it() -> None:
    transition = machine.create(config())
    assert optimum_of(transition.state) is None
    _, state = search(config(), bowl(0.02))
    optimum = optimum_of(state)
    assert optimum is not None
    assert (optimum.probe_steps, optimum.good_end) == (PROBE_STEPS, True)
    diverged = Report(directive_number=state.directive.number, outcome=Outcome.DIVERGED, losses=(1.0, math.nan))
    worse = optimum_of(machine.advance(state, diverged).state)
    assert worse == optimum.model_copy(update={"good_end": False})


def test_only_searches_of_budget_are_passed_on() -> None:
    plain = JobConfig(policy="autolrs", lr_bounds=LrBounds(min=1e-3, max=1.0), base_lr=0.1)
    state = machine.create(plain, prior_at(0.1)).state
    assert optimum_of(state) is None
    assert state.directive == machine.create(plain).directive  # which has no use for a prior either
    short = drive(config(total_steps=50), SimulatedTraining(validates=True)).state
    assert optimum_of(short) is None
    assert prior_from([state, short]) is None
