"""The LR range test: how long it is, and which bounds a curve of losses speaks for."""

from __future__ import annotations

import math

import hypothesis
import pytest
from hypothesis import strategies as st
from lrpilot.wire.profile import Shape

from tests.support.jobs.simulated_training import SimulatedTraining, config
from tuner_server.core.messages import BatchSource, Outcome, Phase, Report
from tuner_server.core.stages import lr_range

CONFIG = config(4000, bounds=False)


def bounds(losses: tuple[float, ...], outcome: Outcome = Outcome.COMPLETED) -> tuple[float, float]:
    report = Report(directive_number=1, outcome=outcome, losses=losses)
    found = lr_range.bounds(lr_range.directive(CONFIG), report, CONFIG)
    return found.min, found.max


BLIND = (0.1 / 30, 0.1 * 30)


@pytest.mark.parametrize(("total", "n_steps"), [(None, 150), (100, 40), (2000, 40), (4000, 80), (10**6, 150)])
def test_length(total: int | None, n_steps: int) -> None:
    directive = lr_range.directive(config(total, bounds=False, tau=20, tau_prime=2))
    assert directive.n_steps == n_steps
    assert directive.phase is Phase.RANGE_TEST
    assert directive.batches is BatchSource.REPLAYED


def test_the_lr_rises_exponentially_from_the_lowest_to_the_highest() -> None:
    profile = lr_range.directive(CONFIG).profile
    assert profile is not None
    assert profile.shape == Shape.EXPONENTIAL
    assert profile.lr(0) == 1e-6
    assert profile.lr(80) == pytest.approx(10.0)
    assert profile.lr(41) / profile.lr(40) == pytest.approx(profile.lr(1) / profile.lr(0))


@pytest.mark.parametrize("edge_lr", [0.003, 0.03, 0.3])
def test_the_upper_bound_lies_about_the_edge_of_divergence(edge_lr: float) -> None:
    training = SimulatedTraining(best_lr=edge_lr / 4, edge_lr=edge_lr)
    # So long a test moves the simulated loss; its noise does not.
    long = config(None, bounds=False)
    directive = lr_range.directive(long).model_copy(update={"number": 1, "snapshot": True})
    found = lr_range.bounds(directive, training.run(directive), long)
    assert edge_lr / 3 < found.max < edge_lr * 10
    assert found.max / found.min == pytest.approx(1000.0)


def test_bounds_hold_the_lr_of_the_lowest_smoothed_loss() -> None:
    losses = tuple(1.0 - 0.015 * i for i in range(60)) + (5.0,) * 20
    profile = lr_range.directive(CONFIG).profile
    assert profile is not None
    assert bounds(losses)[1] == pytest.approx(2 * profile.lr(59))


@pytest.mark.parametrize(
    "losses",
    [
        (1.0,) * 80,
        tuple((1.0, 1.01)[i % 2] for i in range(40)) + tuple((0.999, 1.009)[i % 2] for i in range(40)),
        (0.0,) * 5 + (1.0,) * 75,
        tuple(1.0 + 0.1 * i for i in range(80)),
        (math.nan,),
        (math.inf, 1.0),
    ],
)
def test_a_curve_that_tells_nothing_gives_bounds_around_the_lr_of_the_user(losses: tuple[float, ...]) -> None:
    outcome = Outcome.COMPLETED if len(losses) == 80 else Outcome.DIVERGED
    assert bounds(losses, outcome) == BLIND


def test_what_comes_after_the_first_loss_that_is_no_number_does_not_count() -> None:
    falling = tuple(1.0 - 0.02 * i for i in range(40))
    whole = bounds(falling, Outcome.DIVERGED)
    assert bounds((*falling, math.nan, -1e30), Outcome.DIVERGED) == whole
    assert whole != BLIND


@hypothesis.given(st.lists(st.floats(width=32), min_size=1, max_size=80))
def test_any_losses_give_bounds_that_can_be_searched(losses: list[float]) -> None:
    low, high = bounds(tuple(losses), Outcome.DIVERGED)
    assert 0 < low < high <= max(lr_range.HIGHEST_LR, 3.1)


@hypothesis.given(
    st.lists(st.integers(-100, 100), min_size=1, max_size=80), st.integers(-4, 4), st.integers(-1000, 1000)
)
def test_the_bounds_are_the_same_whatever_the_unit_and_the_zero_of_the_losses(
    losses: list[int], exponent: int, shift: int
) -> None:
    plain, changed = (
        bounds(tuple(map(float, each)), Outcome.DIVERGED)
        for each in (losses, [2.0**exponent * loss + shift for loss in losses])
    )
    assert changed == pytest.approx(plain)
