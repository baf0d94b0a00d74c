"""What the members of a population try at the same time."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner_server.core.config import LrBounds
from tuner_server.core.messages import Candidate
from tuner_server.core.search import population
from tuner_server.core.search.bracket import MAX_SPACING, MIN_SPACING, Widening, bracket, limits
from tuner_server.core.search.opening import Opening, Trial
from tuner_server.core.search.population import MOST_AT_ONCE
from tuner_server.core.search.suggest import run

BOUNDS = LrBounds(min=1e-3, max=1.0)
"""Three decades: the spacing is the largest one."""
D = MAX_SPACING
MIDDLE = math.log(BOUNDS.middle)
WIDENING = Widening(10.0, 10.0)


def candidate(number: int, x: float, loss: float | None) -> Candidate:
    sd = None if loss is None else 0.0
    return Candidate(directive_number=number, lr=math.exp(x), forecast=loss, forecast_sd=sd)


def tried(*found: tuple[float, float | None]) -> tuple[Candidate, ...]:
    """Candidates by their distance from the middle, in d, and their loss; None: they diverged."""
    return tuple(candidate(i, MIDDLE + x * D, loss) for i, (x, loss) in enumerate(found, start=1))


def proposed(candidates: tuple[Candidate, ...], members: int, bounds: LrBounds = BOUNDS) -> list[Trial]:
    opening = Opening(
        refinements=3,
        max_candidates=8,
        widening=WIDENING,
        length_exponent=0.2,
        moving_steps=20,
        seed=0,
        bounds=bounds,
        prior=None,
    )
    return run(population.next_trials(opening, candidates, members))


def apart(trials: list[Trial]) -> list[float]:
    """As distances from the middle, in d."""
    return [(math.log(trial.lr) - MIDDLE) / D for trial in trials]


@pytest.mark.parametrize(
    ("members", "expected"),
    [(2, [0, 1]), (3, [0, 1, -1]), (4, [0, 1, -1, 2]), (5, [0, 0.75, -0.75, 1.5, -1.5])],
)
def test_the_first_round_is_spread_around_the_middle(members: int, expected: list[float]) -> None:
    assert apart(proposed((), members)) == pytest.approx(expected)


def test_the_first_round_of_a_narrow_range_keeps_to_the_limits_of_the_search() -> None:
    bounds = LrBounds(min=0.99, max=1.01)
    found = [math.log(trial.lr) for trial in proposed((), 100, bounds)]
    low, high = limits(bounds, WIDENING)
    assert len(found) == len(set(found)) == 2 * int((high - low) / 2 / MIN_SPACING) + 1
    assert all(low - 1e-9 <= x <= high + 1e-9 for x in found)


def test_no_more_are_tried_than_tell_anything() -> None:
    assert len(proposed((), 1024)) == MOST_AT_ONCE == population.at_once(1024)


def test_a_best_one_at_the_edge_is_followed_outward_and_refined_as_if_that_were_worse() -> None:
    first, *others = proposed(tried((0, 3.0), (1, 2.0), (-1, 4.0), (2, 1.0)), 4)
    assert apart([first]) == pytest.approx([2.5])  # as far as the widening goes
    assert first.asked is None
    for x, other in zip(apart(others), others, strict=True):
        assert other.asked is not None
        assert 1.0 < x < 2.5


def test_a_side_that_was_not_tried_comes_first() -> None:
    assert apart(proposed(tried((0, 1.0), (1, 2.0)), 2))[0] == pytest.approx(-1)


def test_where_all_diverged_all_go_down() -> None:
    assert apart(proposed(tried((0, None), (1, None)), 4)) == pytest.approx([-1, -2, -2.5])
    assert proposed(tried((0, None), (-2.5, None)), 4) == []


def test_refinements_begin_with_that_of_a_search_of_one_and_keep_apart() -> None:
    candidates = tried((0, 1.0), (1, 1.6), (-1, 1.4))
    alone, several = proposed(candidates, 1), proposed(candidates, 4)
    assert several[0].lr == alone[0].lr
    found = sorted(math.log(trial.lr) for trial in several)
    low, high = bracket(candidates, BOUNDS, WIDENING)
    assert min(b - a for a, b in itertools.pairwise(found)) >= 0.01 * (high - low) * (1 - 1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    members=st.integers(2, 8),
    losses=st.lists(st.none() | st.floats(-10, 10), min_size=2, max_size=8),
    width=st.floats(1.01, 1e4),
)
def test_every_lr_is_within_the_limits(members: int, losses: list[float | None], width: float) -> None:
    bounds = LrBounds(min=1e-3, max=1e-3 * width)
    first = proposed((), len(losses), bounds)
    candidates = tuple(
        candidate(i, math.log(trial.lr), loss) for i, (trial, loss) in enumerate(zip(first, losses, strict=False))
    )
    low, high = limits(bounds, WIDENING)
    found = proposed(candidates, members, bounds)
    assert len(found) <= members
    assert all(low - 1e-9 <= math.log(trial.lr) <= high + 1e-9 for trial in found)
