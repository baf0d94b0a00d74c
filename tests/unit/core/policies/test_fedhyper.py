"""Policy `fedhyper` tells its client a round at a time, and what was reported decides on the next one."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tuner_server.core.config import JobConfig
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.evidence.restart import RETREAT
from tuner_server.core.job import machine
from tuner_server.core.job.machine import Transition
from tuner_server.core.messages import ChangeKind, Outcome, PlanChange, Report, RoundStep
from tuner_server.core.policies.fedhyper import NEEDED
from tuner_server.core.stages.fedhyper import Variant

LR, LOCAL_STEPS = 0.1, 4
MEASURES = tuple(dict.fromkeys(name for names in NEEDED.values() for name in names))


def opened(variant: str = "g", **options: Any) -> Transition:
    own = {"variant": variant, "local_steps": LOCAL_STEPS, **options}
    return machine.create(JobConfig(policy="fedhyper", policy_options=own, base_lr=LR, measures=MEASURES))


def told(before: Transition, outcome: Outcome = Outcome.COMPLETED, loss: float = 1.0, **last: float) -> Transition:
    """After a directive whose last step has these measures, and all others none."""
    directive = before.directive
    n = directive.n_steps
    series = {name: (*[math.nan] * (n - 1), last.get(name, math.nan)) for name in directive.measures}
    report = Report(directive_number=directive.number, outcome=outcome, losses=(loss,) * n, measures=series)
    return machine.advance(before.state, report)


def lr_of(transition: Transition) -> float:
    assert transition.directive.profile is not None
    return transition.directive.profile.lr(0)


def taken_on(transition: Transition) -> tuple[float, float]:
    assert transition.directive.round is not None
    return transition.directive.round.factor, transition.directive.round.momentum


def test_the_first_round_has_nothing_to_take_on_and_the_next_ones_do() -> None:
    transition = opened()
    assert transition.directive.round is None
    assert (transition.directive.n_steps, lr_of(transition)) == (LOCAL_STEPS, LR)
    assert transition.directive.measures == NEEDED[Variant.G]
    transition = told(transition, round_norm=2.0)
    assert transition.directive.round == RoundStep(factor=1.0)
    transition = told(transition, round_norm=1.0, round_product=1.0)
    assert transition.directive.round == RoundStep(factor=1.0 + 0.3 * 0.5)
    assert transition.directive.snapshot
    assert lr_of(transition) == LR
    assert transition.directive.reason == "the global step goes from 1.000 to 1.150 times what it is without"
    transition = told(transition, round_norm=1.0)  # no product: the factor stays
    assert transition.directive.round == RoundStep(factor=1.15)


def test_momentum_is_taken_on_with_gm() -> None:
    transition = told(
        told(opened("gm"), round_norm=2.0), round_norm=1.0, round_momentum_norm=2, round_momentum_product=2
    )
    assert taken_on(transition) == pytest.approx((1.3, 0.27))
    transition = told(opened("gm", published=True), round_norm=1.0, round_momentum_product=0.5)
    assert taken_on(transition) == pytest.approx((1.5, 0.45))


def test_the_local_lr_moves_with_sl_and_the_bounds_may_be_others() -> None:
    transition = told(opened("sl", published=True), round_norm=1.0, round_product=0.5)
    assert lr_of(transition) == pytest.approx(1.5 * LR)
    assert transition.directive.round == RoundStep(factor=1.0)
    for _ in range(9):
        transition = told(transition, round_norm=1.0, round_product=5.0)
    assert lr_of(transition) == pytest.approx(10 * LR)
    transition = told(opened("sl", published=True, highest=3), round_norm=1.0, round_product=50.0)
    assert lr_of(transition) == pytest.approx(3 * LR)


def test_cl_reports_within_a_round_and_begins_the_next_one_at_the_lr_that_was_set() -> None:
    transition = opened("cl", every=2, published=True)
    assert (transition.directive.n_steps, transition.directive.round) == (2, None)
    transition = told(transition, local_round_product=0.0, local_product=0.05)
    assert lr_of(transition) == pytest.approx(1.05 * LR)
    assert (transition.directive.round, transition.directive.snapshot) == (None, False)
    transition = told(transition, local_round_product=0.0, local_product=0.05, round_norm=1.0)
    assert lr_of(transition) == LR
    assert (transition.directive.round, transition.directive.snapshot) == (RoundStep(factor=1.0), True)


def test_a_round_that_went_wrong_here_has_a_lower_lr_here_and_the_factor_of_all() -> None:
    before = told(told(opened(), round_norm=2.0), round_norm=1.0, round_product=1.0)
    after = told(before, Outcome.DIVERGED, math.nan, round_norm=1.0, round_product=0.5)
    assert after.directive.restore
    assert taken_on(after) == pytest.approx((1.3, 0.0))
    assert lr_of(after) == pytest.approx(LR / RETREAT)
    assert after.state.committed_steps == 2 * LOCAL_STEPS
    within = told(before, Outcome.DIVERGED, math.nan)
    assert within.directive.restore
    assert (within.directive.round, within.directive.n_steps) == (None, LOCAL_STEPS)


def test_another_plan_goes_on_in_the_round_and_an_annealing_ends_it() -> None:
    transition = opened()
    change = PlanChange(kind=ChangeKind.EXTEND, total_steps=10)
    losses = (1.0,) * LOCAL_STEPS
    report = Report(directive_number=1, outcome=Outcome.COMPLETED, losses=losses, change=change)
    transition = machine.advance(transition.state, report)
    assert transition.directive.n_steps == LOCAL_STEPS
    transition = told(transition, round_norm=1.0)
    assert transition.directive.n_steps == 2
    change = PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=3)
    transition = opened()
    transition = machine.advance(transition.state, report.model_copy(update={"change": change}))
    assert transition.directive.n_steps == 3
    assert transition.directive.profile is not None
    assert transition.directive.profile.last_lr == 0.0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"policy_options\.lowest.*begins at 1"):
        opened(lowest=2.0)
    with pytest.raises(InvalidInputError, match=r"lrpilot\.federated\.Client"):
        machine.create(JobConfig(policy="fedhyper", base_lr=LR, measures=("round_norm",)))
