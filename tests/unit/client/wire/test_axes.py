"""What an axis shows is the same on a dashboard, in a terminal and in a notebook."""

from __future__ import annotations

import pytest
from lrpilot.wire.axes import DECADES, axis_floor, height, highest_loss


def test_a_loss_that_only_a_search_reached_does_not_set_the_axis() -> None:
    assert highest_loss([2.0, 1.0], [1e9]) == 2.0
    assert highest_loss([], [3.0, 2.5, 2.8, 2.9, 1e9]) == 3.0


@pytest.mark.parametrize("spike", [1e3, 1e30, 3e38])
def test_a_batch_whose_loss_exploded_does_not_set_the_axis(spike: float) -> None:
    course = [2.3, 1.4, 0.9, 0.6, 0.4, 0.3, 0.25, 0.2]
    assert highest_loss([*course, spike, 0.2], []) == 2.3
    assert highest_loss([-loss for loss in course] + [spike], []) == -0.2


def test_what_a_run_came_down_from_is_shown_and_so_is_what_most_of_it_is() -> None:
    assert highest_loss([1e4, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0], []) == 1e4
    assert highest_loss([1.0, 1.0, 40.0, 50.0, 45.0, 50.0], []) == 50.0
    assert highest_loss([0.1] * 9 + [0.19], []) == 0.19, "a loss twice as high has not exploded"
    assert highest_loss([2.0], []) == 2.0


def test_a_decay_to_zero_ends_some_decades_down() -> None:
    assert axis_floor([0.1, 0.0], 5.0) == 0.1 / 10**DECADES
    assert axis_floor([0.0, -1.0], 5.0) == 5.0 / 10**DECADES


@pytest.mark.parametrize(
    ("value", "low", "high", "log", "expected"),
    [
        (0.1, 0.01, 1.0, True, 0.5),
        (0.0, 0.01, 1.0, True, 0.0),
        (7.0, 0.01, 1.0, True, 1.0),
        (3.0, 1.0, 5.0, False, 0.5),
        (-3.0, 1.0, 5.0, False, 0.0),
        (3.0, 3.0, 3.0, True, 0.5),
    ],
)
def test_values_beyond_an_axis_are_drawn_at_its_ends(
    value: float, low: float, high: float, log: bool, expected: float
) -> None:
    assert height(value, low, high, log=log) == pytest.approx(expected)
