"""Where the LR goes when the end of a run moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lrpilot.wire.rewarming import peak_of_rest, steps_of_rise

PEAK = 0.1


def test_a_run_that_is_over_rises_to_the_line_from_its_peak_to_its_new_end() -> None:
    assert peak_of_rest(PEAK, 0.0, 1000, 1000) == pytest.approx(PEAK / 2)
    assert peak_of_rest(PEAK, 0.0, 1000, 250) == pytest.approx(PEAK / 5)


def test_one_that_is_to_go_on_for_a_little_longer_hardly_moves() -> None:
    assert peak_of_rest(PEAK, 0.05, 1000, 1010) == pytest.approx(0.05, rel=0.02)


def test_one_that_is_made_shorter_stays_where_it_is() -> None:
    assert peak_of_rest(PEAK, 0.05, 1000, 300) == 0.05


@given(present=st.floats(0, 1), steps=st.integers(0, 10**6), remaining=st.integers(0, 10**6))
def test_it_lies_between_the_present_lr_and_the_peak(present: float, steps: int, remaining: int) -> None:
    assert present <= peak_of_rest(PEAK, present, steps, remaining) <= max(PEAK, present)


@given(present=st.floats(0, 1), warmup=st.integers(0, 1000))
def test_a_rise_is_entered_no_higher_than_the_run_is(present: float, warmup: int) -> None:
    behind = steps_of_rise(present, 1.0, warmup)
    assert 0 <= behind <= warmup
    assert behind / (warmup + 1) <= present + 1e-12


def test_a_rise_to_nothing_lies_behind() -> None:
    assert steps_of_rise(0.1, 0.0, 7) == 7
    assert steps_of_rise(0.0, 0.0, 7) == 7
