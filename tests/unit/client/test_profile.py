"""How the LR moves within a directive, alike on both sides of the wire."""

from __future__ import annotations

import math

import hypothesis
import pytest
from hypothesis import strategies as st
from lrpilot.profile import Profile, Shape

lrs = st.floats(1e-8, 1e3)


def test_constant() -> None:
    profile = Profile.constant(0.3, 5)
    assert [profile.lr(step) for step in range(5)] == [0.3] * 5


def test_linear_decay_to_zero_has_no_step_that_stands_still() -> None:
    profile = Profile(Shape.LINEAR, 1.0, 0.0, 4)
    assert [profile.lr(step) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_exponential_moves_by_one_factor() -> None:
    profile = Profile(Shape.EXPONENTIAL, 1e-4, 1.0, 4)
    assert [profile.lr(step) for step in range(5)] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0], rel=1e-12)


def test_cosine() -> None:
    profile = Profile(Shape.COSINE, 1.0, 0.2, 4)
    assert [profile.lr(step) for step in (0, 2, 4)] == pytest.approx([1.0, 0.6, 0.2], rel=1e-12)
    assert profile.lr(1) == pytest.approx(0.6 + 0.4 * math.cos(math.pi / 4), rel=1e-12)


@hypothesis.given(
    shape=st.sampled_from(Shape),
    start=lrs,
    end=lrs,
    length=st.integers(1, 10_000),
    cuts=st.lists(st.integers(0, 500), max_size=4),
    step=st.integers(0, 500),
)
def test_what_is_left_has_the_same_lrs_bit_for_bit(
    shape: Shape, start: float, end: float, length: int, cuts: list[int], step: int
) -> None:
    whole = Profile(shape, start, end, length)
    rest = whole
    for n_steps in cuts:
        rest = rest.after(n_steps)
    assert rest.lr(step) == whole.lr(sum(cuts) + step)
    assert rest == whole.after(sum(cuts))


@hypothesis.given(shape=st.sampled_from(Shape), start=lrs, end=lrs, length=st.integers(1, 200))
def test_lrs_stay_between_start_and_end(shape: Shape, start: float, end: float, length: int) -> None:
    low, high = min(start, end) * (1 - 1e-9), max(start, end) * (1 + 1e-9)
    profile = Profile(shape, start, end, length)
    assert profile.lr(0) == pytest.approx(start, rel=1e-12)
    assert all(low <= profile.lr(step) <= high for step in range(length))


@pytest.mark.parametrize(
    ("shape", "start", "end", "length", "offset"),
    [
        (Shape.CONSTANT, -0.1, -0.1, 5, 0),
        (Shape.LINEAR, math.nan, 0.1, 5, 0),
        (Shape.LINEAR, 0.1, math.inf, 5, 0),
        (Shape.CONSTANT, 0.1, 0.1, 0, 0),
        (Shape.CONSTANT, 0.1, 0.1, 5, -1),
        (Shape.EXPONENTIAL, 0.1, 0.0, 5, 0),
        (Shape.EXPONENTIAL, 0.0, 0.1, 5, 0),
    ],
)
def test_a_profile_without_an_lr_at_some_step_is_refused(
    shape: Shape, start: float, end: float, length: int, offset: int
) -> None:
    with pytest.raises(ValueError, match="profile"):
        Profile(shape, start, end, length, offset)
