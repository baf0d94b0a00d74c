"""One short search, then one decay: what it spends, what it tries, what it commits."""

from __future__ import annotations

import itertools
import math
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.support.jobs.budget_jobs import (
    BOUNDS,
    PLAIN,
    bowl,
    committed,
    config,
    falling_on,
    probed,
    profile_of,
    report_on,
    search,
    short_on,
)
from tests.support.jobs.simulated_training import SimulatedTraining, drive
from tests.support.shapes import SHAPES
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.evidence.restart import MAX_RESTARTS
from tuner_server.core.job import machine
from tuner_server.core.job.machine import JobState, Status
from tuner_server.core.lrs import same_lr
from tuner_server.core.messages import Directive, Phase, Report
from tuner_server.core.policies.budget import (
    FEWEST_STEPS,
    LARGEST_SEARCH_SHARE,
)
from tuner_server.core.search.bracket import LEAST_STEP, MIN_SPACING
from tuner_server.core.search.users_lr import toward_users
from tuner_server.core.stages.decayed_probe import HELD_OUT

# --- the budget -------------------------------------------------------------------------------------------------------


@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
@hypothesis.given(
    total_steps=st.integers(1, 30_000) | st.integers(200, 2000),
    bounds=st.none() | st.tuples(st.floats(1e-6, 1.0), st.floats(1.01, 1e4)).map(lambda b: (b[0], b[0] * b[1])),
    has_validation=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
    # By how much the loss changes with log LR; after which part of each directive it ends early (from 1 on: not), and
    # whether it then fell short, if it may. More divergences than a run may have would end the tuning.
    slope=st.sampled_from([-0.5, 0.0, 0.5]),
    parts=st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=MAX_RESTARTS),
    options=st.fixed_dictionaries(
        {},
        optional={
            "probe_steps": st.integers(4, 400),
            "max_candidates": st.integers(1, 100),
            "refinements": st.integers(0, 6),
            "widening": st.floats(1, 1e4),
            "warmup": st.floats(0, 1, exclude_max=True),
            "decayed_probes": st.booleans(),
            "decay": st.sampled_from([str(shape) for shape in SHAPES if not shape.way.fault(1.0, 0.0)]),
            "length_exponent": st.floats(0, 1),
        },
    ),
)
def test_every_step_is_spent_and_none_more(
    total_steps: int,
    bounds: tuple[float, float] | None,
    has_validation: bool,
    seed: int,
    slope: float,
    parts: list[tuple[float, bool]],
    options: dict[str, Any],
) -> None:
    transition = machine.create(config(total_steps, bounds=bounds, has_validation=has_validation, seed=seed, **options))
    n_run = n_searched = 0
    ends = iter(parts)
    while transition.directive.phase is not Phase.STOP:
        directive = transition.directive
        assert n_run + directive.n_steps <= total_steps
        part, short = next(ends, (2.0, False))
        loss = slope * math.log(max(profile_of(directive).start_lr, 1e-100))
        diverges = part < 1 and directive.n_steps > 1  # the first loss is from before any update
        report = _ended(directive, loss, max(2, int(part * directive.n_steps)) if diverges else None, short)
        n_run += report.n_steps
        n_searched += 0 if directive.phase.committed else report.n_steps
        transition = machine.advance(transition.state, report)
    state = transition.state
    assert (state.status, state.message) == (Status.FINISHED, "")
    assert n_run == total_steps == state.committed_steps + state.search_steps
    assert n_searched <= LARGEST_SEARCH_SHARE * total_steps


def _ended(directive: Directive, loss: float, steps: int | None, short: bool) -> Report:
    """All of a directive, or so many steps of it, after which it diverged or fell short."""
    if steps is None:
        return falling_on(directive, loss + 1.0, loss)
    if short and directive.promise:
        return short_on(directive, loss + 1.0, steps)
    return report_on(directive, loss, steps=steps)


