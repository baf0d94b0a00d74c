"""How far the LR that the user set moves the one that a search found."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner_server.core.config import LARGEST_LR, SMALLEST_LR
from tuner_server.core.search.users_lr import SEARCH_SD, USER_SD, toward_users

quickly = settings(max_examples=200, deadline=None, derandomize=True)
lrs = st.floats(math.log(SMALLEST_LR), math.log(LARGEST_LR)).map(math.exp)
users = 0.01


def shift(ratio: float) -> float:
    """By how much the log of an LR moves that is so many times the user's."""
    return math.log(toward_users(users * ratio, users) / (users * ratio))


@pytest.mark.parametrize("ratio", [1.5, 1 / 1.5])
def test_where_both_agree_the_lr_moves_most_of_the_way_that_their_errors_allow(ratio: float) -> None:
    most = SEARCH_SD**2 / (SEARCH_SD**2 + USER_SD**2)
    part = -shift(ratio) / math.log(ratio)
    assert 0.5 * most < part < most


@pytest.mark.parametrize("ratio", [30.0, 1 / 30.0, 1e4, 1e-4])
def test_where_they_disagree_it_stays(ratio: float) -> None:
    assert shift(ratio) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("decades", [5, 30, 60])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_lr_however_far_away_stays_as_it_is(decades: int, sign: int) -> None:
    lr = 10.0 ** (sign * decades)
    assert toward_users(lr, 1.0) == lr


@pytest.mark.parametrize("users_lr", [sys.float_info.max, 5e-324])
@pytest.mark.parametrize("lr", [SMALLEST_LR / 100, LARGEST_LR * 100])
def test_an_lr_of_the_user_that_makes_no_ratio_is_no_reason_to_fail(lr: float, users_lr: float) -> None:
    assert toward_users(lr, users_lr) == lr


@quickly
@given(lrs)
def test_equal_lrs_are_left_alone(lr: float) -> None:
    assert toward_users(lr, lr) == lr


@quickly
@given(st.floats(0, 10))
def test_a_higher_lr_moves_as_far_as_a_lower_one(gap: float) -> None:
    assert shift(math.exp(gap)) == pytest.approx(-shift(math.exp(-gap)), abs=1e-12)


@quickly
@given(lrs, lrs)
def test_what_comes_out_lies_between_the_two(lr: float, users_lr: float) -> None:
    found = toward_users(lr, users_lr)
    assert min(lr, users_lr) <= found <= max(lr, users_lr)


@quickly
@given(lrs, st.floats(1e-6, 5.0), lrs)
def test_of_two_lrs_the_higher_one_stays_the_higher(lr: float, gap: float, users_lr: float) -> None:
    assert toward_users(lr, users_lr) < toward_users(lr * math.exp(gap), users_lr)


@quickly
@given(st.floats(-5, 5), st.floats(-20, 20))
def test_only_the_ratio_of_the_two_counts(gap: float, scale: float) -> None:
    factor = math.exp(scale)
    assert toward_users(factor * math.exp(gap), factor) == pytest.approx(factor * toward_users(math.exp(gap), 1.0))
