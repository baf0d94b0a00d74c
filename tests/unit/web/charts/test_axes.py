from __future__ import annotations

import math

import pytest
from lrpilot.wire.axes import DECADES

from tuner_server.web.charts.axes import Range, fence, of_losses, of_lrs, shown


def test_losses_alike_are_all_within() -> None:
    losses = [0.11, 0.12, 0.1, 0.14, 0.13]
    assert all(loss in fence(losses) for loss in losses)
    assert 0.2 in fence([0.1] * 9), "twice a loss is worth showing, however equal the others are"


@pytest.mark.parametrize("wild", [331.0, -331.0, math.inf, -math.inf, math.nan])
def test_one_far_out_is_beyond_and_moves_nothing(wild: float) -> None:
    losses = [0.11, 0.12, 0.1, 0.14, 0.13]
    limits = fence([*losses, wild])
    assert wild not in limits
    assert shown([*losses, wild], limits) == shown(losses, limits)


def test_two_worlds_are_both_shown() -> None:
    limits = fence([0.1, 0.1, 5.0, 5.0])
    assert 0.1 in limits
    assert 5.0 in limits


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf]])
def test_with_nothing_to_show_there_is_still_an_axis(values: list[float]) -> None:
    assert shown(values, fence(values)) == Range(0.0, 1.0)


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_one_value_has_room_around_it(value: float) -> None:
    axis = shown([value], fence([value]))
    assert axis.low < value < axis.high


def test_losses_of_a_search_don_t_stretch_the_axis_upwards() -> None:
    assert of_losses([2.0, 1.0, None], [2.0, 0.5, 1e9]) == Range(0.5, 2.0)
    assert of_losses([], [3.0, None, 2.0]) == Range(2.0, 3.0), "as long as there is nothing else"
    assert of_losses([None], []) == Range(0.0, 1.0)


def test_a_decay_to_zero_does_not_stretch_the_axis_of_lrs() -> None:
    assert of_lrs([0.1, 0.01], []) == Range(0.01, 0.1)
    assert of_lrs([0.1, 1e-12, 0.0, None], [None]) == Range(0.1 / 10**DECADES, 0.1)
    assert of_lrs([], [0.1, 1e-12]) == Range(0.1 / 10**DECADES, 0.1)
    assert of_lrs([0.0], []) == Range(1.0, 1.0)


def test_a_high_lr_that_a_search_tried_does_not_hide_the_committed_ones() -> None:
    assert of_lrs([1e-4, 1e-5], [1.0]) == Range(1e-5, 1.0)
