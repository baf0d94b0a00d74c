"""Policy `hypergradient` adapts the LR from what is reported, by its rule, and keeps it where nothing is."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from tests.support.jobs.simulated_training import SimulatedTraining, drive
from tuner_server.core import policies
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.evidence.restart import RETREAT
from tuner_server.core.job import machine
from tuner_server.core.job.machine import JobState, Status
from tuner_server.core.messages import ChangeKind, Directive, Outcome, Phase, PlanChange, Report
from tuner_server.core.stages.hypergradient import Adapted, Form, Rule

MEASURES = ("gradient_norm", "update_norm", "update_product")
BASE_LR = 0.1


def config(total_steps: int | None = 400, **fields: Any) -> JobConfig:
    options = fields.pop("options", {})
    fields = {"measures": MEASURES, "base_lr": BASE_LR, "lr_bounds": LrBounds(min=1e-4, max=10.0)} | fields
    return JobConfig(policy="hypergradient", policy_options=options, total_steps=total_steps, **fields)


class Quadratic:
    """Gradient descent on a bowl of two curvatures, and what is measured of it; it diverges above an LR of two."""

    def __init__(self) -> None:
        self.x, self.c = np.array([2.0, -4.0]), np.array([1.0, 0.02])
        self.before: Any = None
        self.lrs: list[float] = []
        self.seen: list[Directive] = []

    def report(self, directive: Directive, **fields: Any) -> Report:
        assert directive.profile is not None
        self.seen.append(directive)
        losses, values = [], []
        for step in range(directive.n_steps):
            gradient = self.c * self.x
            before = np.full(2, math.nan) if self.before is None else self.before
            losses.append(float(0.5 * self.c @ self.x**2))
            values.append((float(np.linalg.norm(gradient)), float(np.linalg.norm(before)), float(gradient @ before)))
            self.lrs.append(directive.profile.lr(step))
            self.x, self.before = self.x - self.lrs[-1] * gradient, gradient
        series = zip(MEASURES, zip(*values, strict=True), strict=True)
        measures = {name: own for name, own in series if name in directive.measures}
        report = {"outcome": Outcome.COMPLETED, "losses": tuple(losses), "measures": measures} | fields
        return Report(directive_number=directive.number, **report)

    def run(self, asked: JobConfig, n_directives: int = 10_000) -> JobState:
        transition = machine.create(asked)
        for _ in range(n_directives):
            if transition.directive.phase is Phase.STOP:
                break
            transition = machine.advance(transition.state, self.report(transition.directive))
        return transition.state


@pytest.mark.parametrize("every", [1, 7, 10])
def test_the_peak_follows_the_rule_and_the_lr_a_line_to_zero_under_it(every: int) -> None:
    training = Quadratic()
    state = training.run(config(options={"every": every}))
    assert state.status is Status.FINISHED
    assert (state.committed_steps, state.search_steps) == (400, 0)
    adapting = [each for each in training.seen if each.measures]
    assert sum(each.n_steps for each in adapting) == 120
    assert len(adapting) == math.ceil(120 / every)
    assert training.lrs[0] == BASE_LR
    twin, adapted = Quadratic(), Adapted.begin(BASE_LR)
    rule = Rule(Form.MULTIPLICATIVE, 0.02, BASE_LR, 1e-4, 10.0)
    done = 0
    for directive in adapting:
        assert directive.profile is not None
        assert directive.profile.start_lr == pytest.approx(adapted.lr * (400 - done) / 400)
        measures = twin.report(directive).measures
        adapted = rule.after(adapted, *(measures[name] for name in (MEASURES[2], MEASURES[0], MEASURES[1])))
        done += directive.n_steps
    [rest] = [each for each in training.seen if not each.measures]
    assert rest.profile is not None
    assert (rest.n_steps, rest.profile.last_lr) == (280, 0.0)
    assert rest.profile.first_lr == pytest.approx(adapted.lr * 0.7)
    assert adapted.lr > 2 * BASE_LR


def test_an_lr_that_is_too_low_rises_and_one_that_is_too_high_falls() -> None:
    low, high = Quadratic(), Quadratic()
    low.run(config(None, base_lr=1e-3), 40)
    high.run(config(None, base_lr=2.02, options={"every": 1}), 30)
    assert low.lrs[-1] > 100 * low.lrs[0]
    assert high.lrs[-1] < 2.0
    assert max(low.lrs) <= 10.0


def test_a_run_without_an_end_is_adapted_all_the_time_and_cooled_down_when_asked() -> None:
    training = Quadratic()
    state = training.run(config(None), 30)
    assert [each.n_steps for each in training.seen] == [10] * 30
    assert all(each.measures for each in training.seen)
    change = PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=50)
    transition = machine.advance(state, training.report(state.directive, change=change))
    assert transition.directive.n_steps == 50
    assert transition.directive.profile is not None
    assert transition.directive.profile.last_lr == 0.0
    assert not transition.directive.measures


def test_a_snapshot_is_taken_whenever_the_steps_have_doubled() -> None:
    training = Quadratic()
    training.run(config(None, options={"every": 50}), 20)
    starts = [0, *itertools.accumulate(each.n_steps for each in training.seen)]
    taken = [start for start, each in zip(starts, training.seen, strict=False) if each.snapshot]
    assert taken == [0, 100, 200, 400, 800]


@pytest.mark.parametrize(
    ("fields", "words"), [({"measures": ("gradient_norm",)}, "can't measure update_product, update_norm"), ({}, "")]
)
def test_without_products_the_lr_stays_and_the_reason_says_so(fields: dict[str, Any], words: str) -> None:
    training = Quadratic()
    transition = machine.create(config(**fields))
    first = transition.directive
    assert words in first.reason
    if words:
        assert (first.n_steps, first.measures) == (400, ())
        return
    transition = machine.advance(transition.state, training.report(first, measures={}))
    assert transition.directive.profile is not None
    assert transition.directive.profile.start_lr == pytest.approx(BASE_LR * 390 / 400)
    assert transition.directive.reason == "no product was reported, so the LR stays"


def test_the_reason_tells_how_gradients_and_steps_agree() -> None:
    training = Quadratic()
    training.run(config(), 2)
    assert training.seen[1].reason.startswith("the mean cosine of 9 gradients and the steps before them is +")
    for form in ("scaled", "additive"):
        training = Quadratic()
        training.run(config(options={"form": form}), 2)
        assert training.seen[1].reason.startswith("the sum of 9 products is +")
        assert set(training.seen[0].measures) == {"update_product"} | ({"gradient_norm"} if form == "scaled" else set())


def test_after_a_divergence_no_adapted_lr_is_as_high_again() -> None:
    training = Quadratic()
    state = training.run(config(None), 12)
    failed = state.directive.profile
    assert failed is not None
    nan = (math.nan,) * 3
    report = Report(directive_number=state.directive.number, outcome=Outcome.DIVERGED, losses=nan)
    transition = machine.advance(state, report)
    assert transition.directive.restore
    assert transition.directive.profile is not None
    assert transition.directive.profile.peak == pytest.approx(failed.peak / RETREAT)
    assert transition.decision is not None
    assert transition.decision.setback is not None
    following = Quadratic()
    for _ in range(60):
        transition = machine.advance(transition.state, following.report(transition.directive))
    assert max(following.lrs) == pytest.approx(failed.peak / RETREAT)


def test_more_steps_and_another_batch_size_move_the_line_that_is_under_the_peak() -> None:
    training = Quadratic()
    state = training.run(config(), 5)
    more = PlanChange(kind=ChangeKind.EXTEND, total_steps=800)
    transition = machine.advance(state, training.report(state.directive, change=more))
    peak = transition.state.policy_state
    assert peak is not None
    assert transition.directive.profile is not None
    assert transition.directive.profile.start_lr == pytest.approx(peak["peak"]["lr"] * 740 / 800)
    larger = PlanChange(kind=ChangeKind.REPLAN, batch_factor=4.0)
    state = transition.state
    transition = machine.advance(state, training.report(state.directive, change=larger))
    again = transition.state.policy_state
    assert again is not None
    assert again["peak"]["lr"] == pytest.approx(2 * peak["peak"]["lr"])


def test_bounds_that_do_not_hold_the_lr_that_was_set_are_wide_enough_for_it() -> None:
    run = drive(config(base_lr=1e-5), SimulatedTraining())
    assert run.directives[0].profile is not None
    assert run.directives[0].profile.peak == 1e-5
    assert not machine.create(config(lr_bounds=None)).directive.phase.searches


@pytest.mark.parametrize("option", [{"rate": 0}, {"every": 0}, {"adapt_share": 1.5}, {"form": "cosine"}])
def test_an_option_that_does_not_fit_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=f"policy_options.{next(iter(option))}"):
        machine.create(config(options=option))


def test_an_unknown_option_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(
        InvalidInputError, match=r"policy_options\.decay: no such option; there are .*rate.* \(got 'rex'\)"
    ):
        policies.make(JobConfig(base_lr=0.1, policy="hypergradient", policy_options={"decay": "rex"}))
