"""Data that change unannounced are seen in a report, and noise, humps and slow losses are not taken for them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner_server.core.evidence.shift import FEWEST, QUARTERS, SHARE, shifted

START, BEST = 2.3, 0.3


def noisy(level: float, n: int = 200, sd: float = 0.05, seed: int = 0) -> list[float]:
    losses = level + sd * np.random.default_rng(seed).standard_normal(n)
    return [float(loss) for loss in losses]


def test_a_report_far_above_the_best_is_a_shift() -> None:
    level = shifted(noisy(1.5), BEST, START)
    assert level == pytest.approx(1.5, abs=0.05)


def test_one_that_comes_down_again_within_it_is_none() -> None:
    assert shifted([*noisy(3.0, 150), *noisy(0.5, 50)], BEST, START) is None


def test_one_that_a_shift_falls_into_is_left_to_the_next() -> None:
    assert shifted([*noisy(0.3, 60), *noisy(3.0, 140)], BEST, START) is None


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_none(seed: int) -> None:
    """The best is the lowest of many means of ten losses, so that it lies below the level."""
    sd = 0.8
    assert shifted(noisy(0.9, sd=sd, seed=seed), 0.9 - sd, START) is None


def test_a_loss_that_rises_by_less_than_its_share_is_none() -> None:
    rise = SHARE * (START - BEST)
    assert shifted(noisy(BEST + 0.9 * rise, sd=0.01), BEST, START) is None
    assert shifted(noisy(BEST + 1.1 * rise, sd=0.01), BEST, START) is not None


def test_a_run_that_has_gained_nothing_has_nothing_to_lose() -> None:
    assert shifted(noisy(5.0), START, START) is None


def test_a_few_losses_tell_nothing() -> None:
    assert shifted([9.0] * (QUARTERS * FEWEST - 1), BEST, START) is None


@given(st.floats(-100, 100), st.floats(1e-3, 1e3), st.floats(0.3, 3.0))
def test_a_shift_and_a_unit_of_the_losses_change_nothing(offset: float, unit: float, level: float) -> None:
    losses = noisy(level)
    moved = shifted([(loss + offset) * unit for loss in losses], (BEST + offset) * unit, (START + offset) * unit)
    clear = abs(level - BEST - SHARE * (START - BEST)) > 0.05
    if clear:
        assert (moved is None) == (shifted(losses, BEST, START) is None)
