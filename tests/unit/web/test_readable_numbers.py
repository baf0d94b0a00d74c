from __future__ import annotations

import math

import pytest

from tuner_server.web.numbers import count, duration, number, share, steps


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.012345, "0.0123"),
        (1.2345e-5, "1.23×10⁻⁵"),
        (12345.0, "1.23×10⁴"),
        (-0.5, "−0.5"),
        (0.0, "0"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("part", "text"), [(0, "0%"), (1, "0.1%"), (99, "9.9%"), (100, "10%"), (1000, "100%")])
def test_shares_are_finer_where_they_are_small(part: int, text: str) -> None:
    assert share(part, 1000) == text
    assert share(part, 0) == "0%"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (59, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (273_700, "3 d 4 h")],
)
def test_durations_have_their_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_thousands_are_set_apart() -> None:
    assert count(1234567) == "1\u202f234\u202f567"
    assert steps(1) == "1 step"
