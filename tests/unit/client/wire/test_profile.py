"""How the LR moves within a directive, alike on both sides of the wire."""

from __future__ import annotations

import dataclasses
import itertools
import math

import hypothesis
import pytest
from hypothesis import strategies as st
from lrpilot.v1 import tuner_pb2
from lrpilot.wire.messages.profiles import profile_from_proto, profile_to_proto
from lrpilot.wire.profile import Profile, Shape

from tests.support.shapes import FALLING, SHAPES, shapes

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


@pytest.mark.parametrize("shape", SHAPES)
def test_a_warm_up_rises_to_the_start_and_the_shape_covers_what_follows(shape: Shape) -> None:
    profile = Profile(shape, 0.8, 0.2, 11, warmup=3)
    first = profile.first_lr
    assert [profile.lr(step) for step in range(3)] == pytest.approx([first / 4, first / 2, first * 3 / 4], rel=1e-12)
    without = Profile(shape, 0.8, 0.2, 8)
    assert [profile.lr(3 + step) for step in range(12)] == [without.lr(step) for step in range(12)]
    assert profile.lr(3) == first
    assert first == pytest.approx(0.8) or shape not in FALLING


def test_the_longest_warm_up_leaves_one_step_at_the_peak() -> None:
    profile = Profile(Shape.LINEAR, 0.4, 0.0, 4, warmup=3)
    assert [profile.lr(step) for step in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.0, 0.0], rel=1e-12)


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize(
    ("shape", "end"),
    [
        (Shape.CONSTANT, 0.3),
        (Shape.LINEAR, 0.0),
        (Shape.LINEAR, 0.9),
        (Shape.EXPONENTIAL, 0.003),
        (Shape.COSINE, 0.0),
    ],
)
def test_past_its_end_a_profile_stays_where_it_came_to(shape: Shape, end: float, warmup: int) -> None:
    profile = Profile(shape, 0.3, end, 20, warmup=warmup)
    assert profile.lr(20) == pytest.approx(end, rel=1e-12)
    assert {profile.lr(step) for step in (21, 30, 10**6)} == {profile.lr(20)}
    assert profile.lr(19) != profile.lr(20) or shape == Shape.CONSTANT


@hypothesis.given(
    shape=shapes,
    start=lrs,
    end=lrs,
    length=st.integers(1, 10_000),
    warmup=st.just(0) | st.integers(1, 1000),
    cuts=st.lists(st.integers(0, 500), max_size=4),
    step=st.integers(0, 500),
)
def test_what_is_left_has_the_same_lrs_bit_for_bit(
    shape: Shape, start: float, end: float, length: int, warmup: int, cuts: list[int], step: int
) -> None:
    whole = Profile(shape, start, end, length, warmup=min(warmup, length - 1))
    rest = whole
    for n_steps in cuts:
        rest = rest.after(n_steps)
    assert rest.lr(step) == whole.lr(sum(cuts) + step)
    assert rest == whole.after(sum(cuts))


@hypothesis.given(shape=shapes, start=lrs, end=lrs, length=st.integers(1, 200))
def test_no_lr_is_above_both_ends_nor_below_both_unless_it_warms_up(
    shape: Shape, start: float, end: float, length: int
) -> None:
    low, high = min(start, end) * (1 - 1e-9), max(start, end) * (1 + 1e-9)
    profile = Profile(shape, start, end, length)
    low = 0.0 if "warmed" in shape.name else low
    assert all(low <= profile.lr(step) <= high for step in range(length + 2))
    assert profile.first_lr == profile.lr(0)
    assert profile.last_lr == profile.lr(length)


@pytest.mark.parametrize("shape", FALLING)
def test_a_shape_falls_from_one_and_most_reach_zero(shape: Shape) -> None:
    profile = Profile(shape, 1.0, 1e-9 if "exponential" in shape.name else 0.0, 1000)
    lrs = [profile.lr(step) for step in range(1001)]
    assert lrs[0] == 1
    assert all(a >= b for a, b in itertools.pairwise(lrs))
    assert profile.top == 0
    stops = {"constant": 1.0, "half_life": 0.0625, "power_scheduler": 0.2**0.51, "step": 0.09, "floored/cosine": 0.25}
    assert lrs[-1] == pytest.approx(stops.get(shape.name, profile.end_lr), rel=1e-9, abs=1e-15)


def test_a_cycle_rises_first_and_its_top_is_known() -> None:
    profile = Profile(Shape("one_cycle"), 0.5, 0.0, 100)
    assert (profile.top, profile.lr(30), profile.peak) == (30, 0.5, 0.5)
    assert profile.highest_lr(20) == profile.lr(19) < profile.lr(20)
    assert profile.after(40).highest_lr(10) == profile.lr(40)
    assert profile.after(20).highest_lr(30) == 0.5
    assert profile.first_lr == pytest.approx(0.02, rel=1e-12)
    assert profile.last_lr == pytest.approx(0.5 / 25e4, rel=1e-12)


