"""Stages of policy autolrs that lose what the run had gained are rolled back."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.evidence.promise import half_kept
from tuner_server.core.job import machine
from tuner_server.core.job.machine import Transition
from tuner_server.core.messages import Directive, Outcome, Phase, Report

CONFIG = JobConfig(
    policy="autolrs",
    policy_options={"tau": 400, "tau_prime": 40, "candidates": 4},
    total_steps=4000,
    lr_bounds=LrBounds(min=1e-4, max=1.0),
    base_lr=0.01,
)
START = 2.3


def falling(directive: Directive, lowest: float) -> list[float]:
    """Losses from the start half-way to the lowest one."""
    return [lowest + (START - lowest) * math.exp(-0.02 * i) for i in range(directive.n_steps)]


def answered(transition: Transition, losses: Callable[[Directive], list[float]], until: Phase) -> Transition:
    """The job once it has given a directive of that phase, its probes and stages having had such losses."""
    while transition.directive.phase is not until:
        directive = transition.directive
        report = Report(directive_number=directive.number, outcome=Outcome.COMPLETED, losses=tuple(losses(directive)))
        transition = machine.advance(transition.state, report)
    return transition


def short(directive: Directive, loss: float) -> Report:
    return Report(
        directive_number=directive.number, outcome=Outcome.FELL_SHORT, losses=(loss,) * directive.report_every
    )


def test_a_stage_that_dies_is_rolled_back_and_searched_again_below_its_lr() -> None:
    committed = answered(machine.create(CONFIG), lambda directive: falling(directive, 1.0), Phase.TRAIN)
    (bar,) = committed.directive.promise
    assert 1.5 < bar.loss < START
    assert committed.directive.profile is not None
    peak = committed.directive.profile.start_lr
    again = machine.advance(committed.state, short(committed.directive, START))
    assert (again.directive.phase, again.directive.restore) == (Phase.PROBE, True)
    assert again.decision is not None
    assert again.decision.setback is not None
    setback = again.decision.setback
    assert setback.loss == pytest.approx(START)
    assert (setback.lr, setback.bar) == (peak, bar.loss)
    assert again.state.committed_steps == 0
    assert again.state.given_back_steps == committed.directive.report_every
    lower = answered(again, lambda directive: falling(directive, 1.0), Phase.TRAIN)
    assert lower.directive.profile is not None
    assert lower.directive.profile.start_lr <= peak / math.sqrt(10.0) * (1 + 1e-9)
    assert lower.decision is not None
    assert lower.decision.setback is None


def test_a_later_stage_may_rise_as_long_as_half_of_what_was_gained_stays() -> None:
    first = answered(machine.create(CONFIG), lambda directive: falling(directive, 0.3), Phase.TRAIN)
    done = Report(directive_number=first.directive.number, outcome=Outcome.COMPLETED, losses=(0.3,) * 400)
    second = answered(machine.advance(first.state, done), lambda directive: [0.3] * directive.n_steps, Phase.TRAIN)
    (bar,) = second.directive.promise
    assert bar.loss == pytest.approx((START + 0.3) / 2, rel=0.1)


@pytest.mark.parametrize(("shift", "factor"), [(-5.0, 1.0), (0.0, 40.0), (-3.0, 0.01)])
def test_the_bar_moves_with_a_shift_and_scales(shift: float, factor: float) -> None:
    (plain,) = half_kept(2.0, 1.0, 0.1, 40, 50)
    (moved,) = half_kept(factor * (2.0 + shift), factor * (1.0 + shift), factor * 0.1, 40, 50)
    assert moved.loss == pytest.approx(factor * (plain.loss + shift))


def test_nothing_is_promised_where_nothing_was_gained() -> None:
    assert half_kept(2.0, 2.0, 0.1, 40, 50) == ()


def test_the_first_stage_is_held_to_its_own_probe_and_not_to_the_best_one() -> None:
    """A forecast may prefer a slow fall: that is no reason to roll a sound stage back."""

    def slow_wins(directive: Directive) -> list[float]:
        assert directive.profile is not None
        if directive.profile.start_lr > 0.02:  # falls at once, and no further
            return [START - 1.3 * (1 - math.exp(-0.5 * i)) for i in range(directive.n_steps)]
        return [START - 0.02 * i for i in range(directive.n_steps)]

    committed = answered(machine.create(CONFIG), slow_wins, Phase.TRAIN)
    assert committed.directive.profile is not None
    assert committed.directive.profile.start_lr < 0.02
    (bar,) = committed.directive.promise
    assert bar.loss > START - 0.02 * 40 / 2 - 0.1
