"""A job is the same whatever the unit and the zero of its losses: a x + b, with a > 0, in place of every loss x.

Losses are multiples of a power of two, so that nothing but the arithmetic of the decisions rounds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.support.jobs import budget_jobs, open_ended_jobs
from tests.support.jobs.broken_promises import DEADLY_TWICE, DyingTraining, OverfittingTraining
from tests.support.jobs.simulated_training import QUICK, NoNumbersAfterAStep, Run, SimulatedTraining, config, drive
from tuner_server.core.config import JobConfig
from tuner_server.core.messages import Bar, Directive, Outcome, Phase, Report, Validation

GRAIN = 2.0**-10
LARGEST = 2.0**30
"""Larger losses are cut off: they keep their grain beside any shift."""
SCALES, SHIFTS = st.integers(-6, 6).map(lambda exponent: 2.0**exponent), st.integers(-2000, 2000).map(float)


@dataclasses.dataclass(frozen=True)
class Unit:
    """What the losses are told in."""

    scale: float = 1.0
    shift: float = 0.0

    def told(self, loss: float) -> float:
        """A loss, as a client tells it."""
        if not math.isfinite(loss):
            return loss
        return self.scale * GRAIN * round(min(loss, LARGEST) / GRAIN) + self.shift

    def meant(self, loss: float | None) -> float | None:
        """What was told, in the first unit."""
        return None if loss is None or not math.isfinite(loss) else (loss - self.shift) / self.scale


def told_in(unit: Unit, training: type[SimulatedTraining], **fields: Any) -> SimulatedTraining:
    """A training whose losses are told in such a unit."""

    class Told(training):  # type: ignore[misc, valid-type]  # a class that is chosen here
        def _step(self, lr: float) -> float:
            return unit.told(super()._step(lr))

        def _validation(self, directive: Directive, step: int) -> list[Validation]:
            return [Validation(step=v.step, loss=unit.told(v.loss)) for v in super()._validation(directive, step)]

    told: SimulatedTraining = Told(**fields)
    return told


def alike(loss: float | None) -> Any:
    return None if loss is None else pytest.approx(loss, rel=1e-6, abs=1e-6)


def of_bar(bar: Bar, unit: Unit) -> tuple[int, float | None, float | None]:
    return bar.from_step, unit.meant(bar.loss), unit.meant(bar.validation)


def of_directive(directive: Directive, unit: Unit) -> dict[str, Any]:
    """All that a client does, losses in the first unit."""
    profile = directive.profile
    return directive.model_dump(include={"number", "phase", "stage", "n_steps", "restore", "snapshot"}) | {
        "lrs": None if profile is None else (profile.start_lr, profile.end_lr),
        "give_up_above": unit.meant(directive.give_up_above),
        "promise": [of_bar(bar, unit) for bar in directive.promise],
    }


def assert_same(plain: Run, changed: Run, unit: Unit) -> None:
    assert [directive.phase for directive in plain.directives] == [directive.phase for directive in changed.directives]
    for one, other in zip(plain.exchanges, changed.exchanges, strict=True):
        expected, found = of_directive(one.directive, Unit()), of_directive(other.directive, unit)
        for name in ("lrs", "give_up_above"):
            assert found.pop(name) == alike(expected.pop(name)), (name, one.directive.number)
        assert found.pop("promise") == [
            (step, alike(loss), alike(validation)) for step, loss, validation in expected.pop("promise")
        ]
        assert found == expected
        if one.report is not None and other.report is not None:
            assert other.report.outcome is one.report.outcome
            assert other.report.n_steps == one.report.n_steps


BUDGET = budget_jobs.config(1000, **budget_jobs.PLAIN)
VALIDATED = budget_jobs.config(1000, has_validation=True, **budget_jobs.PLAIN)
UNBOUNDED = budget_jobs.config(1500, bounds=None, **budget_jobs.PLAIN)
STAGES = config(1500, **QUICK | {"tau": 200, "tau_prime": 20, "tau_max": 300})
DECAYED = config(1500, tau=200, tau_prime=20, candidates=3, decayed_probes=True, acquisition="log_ei")

OPEN: dict[str, Any] = {"first_stage": 100, "look_share": 0.5}
ENDLESS = open_ended_jobs.config(patience=2, **OPEN)
ENDLESS_VALIDATED = open_ended_jobs.config(patience=2, has_validation=True, **OPEN)
TIMED = open_ended_jobs.config(total_time_s=20.0)

JOBS: dict[str, tuple[JobConfig, Callable[[Unit], SimulatedTraining]]] = {
    "budget": (BUDGET, lambda unit: told_in(unit, SimulatedTraining)),
    "budget, diverging": (BUDGET, lambda unit: told_in(unit, SimulatedTraining, edge_lr=0.02)),
    "budget, validated": (VALIDATED, lambda unit: told_in(unit, SimulatedTraining, validates=True)),
    "budget, noisy": (BUDGET, lambda unit: told_in(unit, SimulatedTraining, noise=0.4)),
    "budget, range test": (UNBOUNDED, lambda unit: told_in(unit, SimulatedTraining)),
    "budget, noisy range test": (UNBOUNDED, lambda unit: told_in(unit, SimulatedTraining, noise=0.5)),
    "budget, dying": (VALIDATED, lambda unit: told_in(unit, DyingTraining, deadly_lr=DEADLY_TWICE, validates=True)),
    "budget, overfitting": (VALIDATED, lambda unit: told_in(unit, OverfittingTraining)),
    "budget, no number": (BUDGET, lambda unit: told_in(unit, NoNumbersAfterAStep)),
    "open_ended": (ENDLESS, lambda unit: told_in(unit, SimulatedTraining)),
    "open_ended, diverging": (ENDLESS, lambda unit: told_in(unit, SimulatedTraining, edge_lr=0.02)),
    "open_ended, validated": (ENDLESS_VALIDATED, lambda unit: told_in(unit, SimulatedTraining, validates=True)),
    "open_ended, noisy": (ENDLESS, lambda unit: told_in(unit, SimulatedTraining, noise=0.4)),
    "open_ended, dying": (ENDLESS, lambda unit: told_in(unit, DyingTraining, deadly_lr=0.02)),
    "open_ended, by time": (TIMED, lambda unit: told_in(unit, SimulatedTraining)),
    "autolrs": (STAGES, lambda unit: told_in(unit, SimulatedTraining)),
    "autolrs, diverging": (STAGES, lambda unit: told_in(unit, SimulatedTraining, edge_lr=0.05)),
    "autolrs, noisy": (STAGES, lambda unit: told_in(unit, SimulatedTraining, noise=0.4)),
    "autolrs, dying": (STAGES, lambda unit: told_in(unit, DyingTraining, deadly_lr=0.05)),
    "autolrs, decayed probes": (DECAYED, lambda unit: told_in(unit, SimulatedTraining)),
}
"""With the forecaster that extrapolates nothing: the published one has a bound at zero, and smooths in its own unit."""


@pytest.mark.parametrize("name", JOBS)
@hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
@hypothesis.given(scale=SCALES, shift=SHIFTS)
def test_a_job_decides_the_same_in_any_unit_and_from_any_zero(name: str, scale: float, shift: float) -> None:
    asked, training = JOBS[name]
    unit = Unit(scale, shift)
    plain, changed = (drive(asked, training(each), max_directives=60) for each in (Unit(), unit))
    assert_same(plain, changed, unit)


def test_the_jobs_cover_what_a_loss_is_judged_by() -> None:
    runs = {name: drive(asked, training(Unit()), max_directives=60) for name, (asked, training) in JOBS.items()}
    reports: list[tuple[Directive, Report]] = [
        (exchange.directive, exchange.report)
        for run in runs.values()
        for exchange in run.exchanges
        if exchange.report is not None
    ]
    ended = {(directive.phase, report.outcome) for directive, report in reports}
    assert {
        (Phase.PROBE, Outcome.DIVERGED),
        (Phase.TRAIN, Outcome.DIVERGED),
        (Phase.TRAIN, Outcome.FELL_SHORT),
    } <= ended
    by_level = [r for _, r in reports if r.outcome is Outcome.DIVERGED and math.isfinite(r.losses[-1])]
    assert by_level, "some are above a level, and no NaN"
    assert any(directive.promise for directive, _ in reports)
