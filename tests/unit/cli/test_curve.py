from __future__ import annotations

import math

import pytest

from tuner_server.cli.curve import braille, column_means


def test_a_falling_curve_falls_from_corner_to_corner() -> None:
    lines = braille([0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0], height=2)
    assert lines == ["⠑⢄⠀⠀", "⠀⠀⠑⢄"]


def test_positive_values_are_on_a_logarithmic_scale() -> None:
    assert braille([1000.0, 100.0, 10.0, 1.0], height=1) == braille([3.0, 2.0, 1.0, -0.0], height=1)


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [0.0, 0.0], [1e-300, 1.0], [-1.0, 1.0]])
def test_any_values_can_be_drawn(values: list[float]) -> None:
    lines = braille(values, height=3)
    assert len(lines) == 3
    assert all(len(line) == 1 for line in lines)


def test_columns_are_means_of_what_is_a_number() -> None:
    assert column_means([1.0, 3.0, math.nan, 5.0, math.inf, 7.0], 2) == [2.0, 6.0]
    assert column_means([1.0], 10) == [1.0]
    assert column_means([math.nan], 10) == []
