"""When losses are too high to go on: not for any noise, always for a run that blows up, and not for ever."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.jobs.sample_jobs import SlowTraining, job_config
from tests.support.jobs.simulated_training import QUICK, Run, drive
from tuner_server.core.config import JobConfig
from tuner_server.core.evidence.divergence import (
    SPREADS,
    WINDOW,
    SoundLosses,
    learn,
    level_reached,
)
from tuner_server.core.evidence.restart import MAX_RESTARTS, TRUSTED_RESTARTS
from tuner_server.core.job import machine
from tuner_server.core.job.machine import Status
from tuner_server.core.messages import Directive, Outcome, Phase, Report

POLICIES = ("budget", "autolrs")
OPTIONS: dict[str, dict[str, Any]] = {
    "budget": {"probe_steps": 25, "refinements": 1},
    "autolrs": QUICK | {"tau": 300, "tau_prime": 30, "tau_max": 300},
}
"""Cheap searches; probes as long as the shortest that are usual."""
TOTAL = 1500
NOISES = (0.1, 0.4, 1.0)
LUCKY = 0.33
"""Of its mean: the first batch of the run that this is about."""


class NoisyTraining(SlowTraining):
    """Its noise is a part of the loss, and its first batch a lucky one. It may blow up in committed steps."""

    def __init__(self, seed: int, noise: float, *, blow_up: str = "", sound_below: float = 0.0) -> None:
        """`blow_up` says how ("grows", "nan") at LRs from `sound_below` on; empty: never."""
        super().__init__(seed, noise=noise, edge_lr=1e9)
        self._noise[0] = LUCKY - 1.0
        self._blow_up, self._sound_below = blow_up, sound_below

    def run(self, directive: Directive) -> Report:
        self.edge_lr = self._sound_below if self._blow_up and directive.phase is Phase.TRAIN else 1e9
        return super().run(directive)

    def loss(self) -> float:
        return math.nan if self._blow_up == "nan" and self.weights.heat else super().loss()


def noisy_config(policy: str, seed: int) -> JobConfig:
    config = job_config("noisy", policy, TOTAL, validates=False, **OPTIONS[policy])
    return config.model_copy(update={"seed": seed})


def diverged(run: Run) -> list[Report]:
    """The reports on committed steps that were given back."""
    reports = [e.report for e in run.exchanges if e.directive.phase is Phase.TRAIN and e.report]
    return [report for report in reports if report.outcome is Outcome.DIVERGED]


def check_noise_is_no_divergence(policy: str, noise: float, seed: int) -> None:
    run = drive(noisy_config(policy, seed), NoisyTraining(seed, noise))
    assert diverged(run) == []
    assert run.state.status is Status.FINISHED
    assert run.of(Phase.TRAIN)[0].directive.give_up_above is not None


def check_blow_up_is_caught(policy: str, noise: float, seed: int, blow_up: str) -> None:
    calm = drive(noisy_config(policy, seed), NoisyTraining(seed, noise))
    first = calm.of(Phase.TRAIN)[0].directive
    assert first.profile is not None
    peak = max(first.profile.lr(step) for step in range(first.n_steps))
    training = NoisyTraining(seed, noise, blow_up=blow_up, sound_below=0.9 * peak)
    run = drive(noisy_config(policy, seed), training)
    [report] = diverged(run)
    assert run.state.status is Status.FINISHED
    # The loss grows by half at each step. Noise as large as the loss makes it negative now and then: no row then.
    before_it = next(i for i in range(first.n_steps) if first.profile.lr(i) > 0.9 * peak)
    parts = run.exchanges[: [e.report for e in run.exchanges].index(report)]
    done = sum(e.report.n_steps for e in parts if e.directive.phase is Phase.TRAIN and e.report)
    assert done + report.n_steps - before_it <= (2 if blow_up == "nan" else 40)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("noise", NOISES)
def test_noise_and_a_lucky_first_batch_give_no_committed_step_back(policy: str, noise: float) -> None:
    check_noise_is_no_divergence(policy, noise, 0)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("noise", NOISES)
def test_no_seed_gives_committed_steps_back(policy: str, noise: float) -> None:
    for seed in range(1, 20):
        check_noise_is_no_divergence(policy, noise, seed)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("blow_up", ["grows", "nan"])
def test_a_blow_up_is_rolled_back_soon_and_a_lower_lr_trains_on(policy: str, blow_up: str) -> None:
    check_blow_up_is_caught(policy, 0.4, 0, blow_up)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("blow_up", ["grows", "nan"])
def test_every_seeds_blow_up_is_rolled_back_soon(policy: str, noise: float, blow_up: str) -> None:
    for seed in range(1, 20):
        check_blow_up_is_caught(policy, noise, seed, blow_up)


# --- restarts ---------------------------------------------------------------------------------------------------------


def falling(n_steps: int) -> tuple[float, ...]:
    """Of losses that the level is learnt from."""
    return (1.0,) * (n_steps // 2) + (0.9,) * (n_steps - n_steps // 2)


def answered(directive: Directive, last_loss: float | None) -> Report:
    """Losses that fall a little; with `last_loss`, committed steps that diverge after a few, with that."""
    fails = last_loss is not None and directive.phase is Phase.TRAIN
    losses = (1.0, 1.0, last_loss) if fails and last_loss is not None else falling(directive.n_steps)
    outcome = Outcome.DIVERGED if fails else Outcome.COMPLETED
    return Report(directive_number=directive.number, outcome=outcome, losses=losses)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_loss_that_is_always_too_high_is_left_alone_after_some_restarts(policy: str) -> None:
    transition = machine.create(noisy_config(policy, 0).model_copy(update={"total_steps": 20_000}))
    restarts = 0
    while transition.directive.phase is not Phase.STOP:
        directive = transition.directive
        watched = directive.give_up_above is not None
        restarts += directive.phase is Phase.TRAIN and watched
        transition = machine.advance(transition.state, answered(directive, 9.0 if watched else None))
        if restarts == TRUSTED_RESTARTS and transition.directive.phase is Phase.TRAIN:
            assert transition.directive.give_up_above is None
            assert f"after {TRUSTED_RESTARTS} divergences only NaN or infinity" in transition.directive.reason
            break
    transition = machine.advance(transition.state, answered(transition.directive, None))
    assert restarts == TRUSTED_RESTARTS
    assert transition.state.committed_steps > 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("last", [9.0, math.nan])
def test_restarts_without_progress_are_bounded(policy: str, last: float) -> None:
    """Whatever the client says. The job fails then, and the training goes on without it."""
    transition = machine.create(noisy_config(policy, 0).model_copy(update={"total_steps": 20_000}))
    given_back = 0
    while transition.directive.phase is not Phase.STOP:
        given_back += transition.directive.phase is Phase.TRAIN
        transition = machine.advance(transition.state, answered(transition.directive, last))
    assert given_back == MAX_RESTARTS + 1
    assert transition.state.status is Status.FAILED
    assert "the LR is not the cause" in transition.state.message


# --- the level --------------------------------------------------------------------------------------------------------


def probe(losses: list[float], outcome: Outcome = Outcome.COMPLETED) -> Report:
    return Report(directive_number=1, outcome=outcome, losses=tuple(losses))


LR = 0.1


def fallen(start: float, end: float) -> list[float]:
    """Without noise: most losses at the start, the others where it came to."""
    return [start] * 20 + [end] * WINDOW


def test_the_level_lies_as_many_times_above_what_is_typical_as_sound_probes_came_below_it() -> None:
    sound = learn(learn(None, LR / 3, probe(fallen(2.0, 1.75))), LR, probe(fallen(2.0, 1.5)))
    assert sound == SoundLosses(typical=2.0, sd=0.0, lowest=1.5, lowest_lr=LR)
    assert sound.level(8.0, LR) == 2.0 + 8 * 0.5
    assert sound.level(8.0, LR, start_loss=4.0) == 4.0 + 8 * 2.5
    assert sound.level(8.0, LR, start_loss=1.0) == 2.0 + 8 * 0.5


def test_what_a_probe_tells_reaches_ten_times_its_lr_and_the_level_rises_beyond() -> None:
    sound = learn(learn(None, LR, probe(fallen(2.0, 1.5))), 10 * LR, probe(fallen(2.0, 1.75)))
    assert sound is not None
    assert sound.lowest_lr == LR
    assert {sound.level(8.0, factor * LR) for factor in (0.01, 1.0, 10.0)} == {2.0 + 8 * 0.5}
    assert sound.level(8.0, 90 * LR) == pytest.approx(2.0 + 3 * 8 * 0.5)


def test_there_is_no_level_where_no_loss_ever_moved_or_nothing_is_known_of_that() -> None:
    for loss in (2.0, 0.0, -2.0):
        sound = learn(None, LR, probe([loss] * 30))
        assert sound is not None
        assert sound.level(8.0, LR) is None
    assert SoundLosses(typical=2.0, sd=0.1).level(8.0, LR) is None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(-100, 100), min_size=WINDOW, max_size=40), min_size=1, max_size=4),
    st.integers(-4, 4),
    st.integers(-1000, 1000),
)
def test_the_level_moves_with_a_shift_and_scales_with_the_losses(
    probes: list[list[int]], exponent: int, shift: int
) -> None:
    factor = 2.0**exponent

    def level(change: Callable[[float], float]) -> float | None:
        known: SoundLosses | None = None
        for losses in probes:
            known = learn(known, LR, probe([change(loss) for loss in losses]))
        return None if known is None else known.level(8.0, LR, change(probes[0][0]))

    plain, changed = level(lambda loss: loss), level(lambda loss: factor * loss + shift)
    assert changed == (None if plain is None else pytest.approx(factor * plain + shift, abs=1e-9 * (1 + factor)))


def test_the_level_lies_above_the_noise_where_that_is_high() -> None:
    noise = np.random.default_rng(0).standard_normal(2000)
    sound = learn(None, LR, probe((1.0 + noise).tolist()[::-1] + [1.0] * WINDOW))
    assert sound is not None
    assert sound.sd == pytest.approx(1.0, rel=0.1)
    assert sound.level(3.0, LR) == sound.typical + SPREADS * sound.sd
    assert SPREADS * sound.sd > 3.0 * (sound.typical - noise.min())


def test_a_single_batch_does_not_move_the_level() -> None:
    losses = [2.0 - 0.01 * i for i in range(30)]
    sound = learn(None, LR, probe(losses))
    assert sound is not None
    for outlier in (0.0, 1e9):
        for at in range(30):
            moved = learn(None, LR, probe([*losses[:at], outlier, *losses[at + 1 :]]))
            assert moved is not None
            assert moved.level(3.0, LR) == pytest.approx(sound.level(3.0, LR), rel=0.02)


def test_only_a_long_enough_probe_that_did_not_rise_teaches() -> None:
    known = SoundLosses(typical=1.0, sd=0.1)
    for report in (
        probe([2.0] * (WINDOW - 1)),
        probe([1.1**i for i in range(30)]),
        probe([2.0] * 30, Outcome.DIVERGED),
    ):
        assert learn(None, LR, report) is None
        assert learn(known, LR, report) is known


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), max_size=6))
def test_more_probes_never_lower_the_level(probes: list[list[float]]) -> None:
    known: SoundLosses | None = None
    for losses in probes:
        more = learn(known, LR, probe(losses))
        if known is not None:
            assert more is not None
            assert (more.typical, more.sd) >= (known.typical, known.sd) or more.typical > known.typical
            assert more.sd >= known.sd
        known = more


def test_what_a_diverged_probe_reached_is_the_highest_finite_loss() -> None:
    assert level_reached(probe([1.0, 7.0, math.nan]), 2.0) == 7.0
    assert level_reached(probe([math.nan]), 2.0) == 2.0
    assert level_reached(probe([math.inf]), None) is None
