from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tuner_server.history.words.numbers import (
    about,
    age,
    ago,
    count,
    duration,
    moment,
    number,
    share,
    steps,
    told_apart,
    with_error,
)


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


@pytest.mark.parametrize(
    ("a", "b", "texts"),
    [
        (2.33, 2.41, ("2.33", "2.41")),
        (2.3304, 2.3312, ("2.330", "2.331")),
        (0.1, 0.10004, ("0.10000", "0.10004")),
        (1.0001e-6, 1.0002e-6, ("1.0001×10⁻⁶", "1.0002×10⁻⁶")),
        (1234.4, 1234.6, ("1234", "1235")),
        (2.0, 2.0, ("2", "2")),
        (2.0, 2.0 + 1e-12, ("2", "2")),
        (0.0, 0.0, ("0", "0")),
        (1.0, math.inf, ("1", "∞")),
    ],
)
def test_two_numbers_have_the_digits_that_tell_them_apart(a: float, b: float, texts: tuple[str, str]) -> None:
    assert told_apart(a, b) == texts
    assert told_apart(b, a) == texts[::-1]


@pytest.mark.parametrize(
    ("value", "sd", "text"),
    [
        (0.114, 0.000159, "0.11400 ± 0.00016"),
        (1.2571, 0.0734, "1.257 ± 0.073"),
        (0.0, 0.683, "0.00 ± 0.68"),
        (-0.0001, 0.683, "0.00 ± 0.68"),
        (1.5, 0.0996, "1.50 ± 0.10"),
        (1234.5, 57.2, "1234 ± 57"),
        (1.5e-6, 2.04e-8, "(1.500 ± 0.020)×10⁻⁶"),
        (4.45e9, 1.2e8, "(4.45 ± 0.12)×10⁹"),
        (2.0, 1e-12, "2 ± 1×10⁻¹²"),
        (2.0, math.inf, "2 ± ∞"),
    ],
)
def test_a_number_has_the_digits_of_its_error(value: float, sd: float, text: str) -> None:
    assert with_error(value, sd) == text


def test_a_moment_has_its_year_and_its_zone() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert moment(when) == moment(when.astimezone(timezone(timedelta(hours=9)))) == "2026-01-02 03:04 UTC"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "1 min"), (59, "1 min"), (60, "1 min"), (3599, "59 min"), (7300, "2 h"), (3 * 86_400, "3 d")],
)
def test_an_age_is_in_its_largest_unit(seconds: float, text: str) -> None:
    assert age(timedelta(seconds=seconds)) == text
    assert ago(timedelta(seconds=seconds)) == ("just now" if seconds < 60 else f"{text} ago")


@pytest.mark.parametrize(
    ("seconds", "text"), [(31.2, "31 s"), (100.0, "2 min"), (3590.0, "1 h"), (7500.0, "2 h 5 min"), (0.0, "0.0 s")]
)
def test_what_is_known_roughly_has_no_seconds_beside_minutes(seconds: float, text: str) -> None:
    assert about(seconds) == text