@pytest.mark.parametrize("total_steps", [1, 2, 9, 100, FEWEST_STEPS - 1])
@pytest.mark.parametrize("bounds", [BOUNDS, None])
def test_a_run_too_short_to_search_decays_from_the_lr_that_was_set(
    total_steps: int, bounds: tuple[float, float] | None
) -> None:
    run = drive(config(total_steps, bounds=bounds), SimulatedTraining())
    assert {directive.phase for directive in run.directives} == {Phase.TRAIN, Phase.STOP}
    profile = profile_of(run.directives[0])
    assert (profile.start_lr, profile.end_lr, profile.length) == (0.1, 0.0, total_steps)
    assert f"no search in a run of {total_steps} steps" in run.directives[0].reason
    assert run.directives[0].promise == ()
    assert run.state.search_steps == 0


@pytest.mark.parametrize("has_validation", [True, False])
@pytest.mark.parametrize(("options", "n_probes"), [({}, 6), ({"max_candidates": 2}, 2)])
def test_the_shortest_run_that_is_searched_has_a_whole_search(
    has_validation: bool, options: dict[str, Any], n_probes: int
) -> None:
    training = SimulatedTraining(validates=has_validation)
    run = drive(config(FEWEST_STEPS, has_validation=has_validation, **options), training)
    assert len(run.of(Phase.PROBE)) == n_probes


def test_a_range_test_takes_from_what_the_shortest_run_may_spend_on_its_search() -> None:
    run = drive(config(FEWEST_STEPS, bounds=None), SimulatedTraining())
    assert len(run.of(Phase.RANGE_TEST)) == 1
    assert 0 < len(run.of(Phase.PROBE)) < 6
    assert run.state.search_steps <= LARGEST_SEARCH_SHARE * FEWEST_STEPS


def test_a_run_whose_probes_are_too_long_for_it_has_no_search() -> None:
    """The shortest one that has one has all of it."""
    shortest = math.ceil(6 * (20 + HELD_OUT) / LARGEST_SEARCH_SHARE)
    assert drive(config(shortest - 1, **PLAIN), SimulatedTraining()).of(Phase.PROBE) == []
    assert len(drive(config(shortest, **PLAIN), SimulatedTraining()).of(Phase.PROBE)) == 6


@pytest.mark.parametrize(
    ("total_steps", "bounds", "validates"),
    [(20_000, BOUNDS, True), (20_000, BOUNDS, False), (20_000, None, True), (100_000, None, False)],
)
def test_a_search_takes_little_of_a_long_run(
    total_steps: int, bounds: tuple[float, float] | None, validates: bool
) -> None:
    training = SimulatedTraining(validates=validates)
    run = drive(config(total_steps, bounds=bounds, has_validation=validates), training)
    assert training.n_run == total_steps
    assert 0 < run.state.search_steps <= 0.03 * total_steps


def test_a_search_ends_when_its_share_of_the_budget_is_spent() -> None:
    options = PLAIN | {"max_candidates": 100, "widening": 1e30}
    run = search(config(1000, **options), lambda lr: 1 / (1 + lr))  # an optimum that no search reaches
    assert len(probed(run)) == 1000 * LARGEST_SEARCH_SHARE // (20 + HELD_OUT)


# --- what is tried, and what wins -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [BOUNDS, (0.02, 0.03), (1e-6, 10.0)])
def test_the_middle_of_the_range_comes_first(bounds: tuple[float, float]) -> None:
    directive = machine.create(config(bounds=bounds)).directive
    assert profile_of(directive).start_lr == pytest.approx(math.sqrt(bounds[0] * bounds[1]), rel=1e-9)


@pytest.mark.parametrize("best_lr", [2e-4, 1e-3, 4e-3, 0.01, 0.03, 0.2, 0.7])
@pytest.mark.parametrize("has_validation", [True, False])
def test_the_optimum_of_a_bowl_in_the_range_is_found(best_lr: float, has_validation: bool) -> None:
    run = search(config(has_validation=has_validation, length_exponent=0, **PLAIN), bowl(best_lr))
    assert abs(math.log(committed(run) / best_lr)) < math.log(1.5)


