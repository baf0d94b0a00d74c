"""The way from the middle of a range to an LR with a worse one on either side."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner_server.core.config import LrBounds
from tuner_server.core.messages import Candidate
from tuner_server.core.search.bracket import (
    GROWTH,
    LEAST_STEP,
    MAX_SPACING,
    MIN_SPACING,
    RANGE_SPACINGS,
    Widening,
    bracket,
    limits,
    outward,
    spacing,
)

BOUNDS = LrBounds(min=1e-3, max=1.0)
"""Three decades: the spacing is the largest one."""
D = MAX_SPACING
MIDDLE = math.log(BOUNDS.middle)


def tried(*found: tuple[float, float | None]) -> tuple[Candidate, ...]:
    """Candidates by their distance from the middle, in d, and their loss; None: they diverged."""
    return tuple(
        Candidate(directive_number=i, lr=math.exp(MIDDLE + x * D), forecast=loss, at_least=None if loss else 9.0)
        for i, (x, loss) in enumerate(found, start=1)
    )


def step(*found: tuple[float, float | None], widening: float = 10.0) -> float | None:
    """The next step outward, as a distance from the middle in d."""
    x = outward(tried(*found), BOUNDS, Widening(widening, widening))
    return None if x is None else (x - MIDDLE) / D


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.011, MIN_SPACING),
        (0.01, 0.01 * math.exp(3.0), 3.0 / RANGE_SPACINGS),
        (1e-6, 10.0, MAX_SPACING),
    ],
)
def test_the_spacing_is_a_part_of_the_range_between_limits(low: float, high: float, expected: float) -> None:
    assert spacing(LrBounds(min=low, max=high)) == pytest.approx(expected)


def test_the_limits_are_the_range_widened_on_either_side() -> None:
    assert limits(BOUNDS, Widening(10.0, 10.0)) == pytest.approx((math.log(1e-4), math.log(10.0)))
    assert limits(BOUNDS, Widening(1.0, 1.0)) == BOUNDS.log


def test_a_range_that_nobody_gave_may_be_left_further_upwards() -> None:
    assert Widening.of(10.0, bounded=True) == Widening(10.0, 10.0)
    assert Widening.of(10.0, bounded=False) == pytest.approx((10.0, 1000.0))
    assert Widening.of(1.0, bounded=False) == Widening(1.0, 1.0)


def test_the_middle_is_tried_first_then_above_then_below() -> None:
    assert step() == pytest.approx(0)
    assert step((0, 1.0)) == pytest.approx(1)
    assert step((0, 1.0), (1, 2.0)) == pytest.approx(-1)
    assert step((0, 1.0), (1, 2.0), (-1, 2.0)) is None


def test_as_long_as_it_improves_it_goes_on_on_that_side() -> None:
    assert step((0, 2.0), (1, 1.0)) == pytest.approx(2)
    assert step((0, 2.0), (1, 1.0), (2, 3.0)) is None
    assert step((0, 2.0), (1, 3.0), (-1, 1.0)) == pytest.approx(-2)


def test_an_lr_that_diverged_is_a_worse_one() -> None:
    assert step((0, 1.0), (1, None)) == pytest.approx(-1)
    assert step((0, 1.0), (1, None), (-1, 2.0)) is None


def test_when_all_diverged_it_goes_down_from_the_lowest_to_the_limit_and_no_further() -> None:
    assert step((0, None)) == pytest.approx(-1)
    assert step((0, None), (-1, None)) == pytest.approx(-2)
    assert step((0, None), (-2.4, None)) == pytest.approx(-2.5)
    assert step((0, None), (-2.5, None)) is None


@pytest.mark.parametrize(("widening", "reach"), [(1.0, 1.5), (10.0, 2.5)])
def test_the_last_step_ends_at_the_limit(widening: float, reach: float) -> None:
    inside = reach - 0.5
    assert step((inside - 1, 2.0), (inside, 1.0), widening=widening) == pytest.approx(reach)
    assert step((inside, 2.0), (reach, 1.0), widening=widening) is None
    almost = reach - LEAST_STEP / 2
    assert step((inside, 2.0), (almost, 1.0), widening=widening) is None


def test_after_a_finer_spacing_steps_grow_up_to_the_usual_one() -> None:
    assert step((0, 2.0), (0.3, 1.0)) == pytest.approx(0.3 + GROWTH * 0.3)
    assert step((0, 2.0), (0.7, 1.0)) == pytest.approx(0.7 + 1)


def test_the_bracket_lies_between_the_best_one_s_neighbours() -> None:
    low, high = bracket(tried((0, 1.0), (1, 2.0), (-1, 2.0), (0.4, 0.9)), BOUNDS, Widening(10.0, 10.0))
    assert ((low - MIDDLE) / D, (high - MIDDLE) / D) == pytest.approx((0, 1))


def test_where_the_best_one_has_no_neighbour_the_bracket_ends_a_step_outward_at_the_limit_at_most() -> None:
    low, high = bracket(tried((2, 1.0)), BOUNDS, Widening(10.0, 10.0))
    assert ((low - MIDDLE) / D, (high - MIDDLE) / D) == pytest.approx((1, 2.5))


bounds = st.tuples(st.floats(1e-6, 1.0), st.floats(1.01, 1e6)).map(lambda b: LrBounds(min=b[0], max=b[0] * b[1]))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(bounds, st.builds(Widening, st.floats(1, 1e3), st.floats(1, 1e3)), st.floats(-20, 20), st.floats(0, 30))
def test_every_bowl_is_bracketed_or_followed_to_a_limit(
    bounds: LrBounds, widening: Widening, best: float, edge: float
) -> None:
    """The bowl's lowest point is anywhere, and above an edge beside it training diverges."""
    candidates: tuple[Candidate, ...] = ()
    while (x := outward(candidates, bounds, widening)) is not None:
        assert len(candidates) < 60
        loss = None if x > best + edge else (x - best) ** 2
        at_least = 9.0 if loss is None else None
        number = len(candidates) + 1
        candidates += (Candidate(directive_number=number, lr=math.exp(x), forecast=loss, at_least=at_least),)
    lowest, highest = limits(bounds, widening)
    if all(candidate.diverged for candidate in candidates):
        assert min(math.log(c.lr) for c in candidates) == pytest.approx(lowest, abs=LEAST_STEP * D)
        return
    low, high = bracket(candidates, bounds, widening)
    found = math.log(min(candidates, key=lambda candidate: candidate.loss).lr)
    assert lowest - 1e-9 <= low <= found + 1e-9
    assert found - 1e-9 <= high <= highest + 1e-9
    slack = LEAST_STEP * D
    assert low - slack <= min(max(best, lowest), highest) <= high + slack