@pytest.mark.parametrize(("offset", "n_steps", "top"), [(0, 100, 9), (0, 5, 4), (3, 50, 6), (20, 30, 0), (9, 1, 0)])
def test_the_highest_lr_is_that_of_the_highest_step(offset: int, n_steps: int, top: int) -> None:
    profile = Profile(Shape.COSINE, 0.5, 0.0, 100, offset=offset, warmup=9)
    assert profile.highest_lr(n_steps) == profile.lr(top) == max(map(profile.lr, range(n_steps)))
    assert profile.highest_lr(0) is None


@hypothesis.given(
    shape=shapes,
    start=lrs,
    end=lrs,
    length=st.integers(1, 60),
    offset=st.integers(0, 70),
    warmup=st.integers(0, 59),
    n_steps=st.integers(1, 70),
)
def test_every_shape_knows_its_highest_lr(
    shape: Shape, start: float, end: float, length: int, offset: int, warmup: int, n_steps: int
) -> None:
    profile = Profile(shape, start, end, length, offset, min(warmup, length - 1))
    highest = profile.highest_lr(n_steps)
    assert highest == pytest.approx(max(map(profile.lr, range(n_steps))), rel=1e-12)
    assert highest is not None
    assert highest <= profile.peak * (1 + 1e-9)
    whole = dataclasses.replace(profile, offset=0)
    assert whole.lr(whole.top) == pytest.approx(max(map(whole.lr, range(length + 1))), rel=1e-12)


@hypothesis.given(
    shape=shapes,
    start=lrs,
    end=lrs,
    length=st.integers(1, 60),
    offset=st.integers(0, 70),
    warmup=st.integers(0, 59),
)
def test_a_profile_that_stands_has_one_lr(
    shape: Shape, start: float, end: float, length: int, offset: int, warmup: int
) -> None:
    profile = Profile(shape, start, end, length, offset, min(warmup, length - 1))
    if profile.stands:
        assert set(map(profile.lr, range(70))) == {start}
    elif shape == Shape.CONSTANT:
        assert profile.lr(0) < start


@pytest.mark.parametrize("shape", [Shape.CONSTANT, Shape.LINEAR, Shape.COSINE, Shape("rex"), Shape("wsd")])
def test_to_zero_is_where_a_shape_leads_if_it_moves(shape: Shape) -> None:
    profile = Profile.to_zero(shape, 0.3, 20, warmup=4)
    assert (profile.lr(4), profile.warmup, profile.length) == (0.3, 4, 20)
    assert profile.lr(20) == pytest.approx(0.0 if shape.way.moves else 0.3, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_says_how_it_moves(shape: Shape) -> None:
    assert shape.way.words
    assert shape.way.moves == (shape != Shape.CONSTANT)


@pytest.mark.parametrize(
    ("shape", "start", "end", "length", "offset", "warmup"),
    [
        (Shape.CONSTANT, -0.1, -0.1, 5, 0, 0),
        (Shape.LINEAR, math.nan, 0.1, 5, 0, 0),
        (Shape.LINEAR, 0.1, math.inf, 5, 0, 0),
        (Shape.CONSTANT, 0.1, 0.1, 0, 0, 0),
        (Shape.CONSTANT, 0.1, 0.1, 5, -1, 0),
        (Shape.EXPONENTIAL, 0.1, 0.0, 5, 0, 0),
        (Shape.EXPONENTIAL, 0.0, 0.1, 5, 0, 0),
        (Shape.LINEAR, 0.1, 0.0, 5, 0, 5),
        (Shape.LINEAR, 0.1, 0.0, 5, 0, 6),
        (Shape.LINEAR, 0.1, 0.0, 5, 0, -1),
    ],
)
def test_a_profile_without_an_lr_at_some_step_is_refused(
    shape: Shape, start: float, end: float, length: int, offset: int, warmup: int
) -> None:
    with pytest.raises(ValueError, match="profile"):
        Profile(shape, start, end, length, offset, warmup)


@hypothesis.given(
    shape=shapes,
    start=lrs,
    end=lrs,
    length=st.integers(1, 10_000),
    offset=st.integers(0, 10_000),
    warmup=st.integers(0, 999),
)
def test_every_shape_crosses_the_wire_and_files_and_has_the_same_lrs_bit_for_bit(
    shape: Shape, start: float, end: float, length: int, offset: int, warmup: int
) -> None:
    profile = Profile(shape, start, end, length, offset, min(warmup, length - 1))
    message = profile_to_proto(profile)
    assert tuner_pb2.Profile.FromString(message.SerializeToString()) == message
    crossed = profile_from_proto(message)
    assert crossed == profile
    as_text = dataclasses.replace(profile, shape=Shape.parse(str(shape)))
    places = (0, 1, length // 3, length // 2, length - 1, length, length + 5)
    bits = [[p.lr(step).hex() for step in places] for p in (profile, crossed, as_text)]
    assert bits[0] == bits[1] == bits[2]


def test_a_shape_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="not known"):
        profile_from_proto(tuner_pb2.Profile(start_lr=0.3, end_lr=0.01, length=20))
