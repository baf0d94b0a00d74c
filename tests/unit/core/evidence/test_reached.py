"""What a run has reached is the lowest level of a stretch of it, and the bars near the peak are held to that."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner_server.core.evidence.reached import ERRORS, FEWEST, SHARE, Reached, after, as_much, held_to
from tuner_server.core.messages import Bar, Setback

START, UNTIL = 2.3, 250
PROMISE = (Bar(from_step=50, loss=1.7), Bar(from_step=100, loss=1.5), Bar(from_step=400, loss=math.inf))


def noisy(level: float, n: int = 200, sd: float = 0.05, seed: int = 0) -> list[float]:
    losses = level + sd * np.random.default_rng(seed).standard_normal(n)
    return [float(loss) for loss in losses]


def known(*reports: list[float]) -> Reached:
    reached = None
    for losses in reports:
        reached = after(reached, losses)
    assert reached is not None
    return reached


def bars(reached: Reached) -> list[float]:
    return [bar.loss for bar in held_to(PROMISE, reached, START, UNTIL)]


def test_the_lowest_stretch_counts_wherever_in_a_report_it_lies() -> None:
    reached = known([*noisy(2.0, 50), *noisy(0.5, 50), *noisy(1.5, 100)], noisy(1.4))
    assert reached.loss == pytest.approx(0.5, abs=0.05)


def test_a_single_low_loss_is_no_level() -> None:
    losses = noisy(1.0)
    losses[17] = -5.0
    assert known(losses).loss == pytest.approx(1.0, abs=0.05)


def test_too_few_losses_reach_nothing() -> None:
    assert after(None, [0.1] * (FEWEST - 1)) is None
    assert after(None, [0.1] * FEWEST) == Reached(loss=0.1, error=0.0)


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf, 1.7e308])
def test_losses_that_say_nothing_are_left_out(lost: float) -> None:
    assert after(None, [lost] * 100) is None
    earlier = Reached(loss=0.3, error=0.01)
    assert after(earlier, [lost] * 100) == earlier
    assert after(None, [lost, 0.1] * 2 * FEWEST) == Reached(loss=0.1, error=0.0)


def test_a_run_that_is_above_its_start_has_nothing_to_keep() -> None:
    """Where validations alone promise anything, no bar is too low for it."""
    promise = (Bar(from_step=50, loss=math.inf, validation=1.0),)
    for level in (START, START + 5.0):
        assert held_to(promise, Reached(loss=level, error=0.0), START, UNTIL) == promise


def test_bars_keep_all_but_a_share_of_what_was_gained() -> None:
    held = held_to(PROMISE, Reached(loss=0.3, error=0.02), START, UNTIL)
    assert [bar.loss for bar in held[:2]] == pytest.approx([0.3 + SHARE * 2.0 + ERRORS * 0.02] * 2)
    assert [bar.reached for bar in held] == [0.3, 0.3, None, None]
    assert [bar.from_step for bar in held] == [50, 100, UNTIL, 400]


def test_a_bar_that_lies_lower_stays() -> None:
    held = held_to(PROMISE, Reached(loss=1.69, error=0.0), START, UNTIL)
    assert [bar.reached for bar in held] == [None] * 4


def test_bars_from_where_the_peak_lies_behind_stay() -> None:
    late = Bar(from_step=UNTIL, loss=1.5)
    assert held_to((late,), Reached(loss=0.3, error=0.0), START, UNTIL) == (late,)


def test_where_the_peak_lies_behind_a_bar_is_what_it_was_again() -> None:
    reached = Reached(loss=0.3, error=0.0)
    held = held_to(PROMISE, reached, START, UNTIL)
    assert held[2:] == (Bar(from_step=UNTIL, loss=PROMISE[1].loss), PROMISE[2])
    assert held_to(held, reached, START, UNTIL) == held


@pytest.mark.parametrize(
    ("loss", "level", "expected"),
    [(1.7, 0.6, True), (1.5, 1.2, True), (0.9, 0.5, False), (1.7, None, False)],
)
def test_an_lr_is_not_the_cause_of_a_rise_that_a_lower_one_has_too(
    loss: float, level: float | None, expected: bool
) -> None:
    earlier = Setback(lr=0.1, loss=1.7, bar=0.8, start_loss=START, gain=1.7, reached=0.6)
    assert as_much(Setback(lr=0.03, loss=loss, bar=0.8, reached=level), earlier) is expected


@pytest.mark.parametrize("sd", [0.01, 0.3, 1.0])
def test_noise_around_a_level_breaks_no_bar(sd: float) -> None:
    """A hundred runs of five reports at one level, which is where each has come to at once."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        reports = 0.5 + sd * rng.standard_normal((5, 100))
        reached = None
        for losses in reports.tolist():
            if reached is not None:
                assert np.median(losses) <= bars(reached)[0]
            reached = after(reached, losses)


@given(st.floats(-100, 100), st.floats(1e-3, 1e3))
def test_a_shift_and_a_unit_of_the_losses_move_the_bars_alike(offset: float, unit: float) -> None:
    losses = noisy(0.4)
    moved = known([(loss + offset) * unit for loss in losses])
    promise = tuple(bar.model_copy(update={"loss": (bar.loss + offset) * unit}) for bar in PROMISE)
    held = held_to(promise, moved, (START + offset) * unit, UNTIL)
    expected = [(bar + offset) * unit for bar in bars(known(losses))]
    assert [bar.loss for bar in held] == pytest.approx(expected, rel=1e-6, abs=1e-6)