@pytest.mark.parametrize("bounds", [BOUNDS, (1e-3, 1e-1), (0.01, 0.1), (0.02, 0.03), (1e-5, 1.0)])
@pytest.mark.parametrize("factor", [2.0, 5.0, 9.0])
@pytest.mark.parametrize("above", [True, False])
def test_an_optimum_up_to_tenfold_outside_the_range_is_found(
    bounds: tuple[float, float], factor: float, above: bool
) -> None:
    best_lr = bounds[1] * factor if above else bounds[0] / factor
    run = search(config(20_000, bounds=bounds, length_exponent=0, widening=10, **PLAIN), bowl(best_lr))
    assert abs(math.log(committed(run) / best_lr)) < math.log(1.6)
    reasons = [exchange.decision.reason for exchange in run.exchanges if exchange.decision is not None]
    assert any("beyond the range" in reason for reason in reasons)


@pytest.mark.parametrize("best_lr", [1e-9, 0.01, 1e9])
@pytest.mark.parametrize("widening", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("bounds", [BOUNDS, (0.02, 0.03), (3e-5, 0.7)])
def test_no_candidate_lies_further_out_than_widening_says_and_none_comes_twice(
    best_lr: float, widening: float, bounds: tuple[float, float]
) -> None:
    run = search(config(20_000, bounds=bounds, widening=widening, **PLAIN), bowl(best_lr))
    lrs = sorted(probed(run))
    assert bounds[0] / widening * (1 - 1e-9) <= lrs[0]
    assert lrs[-1] <= bounds[1] * widening * (1 + 1e-9)
    least = math.exp(LEAST_STEP * MIN_SPACING / 2)
    assert all(b > a * least for a, b in itertools.pairwise(lrs))


def test_an_optimum_in_the_range_is_bracketed_by_three_and_refined() -> None:
    run = search(config(**PLAIN), bowl(0.012))
    assert len(probed(run)) == 3 + 3
    assert all("beyond" not in exchange.directive.reason for exchange in run.exchanges)


def test_a_bowl_that_ends_in_a_cliff_is_searched_below_it() -> None:
    run = search(config(length_exponent=0, **PLAIN), bowl(0.005, edge_lr=0.008))
    assert 0.001 < committed(run) < 0.008


def test_the_best_lr_is_corrected_for_length() -> None:
    lrs = {}
    for exponent in (0.0, 0.25):
        run = search(config(20_000, length_exponent=exponent, **PLAIN), bowl(0.001))  # far below the LR that is set
        lrs[exponent] = committed(run)
        left = run.directives[-1].n_steps
    assert lrs[0.25] / lrs[0.0] == pytest.approx((20 / left) ** 0.25, rel=1e-3)


@pytest.mark.parametrize("best_lr", [0.0005, 0.2])
def test_the_decision_to_commit_says_how_the_lr_came_about_and_what_is_expected_of_it(best_lr: float) -> None:
    """An optimum far from the LR that is set is taken as it is; one close to it is drawn towards it."""
    asked = config(20_000, length_exponent=0.2, **PLAIN)
    run = search(asked, bowl(best_lr))
    decision = run.exchanges[-1].decision
    assert decision is not None
    assert decision.optimum is not None
    assert decision.correction is not None
    assert decision.forecast is not None
    assert decision.forecast_sd is not None
    left = run.directives[-1].n_steps
    assert decision.optimum == pytest.approx(best_lr, rel=0.3)
    assert decision.correction == pytest.approx((20 / left) ** 0.2)
    assert decision.lr == committed(run) == toward_users(decision.optimum * decision.correction, asked.base_lr)
    assert decision.forecast == pytest.approx(bowl(best_lr)(decision.optimum), abs=0.05)
    assert 0 < decision.forecast_sd < 0.5
    drawn = not same_lr(decision.lr, decision.optimum * decision.correction)
    assert drawn is (best_lr == 0.2)
    assert ("drawn towards the 0.1 that was set" in decision.reason) is drawn
    assert f"{decision.optimum:.3g}" in decision.reason


def test_every_decision_carries_the_candidates_and_a_posterior_once_there_is_a_bracket() -> None:
    run = search(config(**PLAIN), bowl(0.012))
    assert len(run.exchanges) == 7
    for i, exchange in enumerate(run.exchanges):
        decision = exchange.decision
        assert decision is not None
        assert decision.lr == profile_of(exchange.directive).start_lr
        assert [c.directive_number for c in decision.candidates] == list(range(1, i + 1))
        assert [c.lr for c in decision.candidates] == pytest.approx(probed(run)[:i])
        assert [c.forecast for c in decision.candidates] == pytest.approx(list(map(bowl(0.012), probed(run)[:i])))
        assert (decision.posterior is not None) is (i >= 3)


# --- purity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [BOUNDS, None])
@pytest.mark.parametrize("validates", [True, False])
def test_the_same_reports_bring_the_same_directives_bit_for_bit_through_json_and_without(
    bounds: tuple[float, float] | None, validates: bool
) -> None:
    asked = config(3000, bounds=bounds, has_validation=validates, seed=5, **PLAIN)
    first = drive(asked, SimulatedTraining(validates=validates))
    transition = machine.create(asked)
    for exchange in first.exchanges[:-1]:
        assert (transition.directive, transition.decision) == (exchange.directive, exchange.decision)
        assert exchange.report is not None
        text = transition.state.model_dump_json()
        state = JobState.model_validate_json(text)
        assert state.model_dump_json() == text
        transition = machine.advance(state, exchange.report)
    assert transition.state == first.state


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"decay": "exponential"}, "policy_options.decay", "never reaches zero"),
        ({"decay": "stairs"}, "policy_options.decay", "linear"),
        ({"decay": "rex(2)"}, "policy_options.decay", "beta 2 is not from 0 to below 2"),
        ({"decay": "rex(inf)"}, "policy_options.decay", "not finite"),
        ({"decay": "rex(a)"}, "policy_options.decay", "no numbers"),
        ({"decay": "wsd/exponential(0.2)"}, "policy_options.decay", "never reaches zero"),
        ({"decay": "points(0, 1, 0.7, 1, 0.6, 0, 1, 0)"}, "policy_options.decay", "don't ascend"),
        ({"decay": 3}, "policy_options.decay", ""),
        ({"warmup": 1}, "policy_options.warmup", ""),
        ({"warmup": -0.1}, "policy_options.warmup", ""),
        ({"probe_steps": 3}, "policy_options.probe_steps", ""),
        ({"max_candidates": 0}, "policy_options.max_candidates", ""),
        ({"refinements": -1}, "policy_options.refinements", ""),
        ({"length_exponent": 1.5}, "policy_options.length_exponent", ""),
        ({"widening": 0.5}, "policy_options.widening", ""),
        ({"widening": math.inf}, "policy_options.widening", ""),
        ({"divergence_factor": 0}, "policy_options.divergence_factor", ""),
        ({"batches": "stale"}, "policy_options.batches", "fresh"),
        ({"tau": 500}, "policy_options.tau", ""),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        machine.create(config(**options))
    (violation,) = caught.value.violations
    assert violation.field == field
    assert words in violation.description


def test_a_job_without_an_end_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="policy budget needs it") as caught:
        machine.create(config(None))
    assert caught.value.violations[0].field == "total_steps"


def test_a_job_with_an_end_that_names_no_policy_gets_this_one() -> None:
    asked = config().model_copy(update={"policy": ""})
    assert machine.create(asked).state.config.policy == "budget"
