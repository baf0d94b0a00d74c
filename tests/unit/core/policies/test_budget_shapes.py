"""How the steps of policy budget are made up: LRs, batches, validations, and what is judged of a probe."""

from __future__ import annotations

import itertools

import pytest
from lrpilot.wire.profile import Shape

from tests.support.jobs.budget_jobs import (
    PLAIN,
    bowl,
    committing,
    config,
    profile_of,
    report_on,
    search,
)
from tuner_server.core.job import machine
from tuner_server.core.job.machine import Status
from tuner_server.core.messages import BatchSource, Phase
from tuner_server.core.policies.budget import FEWEST_STEPS
from tuner_server.core.stages.decayed_probe import HELD_OUT, LARGEST_PROBE_SHARE, MAX_PROBE, MIN_PROBE, PROBE_SHARE


@pytest.mark.parametrize(
    ("total_steps", "wanted"),
    [
        (FEWEST_STEPS, round(FEWEST_STEPS * LARGEST_PROBE_SHARE)),
        (1000, MIN_PROBE),
        (4000, MIN_PROBE),
        (40_000, round(40_000 * PROBE_SHARE)),
        (1_000_000, MAX_PROBE),
    ],
)
def test_a_probe_is_a_share_of_the_run_between_limits(total_steps: int, wanted: int) -> None:
    directive = machine.create(config(total_steps, has_validation=True)).directive
    assert (directive.phase, directive.n_steps) == (Phase.PROBE, wanted)


@pytest.mark.parametrize(("probe_steps", "held_out"), [(4, 2), (11, 5), (20, HELD_OUT), (50, HELD_OUT)])
def test_no_more_than_half_as_many_steps_as_move_the_weights_are_held_out(probe_steps: int, held_out: int) -> None:
    directive = machine.create(config(20_000, probe_steps=probe_steps)).directive
    assert directive.n_steps == probe_steps + held_out
    assert machine.create(config(20_000, probe_steps=probe_steps, has_validation=True)).directive.n_steps == probe_steps


@pytest.mark.parametrize("probe_steps", [4, 10])
def test_held_out_losses_alone_are_judged_however_few_they_are(probe_steps: int) -> None:
    transition = machine.create(config(probe_steps=probe_steps))
    held_out = transition.directive.n_steps - probe_steps
    report = report_on(transition.directive, 9.0)
    report = report.model_copy(update={"losses": (9.0,) * probe_steps + (2.0,) * held_out})
    transition = machine.advance(transition.state, report)
    assert transition.decision is not None
    assert [candidate.forecast for candidate in transition.decision.candidates] == [2.0]


def test_a_probe_warms_up_and_decays_to_zero_and_is_validated_after_that() -> None:
    directive = machine.create(config(has_validation=True, probe_steps=40, warmup=0.1)).directive
    profile = profile_of(directive)
    assert (directive.n_steps, directive.validate_at) == (40, (0, 40))
    lrs = [profile.lr(step) / profile.start_lr for step in range(41)]
    assert lrs[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert lrs[4] == 1
    assert lrs[4:] == pytest.approx([1 - i / 36 for i in range(37)])
    assert lrs[40] == 0
    assert lrs[39] > 0


def test_without_validation_the_last_steps_of_a_probe_move_nothing_and_are_what_is_judged() -> None:
    transition = machine.create(config(probe_steps=40))
    directive, profile = transition.directive, profile_of(transition.directive)
    assert (directive.n_steps, directive.validate_at) == (40 + HELD_OUT, ())
    lrs = [profile.lr(step) for step in range(directive.n_steps)]
    assert min(lrs[:40]) > 0
    assert lrs[40:] == [0.0] * HELD_OUT
    held_out = tuple(2.0 + i for i in range(HELD_OUT))
    report = report_on(directive, 9.0).model_copy(update={"losses": (9.0,) * 40 + held_out})
    transition = machine.advance(transition.state, report)
    assert transition.decision is not None
    (candidate,) = transition.decision.candidates
    assert candidate.forecast == pytest.approx(sum(held_out) / HELD_OUT)


def test_with_validation_it_alone_is_judged() -> None:
    transition = machine.create(config(has_validation=True))
    report = report_on(transition.directive, 9.0)
    before, after = report.validations
    report = report.model_copy(update={"validations": (before, after.model_copy(update={"loss": 0.5}))})
    transition = machine.advance(transition.state, report)
    assert transition.decision is not None
    assert [candidate.forecast for candidate in transition.decision.candidates] == [0.5]


def test_the_first_probe_alone_is_validated_before_its_first_step() -> None:
    run = search(config(has_validation=True, **PLAIN), bowl(0.012))
    assert [exchange.directive.validate_at for exchange in run.of(Phase.PROBE)] == [(0, 20)] + [(20,)] * 5


def test_a_validation_that_failed_before_the_first_step_costs_nothing() -> None:
    transition = machine.create(config(has_validation=True, **PLAIN))
    report = report_on(transition.directive, 1.0)
    report = report.model_copy(update={"validations": report.validations[1:]})
    transition = machine.advance(transition.state, report)
    assert (transition.state.status, transition.directive.phase) == (Status.SEARCHING, Phase.PROBE)


@pytest.mark.parametrize("decay", ["linear", "cosine", "rex(0.9)", "one_minus_sqrt", "polynomial(3)"])
def test_the_committed_lr_warms_up_and_decays_to_zero_over_all_that_is_left(decay: str) -> None:
    directive = committing(config(decay=decay, warmup=0.05, **PLAIN)).directive
    profile = profile_of(directive)
    n_steps = directive.n_steps
    warmup = int(n_steps * 0.05)
    assert (profile.shape, profile.length, profile.warmup) == (Shape.parse(decay), n_steps, warmup)
    lrs = [profile.lr(step) for step in range(n_steps + 1)]
    assert all(a < b for a, b in itertools.pairwise(lrs[: warmup + 1]))
    assert all(a > b for a, b in itertools.pairwise(lrs[warmup:]))
    assert lrs[-1] == pytest.approx(0, abs=1e-12)
    assert directive.restore


def test_a_constant_decay_is_none() -> None:
    profile = profile_of(committing(config(decay="constant", warmup=0.0, **PLAIN)).directive)
    assert {profile.lr(step) for step in range(profile.length)} == {profile.start_lr}


def test_a_warm_up_of_nearly_all_steps_still_has_a_peak() -> None:
    directive = machine.create(config(probe_steps=4, warmup=0.99)).directive
    assert profile_of(directive).warmup == 3


def test_probes_share_their_minibatches_and_start_at_the_same_weights() -> None:
    run = search(config(**PLAIN), bowl(0.01))
    probes = [exchange.directive for exchange in run.of(Phase.PROBE)]
    assert {probe.batches for probe in probes} == {BatchSource.REPLAYED}
    assert [probe.snapshot for probe in probes] == [True] + [False] * (len(probes) - 1)
    assert [probe.restore for probe in probes] == [False] + [True] * (len(probes) - 1)
