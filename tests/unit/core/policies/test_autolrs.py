"""The published method: how it cuts a run into stages, what it tries, what it commits."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lrpilot.wire.profile import Shape

from tests.support.jobs.simulated_training import QUICK, Run, SimulatedTraining, config, drive
from tuner_server.core.config import LrBounds
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.evidence.divergence import WINDOW
from tuner_server.core.evidence.restart import RETREAT
from tuner_server.core.forecast import FORECASTERS
from tuner_server.core.job import machine
from tuner_server.core.job.machine import JobState, Status
from tuner_server.core.messages import BatchSource, Directive, Outcome, Phase, Report, Validation
from tuner_server.core.policies.autolrs_options import AutoLrsOptions

CHEAP: dict[str, Any] = {"forecaster": "last_value"}


def stages(run: Run) -> list[tuple[int, int, list[int]]]:
    """Of every stage: the steps of a probe, the number of probes, and the lengths of its committed leases."""
    found: list[tuple[int, int, list[int]]] = []
    for stage, group in itertools.groupby(
        (e for e in run.exchanges if e.directive.stage >= 0 and e.directive.phase is not Phase.STOP),
        key=lambda e: e.directive.stage,
    ):
        exchanges = list(group)
        probes = [e.directive.n_steps for e in exchanges if e.directive.phase is Phase.PROBE]
        leases = [e.directive for e in exchanges if e.directive.phase is Phase.TRAIN]
        whole = [d.n_steps for d in leases if d.profile is not None and d.profile.offset == 0]
        assert len(set(probes)) == 1
        assert stage == len(found)
        found.append((probes[0], len(probes), whole))
    return found


def report_on(directive: Directive, loss: float, outcome: Outcome = Outcome.COMPLETED) -> Report:
    """All steps at one loss; of a divergence, three steps and then NaN."""
    diverged = outcome is Outcome.DIVERGED
    losses = (loss, loss, loss, math.nan) if diverged else (loss,) * directive.n_steps
    due = [] if diverged else directive.validate_at
    return Report(
        directive_number=directive.number,
        outcome=outcome,
        losses=losses,
        validations=tuple(Validation(step=step, loss=loss) for step in due),
    )


# --- the plan of stages -----------------------------------------------------------------------------------------------


def test_published_defaults() -> None:
    run = drive(config(None, has_validation=True, **CHEAP), SimulatedTraining(validates=True), max_directives=140)
    plan = stages(run)[:5]
    assert plan == [(tau // 10, 10, [tau]) for tau in (1000, 2000, 4000, 8000, 8000)]


def test_training_loss_drives_until_tau_is_at_its_maximum_then_16_validations_do() -> None:
    run = drive(config(None, has_validation=True, **CHEAP), SimulatedTraining(validates=True), max_directives=140)
    counts = {e.directive.stage: len(e.directive.validate_at) for e in run.of(Phase.PROBE)}
    assert [counts[stage] for stage in range(5)] == [0, 0, 0, 0, 16]
    last = next(e.directive for e in run.of(Phase.PROBE) if e.directive.stage == 4)
    assert last.validate_at == tuple(range(50, 801, 50))


def test_without_validation_training_loss_drives_to_the_end() -> None:
    run = drive(config(None, **QUICK), SimulatedTraining(), max_directives=40)
    assert run.state.directive.stage > 5
    assert not any(directive.validate_at for directive in run.directives)


@pytest.mark.parametrize(
    ("total_steps", "first"),
    [
        (None, (1000, 100)),
        (40_000, (1000, 100)),
        (10_000, (1000, 100)),
        (4000, (400, 40)),
        (800, (400, 40)),
        (6000, (600, 60)),
    ],
)
def test_first_stage_is_scaled_to_a_short_run(total_steps: int | None, first: tuple[int, int]) -> None:
    assert AutoLrsOptions().first_stage(total_steps) == first


@pytest.mark.parametrize("total_steps", [800, 1100, 1600, 2399, 2400, 4000, 10_000, 20_000])
def test_a_run_of_any_length_is_spent_in_whole_stages(total_steps: int) -> None:
    run = drive(config(total_steps, **CHEAP), SimulatedTraining())
    assert run.state.status is Status.FINISHED
    assert run.state.committed_steps + run.state.search_steps == total_steps
    plan = stages(run)
    assert all(n_probes == 10 and len(committed) == 1 for _, n_probes, committed in plan)
    assert all(later >= earlier for (earlier, *_), (later, *_) in itertools.pairwise(plan[:-1]))
    assert run.state.committed_steps >= total_steps * 0.4


def test_4000_steps_have_some_three_stages() -> None:
    run = drive(config(4000, **CHEAP), SimulatedTraining())
    assert [tau_prime for tau_prime, *_ in stages(run)][:2] == [40, 80]
    assert 2 <= len(stages(run)) <= 4


def test_tau_doubles_up_to_an_odd_maximum() -> None:
    run = drive(config(None, **QUICK | {"tau": 40, "tau_max": 100}), SimulatedTraining(), max_directives=30)
    assert [(p, c) for p, _, c in stages(run)][:4] == [(8, [40]), (16, [80]), (20, [100]), (20, [100])]


def test_range_test_comes_first_when_there_are_no_bounds() -> None:
    run = drive(config(800, bounds=False, **QUICK), SimulatedTraining())
    assert run.directives[0].phase is Phase.RANGE_TEST
    assert run.directives[0].snapshot
    assert run.directives[1].phase is Phase.PROBE
    assert run.directives[1].restore
    assert run.state.bounds is not None
    assert all(e.directive.profile is not None for e in run.of(Phase.PROBE))
    for exchange in run.of(Phase.PROBE):
        assert exchange.directive.profile is not None
        assert run.state.bounds.min <= exchange.directive.profile.start_lr <= run.state.bounds.max


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total_steps", "options", "field", "words"),
    [
        (799, {}, "total_steps", "give at least 800"),
        (823, {"warmup_steps": 24}, "total_steps", "give at least 824"),
        (None, {"tau": 100, "tau_prime": 100}, "policy_options.tau_prime", "not below tau = 100"),
        (None, {"tau": 40}, "policy_options.tau_prime", "not below tau = 40"),
        (None, {"tau": 500, "tau_max": 400}, "policy_options.tau_max", "below tau = 500"),
        (None, {"tua": 500}, "policy_options.tua", ""),
        (None, {"tau": 1}, "policy_options.tau", ""),
        (None, {"tau": 500.5}, "policy_options.tau", ""),
        (None, {"tau": "many"}, "policy_options.tau", "'many'"),
        (None, {"candidates": 0}, "policy_options.candidates", ""),
        (None, {"kappa": -1}, "policy_options.kappa", ""),
        (None, {"acquisition": "ucb"}, "policy_options.acquisition", "lcb"),
        (
            None,
            {"forecaster": "oracle"},
            "policy_options.forecaster",
            "Input should be 'exponential', 'power_law' or 'last_value' (got 'oracle')",
        ),
        (None, {"forecaster": ["last_value"]}, "policy_options.forecaster", "Input should be 'exponential'"),
        (None, {"divergence_factor": 0}, "policy_options.divergence_factor", ""),
        (None, {"length_exponent": 1.5}, "policy_options.length_exponent", ""),
        (None, {"length_exponent": 0.2}, "policy_options.length_exponent", "final_decay"),
        (None, {"final_decay": True}, "policy_options.final_decay", "without total_steps"),
        (None, {"decayed_probes": True, "forecaster": "exponential"}, "policy_options.forecaster", "no forecaster"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    total_steps: int | None, options: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        machine.create(config(total_steps, **options))
    (violation,) = caught.value.violations
    assert violation.field == field
    assert words in violation.description


def test_the_steps_that_a_range_test_needs_count_too() -> None:
    with pytest.raises(InvalidInputError, match="at least 840"):
        machine.create(config(839, bounds=False))
    assert drive(config(840, bounds=False, **CHEAP), SimulatedTraining()).state.status is Status.FINISHED


def test_whole_numbers_may_come_as_floats_for_the_wire_knows_no_others() -> None:
    as_ints = machine.create(config(400, **QUICK)).directive
    as_floats: dict[str, Any] = {key: float(value) if isinstance(value, int) else value for key, value in QUICK.items()}
    assert machine.create(config(400, **as_floats)).directive == as_ints


@pytest.mark.parametrize(("kappa", "explores"), [(0.0, False), (1e6, True)])
def test_kappa_weighs_what_is_unknown_against_what_is_good(kappa: float, explores: bool) -> None:
    transition = machine.create(config(400, **QUICK | {"candidates": 8, "kappa": kappa}))
    for _ in range(5):
        assert transition.directive.profile is not None
        distance = math.log(transition.directive.profile.start_lr / 0.01)
        transition = machine.advance(transition.state, report_on(transition.directive, 1.0 + distance**2 / 10))
    decision = transition.decision
    assert decision is not None
    assert decision.posterior is not None
    curve = decision.posterior
    nearest = min(range(len(curve.lr)), key=lambda i: abs(math.log(curve.lr[i] / decision.lr)))
    wanted = [-sd for sd in curve.sd] if explores else list(curve.mean)
    assert sorted(range(len(wanted)), key=wanted.__getitem__).index(nearest) < len(wanted) / 8


@pytest.mark.parametrize("forecaster", FORECASTERS)
@pytest.mark.parametrize("acquisition", ["lcb", "log_ei"])
def test_every_forecaster_and_acquisition_finishes_a_job(forecaster: str, acquisition: str) -> None:
    options = QUICK | {"forecaster": forecaster, "acquisition": acquisition}
    run = drive(config(400, has_validation=True, **options), SimulatedTraining(validates=True))
    assert run.state.status is Status.FINISHED


@pytest.mark.parametrize("forecaster", FORECASTERS)
def test_the_shortest_probe_is_judged_too(forecaster: str) -> None:
    options: dict[str, Any] = {"tau": 2, "tau_prime": 1, "tau_max": 2, "candidates": 2, "forecaster": forecaster}
    run = drive(config(30, has_validation=True, **options), SimulatedTraining(validates=True))
    assert (run.state.status, run.state.message) == (Status.FINISHED, "")


@pytest.mark.parametrize("batches", BatchSource)
def test_batches_come_from_where_the_option_says(batches: BatchSource) -> None:
    run = drive(config(200, batches=batches.value, **QUICK), SimulatedTraining())
    assert {e.directive.batches for e in run.of(Phase.PROBE)} == {batches}


# --- warm-up ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "top"), [({}, 0.1), ({"warmup_lr": 0.4}, 0.4)])
def test_warm_up_rises_linearly_from_one_share_and_reaches_its_end_after_its_last_step(
    options: dict[str, Any], top: float
) -> None:
    transition = machine.create(config(400, warmup_steps=4, **options, **QUICK))
    directive = transition.directive
    assert directive.phase is Phase.WARM_UP
    assert directive.stage == -1
    assert directive.profile is not None
    assert directive.profile.shape == Shape.LINEAR
    lrs = [directive.profile.lr(step) for step in range(5)]
    assert lrs == pytest.approx([top * share for share in (0.2, 0.4, 0.6, 0.8, 1.0)], rel=1e-12)
    after = machine.advance(transition.state, report_on(directive, 2.0))
    assert (after.directive.phase, after.directive.stage) == (Phase.PROBE, 0)
    assert after.directive.snapshot
    assert not after.directive.restore


# --- what is tried, and what wins ------------------------------------------------------------------------------------


def test_probes_of_a_stage_begin_at_the_same_weights_with_different_constant_lrs() -> None:
    run = drive(config(400, **QUICK | {"candidates": 6}), SimulatedTraining())
    first = [e.directive for e in run.of(Phase.PROBE) if e.directive.stage == 0]
    assert [d.snapshot for d in first] == [True] + [False] * 5
    assert [d.restore for d in first] == [False] + [True] * 5
    assert all(d.profile is not None and d.profile.shape == Shape.CONSTANT for d in first)
    lrs = [d.profile.start_lr for d in first if d.profile is not None]
    assert len(set(lrs)) == 6
    assert all(1e-4 <= lr <= 1.0 for lr in lrs)


def test_the_lowest_forecast_wins_and_the_evidence_says_so() -> None:
    transition = machine.create(config(400, **QUICK | {"candidates": 5}))
    lrs = []
    for loss in (1.0, 0.7, 0.4, 0.9, 0.5):
        assert transition.directive.profile is not None
        lrs.append(transition.directive.profile.start_lr)
        transition = machine.advance(transition.state, report_on(transition.directive, loss))
    assert transition.directive.phase is Phase.TRAIN
    assert transition.directive.restore
    assert transition.directive.profile is not None
    assert transition.directive.profile.start_lr == lrs[2]
    decision = transition.decision
    assert decision is not None
    assert decision.lr == lrs[2]
    assert [c.lr for c in decision.candidates] == lrs
    assert [c.directive_number for c in decision.candidates] == [1, 2, 3, 4, 5]
    assert [c.forecast for c in decision.candidates] == pytest.approx([1.0, 0.7, 0.4, 0.9, 0.5])


def test_a_probe_that_diverged_is_a_censored_candidate_and_does_not_win() -> None:
    transition = machine.create(config(400, **QUICK))
    transition = machine.advance(transition.state, report_on(transition.directive, 0.01, Outcome.DIVERGED))
    for _ in range(2):
        transition = machine.advance(transition.state, report_on(transition.directive, 0.9))
    assert transition.decision is not None
    diverged, *sound = transition.decision.candidates
    assert diverged.diverged
    assert diverged.forecast is None
    assert diverged.at_least == pytest.approx(0.01)
    assert transition.decision.lr in [candidate.lr for candidate in sound]


def test_when_every_probe_diverged_an_lr_below_all_of_them_is_committed() -> None:
    transition = machine.create(config(400, **QUICK))
    tried = []
    for _ in range(3):
        assert transition.directive.profile is not None
        tried.append(transition.directive.profile.start_lr)
        assert transition.directive.phase is Phase.PROBE
        transition = machine.advance(transition.state, report_on(transition.directive, 2.0, Outcome.DIVERGED))
    assert transition.directive.phase is Phase.TRAIN
    assert transition.directive.profile is not None
    assert min(tried) < 1e-4 * RETREAT, "near the lowest LR of the range"
    assert transition.directive.profile.start_lr == min(tried) / RETREAT
    assert "every probe diverged: well below the lowest LR that was tried" in transition.directive.reason
    assert transition.state.search_steps == 3 * 4


def test_give_up_level_follows_the_first_stages_probes_and_the_stages_start() -> None:
    transition = machine.create(config(1000, divergence_factor=3.0, **QUICK | {"tau_prime": WINDOW}))
    assert transition.directive.give_up_above is None
    levels, lrs = {}, []
    for loss in (2.0, 1.0, 2.0, 1.0, 0.5, 0.5, 0.5, 4.0):
        assert transition.directive.profile is not None
        lrs.append(transition.directive.profile.start_lr)
        transition = machine.advance(transition.state, report_on(transition.directive, loss))
        levels[transition.directive.stage] = transition.directive
    # The first stage's probes kept to 2, and the second one came to 1; the third stage begins at 4.
    for stage, start in ((0, 2.0), (1, 2.0), (2, 4.0)):
        profile = levels[stage].profile
        assert profile is not None
        reach = math.sqrt(max(profile.start_lr / (10 * lrs[1]), 1.0))
        assert levels[stage].give_up_above == pytest.approx(start + 3 * (start - 1.0) * reach)


def falling(directive: Directive, slope: float) -> Report:
    """Losses that fall from 1 in a straight line."""
    losses = tuple(1.0 - slope * step for step in range(directive.n_steps))
    return Report(directive_number=directive.number, outcome=Outcome.COMPLETED, losses=losses)


@settings(max_examples=20, deadline=None)
@given(st.permutations([0.005, 0.006, 0.007, 0.008]))
def test_of_forecasts_that_are_bounded_at_zero_the_one_that_falls_fastest_wins(slopes: list[float]) -> None:
    options: dict[str, Any] = {"tau": 400, "tau_prime": 40, "tau_max": 400, "candidates": 4}
    transition = machine.create(config(2000, **options))
    for slope in slopes:
        transition = machine.advance(transition.state, falling(transition.directive, slope))
    assert transition.decision is not None
    candidates = transition.decision.candidates
    assert [candidate.forecast for candidate in candidates] == [0.0] * 4
    assert transition.decision.lr == candidates[slopes.index(0.008)].lr


# --- decayed probes and the final decay -------------------------------------------------------------------------------

DECAYED: dict[str, Any] = {"tau": 40, "tau_prime": 8, "tau_max": 80, "candidates": 3, "decayed_probes": True}


def lrs_of(directive: Directive) -> list[float]:
    assert directive.profile is not None
    return [directive.profile.lr(step) for step in range(directive.n_steps)]


@settings(max_examples=30, deadline=None)
@given(tau_prime=st.integers(1, 80))
def test_a_decayed_probe_judged_by_training_loss_ends_in_batches_held_out_within_its_length(tau_prime: int) -> None:
    transition = machine.create(config(None, **DECAYED | {"tau": 100, "tau_max": 100, "tau_prime": tau_prime}))
    assert transition.directive.n_steps == tau_prime
    steps = lrs_of(transition.directive)
    moving = [lr for lr in steps if lr > 0]
    held_out = tau_prime - len(moving)
    assert held_out == min(10, tau_prime // 4)
    assert steps == pytest.approx([steps[0] * max(1 - i / len(moving), 0.0) for i in range(tau_prime)])
    losses = tuple(float(i) for i in range(tau_prime))
    report = Report(directive_number=1, outcome=Outcome.COMPLETED, losses=losses)
    after = machine.advance(transition.state, report)
    assert after.decision is not None
    (candidate,) = after.decision.candidates
    counted = losses[-max(held_out, 1) :]
    assert candidate.forecast == pytest.approx(sum(counted) / len(counted))
    assert candidate.lr == steps[0]


def test_a_decayed_probe_judged_by_validation_loss_decays_to_its_end_and_is_validated_there() -> None:
    training = SimulatedTraining(validates=True, edge_lr=math.inf)
    run = drive(config(None, has_validation=True, **DECAYED), training, max_directives=30)
    validated = [e for e in run.of(Phase.PROBE) if e.directive.validate_at and e.report is not None]
    ends: dict[int, float] = {}
    for exchange in validated:
        directive, report = exchange.directive, exchange.report
        assert directive.validate_at == (directive.n_steps,)
        assert directive.profile is not None
        assert min(lrs_of(directive)) > 0
        assert directive.profile.lr(directive.n_steps) == 0
        assert report is not None
        (validation,) = report.validations
        ends[directive.number] = validation.loss
    decisions = [e.decision for e in run.of(Phase.TRAIN) if e.decision is not None]
    judged = [c for d in decisions for c in d.candidates if c.directive_number in ends]
    assert judged
    assert all(candidate.forecast == ends[candidate.directive_number] for candidate in judged)


def test_decayed_probes_take_as_many_steps_as_constant_ones() -> None:
    sound = [SimulatedTraining(edge_lr=math.inf) for _ in range(2)]
    plans = [stages(drive(config(2000, **o), t)) for o, t in zip((QUICK, DECAYED), sound, strict=True)]
    assert plans[0] == plans[1]


def test_only_the_last_committed_steps_decay_and_to_zero() -> None:
    run = drive(config(1000, final_decay=True, **QUICK), SimulatedTraining())
    *earlier, last = [e.directive for e in run.of(Phase.TRAIN) if e.decision is not None]
    steps = lrs_of(last)
    assert steps == pytest.approx([steps[0] * (1 - i / len(steps)) for i in range(len(steps))])
    assert earlier
    assert all(len(set(lrs_of(directive))) == 1 for directive in earlier)
    assert run.state.committed_steps + run.state.search_steps == 1000


def test_a_rest_after_a_divergence_decays_too() -> None:
    transition = machine.create(config(100, final_decay=True, **QUICK))
    while transition.directive.phase is Phase.PROBE:
        transition = machine.advance(transition.state, report_on(transition.directive, 1.0))
    n_steps = transition.directive.n_steps
    part = report_on(transition.directive, 1.0, Outcome.PARTIAL).model_copy(update={"losses": (1.0,) * (n_steps - 30)})
    transition = machine.advance(transition.state, part)
    transition = machine.advance(transition.state, report_on(transition.directive, 1.0, Outcome.DIVERGED))
    profile = transition.directive.profile
    assert profile is not None
    assert (profile.shape, profile.end_lr, profile.length) == (Shape.LINEAR, 0.0, transition.directive.n_steps)


def test_the_final_decay_alone_is_corrected_for_its_length() -> None:
    run = drive(config(1000, final_decay=True, length_exponent=0.25, **QUICK), SimulatedTraining())
    committed = [e for e in run.of(Phase.TRAIN) if e.decision is not None]
    last = committed[-1].directive
    assert len(committed) > 1
    for exchange in committed:
        directive, decision = exchange.directive, exchange.decision
        assert decision is not None
        assert directive.profile is not None
        winner = min(decision.candidates, key=lambda c: math.inf if c.forecast is None else c.forecast)
        (probe,) = [e.directive for e in run.of(Phase.PROBE) if e.directive.number == winner.directive_number]
        share = (probe.n_steps / directive.n_steps) ** 0.25 if directive is last else 1.0
        assert directive.profile.start_lr == decision.lr == pytest.approx(winner.lr * share)


@pytest.mark.parametrize("validates", [True, False])
def test_with_every_robust_piece_a_job_replays_bit_for_bit(validates: bool) -> None:
    options = DECAYED | {"acquisition": "log_ei", "final_decay": True, "length_exponent": 0.2}
    asked = config(600, has_validation=validates, **options)
    first = drive(asked, SimulatedTraining(validates=validates))
    assert (first.state.status, first.state.message) == (Status.FINISHED, "")
    transition = machine.create(asked)
    for exchange in first.exchanges[:-1]:
        assert (transition.directive, transition.decision) == (exchange.directive, exchange.decision)
        assert exchange.report is not None
        state = JobState.model_validate_json(transition.state.model_dump_json())
        transition = machine.advance(state, exchange.report)
    assert transition.state == first.state


# --- divergence in committed steps ------------------------------------------------------------------------------------


def test_after_a_divergence_in_committed_steps_the_range_ends_below_the_lr_that_diverged() -> None:
    transition = machine.create(config(2000, **QUICK))
    for _ in range(3):
        transition = machine.advance(transition.state, report_on(transition.directive, 1.0))
    assert transition.directive.profile is not None
    ceiling = transition.directive.profile.start_lr / RETREAT
    transition = machine.advance(transition.state, report_on(transition.directive, 1.0, Outcome.DIVERGED))
    assert (transition.directive.phase, transition.directive.stage) == (Phase.PROBE, 1)
    assert transition.directive.restore
    while transition.directive.phase is not Phase.STOP:
        assert transition.directive.profile is not None
        assert transition.directive.profile.start_lr <= ceiling * (1 + 1e-12)
        transition = machine.advance(transition.state, report_on(transition.directive, 1.0))
    assert transition.state.status is Status.FINISHED


def test_a_range_that_lies_above_the_ceiling_moves_down_as_a_whole() -> None:
    narrow = config(400, **QUICK).model_copy(update={"lr_bounds": LrBounds(min=0.5, max=1.0)})
    transition = machine.create(narrow)
    while transition.directive.phase is Phase.PROBE:
        transition = machine.advance(transition.state, report_on(transition.directive, 1.0))
    assert transition.directive.profile is not None
    diverged = transition.directive.profile.start_lr
    transition = machine.advance(transition.state, report_on(transition.directive, 1.0, Outcome.DIVERGED))
    assert transition.directive.profile is not None
    assert diverged / RETREAT**2 * (1 - 1e-12) <= transition.directive.profile.start_lr
    assert transition.directive.profile.start_lr <= diverged / RETREAT * (1 + 1e-12)


def test_a_divergence_in_the_warm_up_retreats_from_where_it_led() -> None:
    transition = machine.create(config(1000, warmup_steps=100, **QUICK))
    assert transition.directive.phase is Phase.WARM_UP
    transition = machine.advance(transition.state, report_on(transition.directive, 1.0, Outcome.DIVERGED))
    lrs = []
    while transition.directive.phase is Phase.PROBE:
        assert transition.directive.profile is not None
        lrs.append(transition.directive.profile.start_lr)
        transition = machine.advance(transition.state, report_on(transition.directive, 1.0))
    assert max(lrs) <= 0.1 / RETREAT * (1 + 1e-12)
    assert max(lrs) > 0.1 / RETREAT / 100


def test_a_rest_too_short_for_a_search_is_spent_at_the_highest_sound_lr() -> None:
    transition = machine.create(config(100, **QUICK))
    while transition.directive.phase is Phase.PROBE:
        transition = machine.advance(transition.state, report_on(transition.directive, 1.0))
    assert transition.directive.profile is not None
    lr, n_steps = transition.directive.profile.start_lr, transition.directive.n_steps
    assert n_steps == 100 - 3 * transition.state.search_steps // 3
    transition = machine.advance(
        transition.state,
        report_on(transition.directive, 1.0, Outcome.PARTIAL).model_copy(update={"losses": (1.0,) * (n_steps - 30)}),
    )
    transition = machine.advance(transition.state, report_on(transition.directive, 1.0, Outcome.DIVERGED))
    assert transition.directive.phase is Phase.TRAIN
    assert transition.directive.n_steps == 26
    assert transition.directive.profile is not None
    assert transition.directive.profile.start_lr == lr / RETREAT
    transition = machine.advance(transition.state, report_on(transition.directive, 1.0))
    assert transition.state.status is Status.FINISHED


# --- it works ---------------------------------------------------------------------------------------------------------


def test_on_the_simulated_run_it_stays_below_the_edge_and_gets_the_loss_down() -> None:
    training = SimulatedTraining(best_lr=0.05, edge_lr=0.3)
    run = drive(config(4000), training)
    committed = {e.directive.profile.start_lr for e in run.of(Phase.TRAIN) if e.directive.profile}
    assert max(committed) <= 0.3
    assert training.loss() < 0.11
    assert training.n_run == 4000
