"""One short search, then one decay: what it spends, what it tries, what it commits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from lrpilot.profile import Profile, Shape

from tests.support.simulated import Exchange, Run, SimulatedTraining, drive
from tuner_server.core import job
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.decayed import HELD_OUT
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job import JobState, Status, Transition
from tuner_server.core.messages import BatchSource, Directive, Outcome, Phase, Replacement, Report, Validation
from tuner_server.core.policies.budget import (
    LARGEST_SEARCH_SHARE,
    LEAST_STEP,
    MAX_PROBE,
    MIN_PROBE,
    MIN_SPACING,
    PROBE_SHARE,
    RETREAT,
    BudgetOptions,
)

PLAIN: dict[str, Any] = {"probe_steps": 20, "refinements": 3, "max_candidates": 8}
"""A search that tests can count on, whatever the defaults are."""
BOUNDS = (1e-4, 1.0)
DIVERGES = math.inf


def config(
    total_steps: int | None = 4000,
    *,
    bounds: tuple[float, float] | None = BOUNDS,
    has_validation: bool = False,
    seed: int = 0,
    **options: Any,
) -> JobConfig:
    """A job of policy budget; keywords are its options."""
    return JobConfig(
        policy="budget",
        policy_options=options,
        total_steps=total_steps,
        lr_bounds=None if bounds is None else LrBounds(min=bounds[0], max=bounds[1]),
        base_lr=0.1,
        has_validation=has_validation,
        seed=seed,
    )


def report_on(directive: Directive, loss: float, *, steps: int | None = None) -> Report:
    """All steps at one loss; with `steps`, so many and then a divergence."""
    n_steps = directive.n_steps if steps is None else steps
    losses = (loss,) * n_steps if steps is None else (loss,) * (n_steps - 1) + (math.nan,)
    return Report(
        directive_number=directive.number,
        outcome=Outcome.COMPLETED if steps is None else Outcome.DIVERGED,
        losses=losses,
        validations=tuple(Validation(step=step, loss=loss) for step in directive.validate_at if step <= n_steps),
    )


def profile_of(directive: Directive) -> Profile:
    assert directive.profile is not None
    return directive.profile


def bowl(best_lr: float, edge_lr: float = math.inf) -> Callable[[float], float]:
    """A loss over peak LR with its lowest point at `best_lr`; beyond `edge_lr` there is none."""

    def loss(lr: float) -> float:
        return DIVERGES if lr > edge_lr else 1.0 + 0.1 * math.log(lr / best_lr) ** 2

    return loss


def search(config: JobConfig, loss: Callable[[float], float]) -> Run:
    """The job up to its first committed lease, every probe of which ends at the loss of its peak LR."""
    transition = job.create(config)
    exchanges = []
    while transition.directive.phase is not Phase.TRAIN:
        directive = transition.directive
        level = loss(profile_of(directive).start_lr)
        report = report_on(directive, 1.0, steps=5) if level == DIVERGES else report_on(directive, level)
        exchanges.append(Exchange(directive, transition.decision, report))
        transition = job.advance(transition.state, report)
    exchanges.append(Exchange(transition.directive, transition.decision, None))
    return Run(transition.state, exchanges)


def probed(run: Run) -> list[float]:
    return [profile_of(exchange.directive).start_lr for exchange in run.of(Phase.PROBE)]


def committed(run: Run) -> float:
    """The peak of the first committed lease."""
    return profile_of(run.of(Phase.TRAIN)[0].directive).start_lr


def committing(options: dict[str, Any]) -> Transition:
    """A job whose outstanding directive is its committed lease."""
    transition = job.create(config(**options))
    while transition.directive.phase is not Phase.TRAIN:
        transition = job.advance(transition.state, report_on(transition.directive, 1.0))
    return transition


# --- the budget -------------------------------------------------------------------------------------------------------


@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
@hypothesis.given(
    total_steps=st.integers(1, 30_000) | st.integers(200, 2000),
    bounds=st.none() | st.tuples(st.floats(1e-6, 1.0), st.floats(1.01, 1e4)).map(lambda b: (b[0], b[0] * b[1])),
    has_validation=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
    # By how much the loss changes with log LR; after which part of each directive it diverges (from 1 on: not).
    slope=st.sampled_from([-0.5, 0.0, 0.5]),
    parts=st.lists(st.floats(0, 2), max_size=12),
    options=st.fixed_dictionaries(
        {},
        optional={
            "probe_steps": st.integers(4, 400),
            "max_candidates": st.integers(1, 100),
            "refinements": st.integers(0, 6),
            "widening": st.floats(1, 1e4),
            "warmup": st.floats(0, 1, exclude_max=True),
            "decayed_probes": st.booleans(),
            "decay": st.sampled_from(["linear", "cosine", "constant"]),
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
    parts: list[float],
    options: dict[str, Any],
) -> None:
    transition = job.create(config(total_steps, bounds=bounds, has_validation=has_validation, seed=seed, **options))
    n_run = n_searched = 0
    ends = iter(parts)
    while transition.directive.phase is not Phase.STOP:
        directive = transition.directive
        assert n_run + directive.n_steps <= total_steps
        part = next(ends, 2.0)
        loss = slope * math.log(max(profile_of(directive).start_lr, 1e-100))
        report = report_on(directive, loss, steps=max(1, int(part * directive.n_steps)) if part < 1 else None)
        n_run += report.n_steps
        n_searched += 0 if directive.phase.committed else report.n_steps
        transition = job.advance(transition.state, report)
    state = transition.state
    assert (state.status, state.message) == (Status.FINISHED, "")
    assert n_run == total_steps == state.committed_steps + state.search_steps
    assert n_searched <= LARGEST_SEARCH_SHARE * total_steps


@pytest.mark.parametrize("total_steps", [1, 2, 9, 100, 400])
@pytest.mark.parametrize("bounds", [BOUNDS, None])
def test_a_run_too_short_to_search_decays_from_the_lr_that_was_set(
    total_steps: int, bounds: tuple[float, float] | None
) -> None:
    run = drive(config(total_steps, bounds=bounds), SimulatedTraining())
    assert {directive.phase for directive in run.directives} == {Phase.TRAIN, Phase.STOP}
    profile = profile_of(run.directives[0])
    assert (profile.start_lr, profile.end_lr, profile.length) == (0.1, 0.0, total_steps)
    assert "too few to search" in run.directives[0].reason
    assert run.state.search_steps == 0


def test_the_shortest_run_that_is_searched_has_a_whole_search() -> None:
    for bounds, extra in ((BOUNDS, 0), (None, 40)):
        shortest = math.ceil((6 * (20 + HELD_OUT) + extra) / LARGEST_SEARCH_SHARE)
        assert drive(config(shortest - 1, bounds=bounds, **PLAIN), SimulatedTraining()).of(Phase.PROBE) == []
        assert len(drive(config(shortest, bounds=bounds, **PLAIN), SimulatedTraining()).of(Phase.PROBE)) == 6


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


# --- the shape of a probe and of the decay ----------------------------------------------------------------------------


@pytest.mark.parametrize(("total_steps", "share"), [(4000, PROBE_SHARE), (8000, PROBE_SHARE), (1_000_000, None)])
def test_a_probe_is_a_share_of_the_run_between_limits(total_steps: int, share: float | None) -> None:
    wanted = MAX_PROBE if share is None else min(max(round(total_steps * share), MIN_PROBE), MAX_PROBE)
    directive = job.create(config(total_steps, has_validation=True)).directive
    assert (directive.phase, directive.n_steps) == (Phase.PROBE, wanted)


def test_a_probe_warms_up_and_decays_to_zero_and_is_validated_after_that() -> None:
    directive = job.create(config(has_validation=True, probe_steps=40, warmup=0.1)).directive
    profile = profile_of(directive)
    assert (directive.n_steps, directive.validate_at) == (40, (40,))
    lrs = [profile.lr(step) / profile.start_lr for step in range(41)]
    assert lrs[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert lrs[4] == 1
    assert lrs[4:] == pytest.approx([1 - i / 36 for i in range(37)])
    assert lrs[40] == 0
    assert lrs[39] > 0


def test_without_validation_the_last_steps_of_a_probe_move_nothing_and_are_what_is_judged() -> None:
    transition = job.create(config(probe_steps=40))
    directive, profile = transition.directive, profile_of(transition.directive)
    assert (directive.n_steps, directive.validate_at) == (40 + HELD_OUT, ())
    lrs = [profile.lr(step) for step in range(directive.n_steps)]
    assert min(lrs[:40]) > 0
    assert lrs[40:] == [0.0] * HELD_OUT
    held_out = tuple(2.0 + i for i in range(HELD_OUT))
    report = report_on(directive, 9.0).model_copy(update={"losses": (9.0,) * 40 + held_out})
    transition = job.advance(transition.state, report)
    assert transition.decision is not None
    (candidate,) = transition.decision.candidates
    assert candidate.forecast == pytest.approx(sum(held_out) / HELD_OUT)


def test_with_validation_it_alone_is_judged() -> None:
    transition = job.create(config(has_validation=True))
    report = report_on(transition.directive, 9.0)
    report = report.model_copy(update={"validations": (report.validations[0].model_copy(update={"loss": 0.5}),)})
    transition = job.advance(transition.state, report)
    assert transition.decision is not None
    assert [candidate.forecast for candidate in transition.decision.candidates] == [0.5]


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_the_committed_lr_warms_up_and_decays_to_zero_over_all_that_is_left(decay: str) -> None:
    directive = committing(PLAIN | {"decay": decay, "warmup": 0.05}).directive
    profile = profile_of(directive)
    n_steps = directive.n_steps
    warmup = int(n_steps * 0.05)
    assert (profile.shape, profile.length, profile.warmup) == (Shape(decay), n_steps, warmup)
    lrs = [profile.lr(step) for step in range(n_steps + 1)]
    assert all(a < b for a, b in itertools.pairwise(lrs[: warmup + 1]))
    assert all(a > b for a, b in itertools.pairwise(lrs[warmup:]))
    assert lrs[-1] == pytest.approx(0, abs=1e-12)
    assert directive.restore


def test_a_constant_decay_is_none() -> None:
    profile = profile_of(committing(PLAIN | {"decay": "constant", "warmup": 0.0}).directive)
    assert {profile.lr(step) for step in range(profile.length)} == {profile.start_lr}


def test_a_warm_up_of_nearly_all_steps_still_has_a_peak() -> None:
    directive = job.create(config(probe_steps=4, warmup=0.99)).directive
    assert profile_of(directive).warmup == 3


def test_probes_share_their_minibatches_and_start_at_the_same_weights() -> None:
    run = search(config(**PLAIN), bowl(0.01))
    probes = [exchange.directive for exchange in run.of(Phase.PROBE)]
    assert {probe.batches for probe in probes} == {BatchSource.REPLAYED}
    assert [probe.snapshot for probe in probes] == [True] + [False] * (len(probes) - 1)
    assert [probe.restore for probe in probes] == [False] + [True] * (len(probes) - 1)


# --- what is tried, and what wins -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [BOUNDS, (0.02, 0.03), (1e-6, 10.0)])
def test_the_middle_of_the_range_comes_first(bounds: tuple[float, float]) -> None:
    directive = job.create(config(bounds=bounds)).directive
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
        run = search(config(20_000, length_exponent=exponent, **PLAIN), bowl(0.01))
        lrs[exponent] = committed(run)
        left = run.directives[-1].n_steps
    assert lrs[0.25] / lrs[0.0] == pytest.approx((20 / left) ** 0.25)


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


# --- divergence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [BOUNDS, (0.02, 0.03)])
def test_when_every_probe_diverges_the_search_goes_down_only_and_an_lr_below_all_is_committed(
    bounds: tuple[float, float],
) -> None:
    run = search(config(20_000, bounds=bounds, **PLAIN), bowl(0.01, edge_lr=0.0))
    lrs = probed(run)
    assert lrs == sorted(lrs, reverse=True)
    assert min(lrs) == pytest.approx(bounds[0] / BudgetOptions().widening)
    assert committed(run) == pytest.approx(min(lrs) / RETREAT)
    decision = run.exchanges[-1].decision
    assert decision is not None
    assert "every probe diverged" in decision.reason
    assert all(c.diverged for c in decision.candidates)
    assert len(decision.candidates) == len(lrs)


def test_a_divergence_in_committed_steps_goes_back_and_on_at_a_lower_lr_within_the_budget() -> None:
    transition = committing({**PLAIN, "total_steps": 4000})
    searched = transition.state.search_steps
    lr = profile_of(transition.directive).start_lr
    for count in (1, 2):
        transition = job.advance(transition.state, report_on(transition.directive, 1.0, steps=100))
        directive = transition.directive
        assert (directive.phase, directive.restore) == (Phase.TRAIN, True)
        assert profile_of(directive).start_lr == pytest.approx(lr / RETREAT**count)
        assert profile_of(directive).end_lr == 0
        assert transition.state.search_steps == searched + 100 * count
        assert directive.n_steps == 4000 - searched - 100 * count
    transition = job.advance(transition.state, report_on(transition.directive, 1.0))
    assert transition.state.status is Status.FINISHED


def test_a_divergence_after_a_part_was_reported_gives_all_committed_steps_back() -> None:
    transition = committing({**PLAIN, "total_steps": 4000})
    searched, part = transition.state.search_steps, transition.directive.report_every
    report = Report(directive_number=transition.directive.number, outcome=Outcome.PARTIAL, losses=(1.0,) * part)
    transition = job.advance(transition.state, report)
    assert transition.state.committed_steps == part
    transition = job.advance(transition.state, report_on(transition.directive, 1.0, steps=10))
    assert transition.state.committed_steps == 0
    assert transition.state.search_steps == searched + part + 10
    assert profile_of(transition.directive).offset == 0


def test_a_short_run_that_diverges_retreats_too() -> None:
    transition = job.create(config(50))
    transition = job.advance(transition.state, report_on(transition.directive, 1.0, steps=3))
    assert profile_of(transition.directive).start_lr == pytest.approx(0.1 / RETREAT)
    assert transition.directive.n_steps == 47


def test_probes_and_decay_give_up_at_a_multiple_of_the_first_loss() -> None:
    run = search(config(divergence_factor=4, **PLAIN), lambda lr: 2.0)
    assert run.directives[0].give_up_above is None
    assert {directive.give_up_above for directive in run.directives[1:]} == {8.0}


# --- purity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [BOUNDS, None])
@pytest.mark.parametrize("validates", [True, False])
def test_the_same_reports_bring_the_same_directives_bit_for_bit_through_json_and_without(
    bounds: tuple[float, float] | None, validates: bool
) -> None:
    asked = config(3000, bounds=bounds, has_validation=validates, seed=5, **PLAIN)
    first = drive(asked, SimulatedTraining(validates=validates))
    transition = job.create(asked)
    for exchange in first.exchanges[:-1]:
        assert (transition.directive, transition.decision) == (exchange.directive, exchange.decision)
        assert exchange.report is not None
        text = transition.state.model_dump_json()
        state = JobState.model_validate_json(text)
        assert state.model_dump_json() == text
        transition = job.advance(state, exchange.report)
    assert transition.state == first.state


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"decay": "exponential"}, "policy_options.decay", "never reaches zero"),
        ({"decay": "stairs"}, "policy_options.decay", "linear"),
        ({"warmup": 1}, "policy_options.warmup", ""),
        ({"warmup": -0.1}, "policy_options.warmup", ""),
        ({"probe_steps": 3}, "policy_options.probe_steps", ""),
        ({"max_candidates": 0}, "policy_options.max_candidates", ""),
        ({"refinements": -1}, "policy_options.refinements", ""),
        ({"length_exponent": 1.5}, "policy_options.length_exponent", ""),
        ({"widening": 0.5}, "policy_options.widening", ""),
        ({"widening": math.inf}, "policy_options.widening", ""),
        ({"divergence_factor": 1}, "policy_options.divergence_factor", ""),
        ({"batches": "stale"}, "policy_options.batches", "fresh"),
        ({"tau": 500}, "policy_options.tau", ""),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        job.create(config(**options))
    (violation,) = caught.value.violations
    assert violation.field == field
    assert words in violation.description


def test_a_job_without_an_end_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="policy budget needs it") as caught:
        job.create(config(None))
    assert caught.value.violations[0].field == "total_steps"


def test_a_job_with_an_end_that_names_no_policy_gets_this_one() -> None:
    asked = config().model_copy(update={"policy": ""})
    assert job.create(asked).state.config.policy == "budget"


def rejoined(total: int, done: int, *, probes: int = 0, wasted: int = 0) -> Directive:
    """What a client is given that trained `done` steps on its own, and lost some more, after so many probes."""
    transition = job.create(config(total))
    for i in range(probes):
        transition = job.advance(transition.state, report_on(transition.directive, 2.0 + i))
    own = Replacement(profile=Profile.constant(0.1, done), wasted_steps=wasted)
    report = Report(
        directive_number=transition.directive.number, outcome=Outcome.REPLACED, losses=(1.0,) * done, replacement=own
    )
    return job.advance(transition.state, report).directive


def test_a_client_that_comes_back_is_given_the_best_so_far_a_search_or_a_plain_decay() -> None:
    best = rejoined(2000, 700, probes=2)
    assert (best.phase, best.n_steps) == (Phase.TRAIN, 2000 - 700 - 2 * rejoined(2000, 1).n_steps)
    assert rejoined(2000, 400).phase is Phase.PROBE
    late = rejoined(2000, 1800)
    assert (late.phase, late.n_steps) == (Phase.TRAIN, 200)
    assert profile_of(late).start_lr == config(2000).base_lr


def test_a_client_that_comes_back_with_the_search_s_share_spent_is_given_a_plain_decay() -> None:
    """Enough steps are left for a search, but those that were lost count as one already."""
    spent = rejoined(4000, 100, wasted=800)
    assert (spent.phase, spent.n_steps) == (Phase.TRAIN, 3100)
    assert profile_of(spent).start_lr == config(4000).base_lr
