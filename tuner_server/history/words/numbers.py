"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


DIGITS = 3
"""The digits of a number that stands alone."""
MOST_DIGITS = 7
"""Losses come in single precision: what lies beyond is no digit of theirs."""


def number(value: float | None) -> str:
    """Three digits: `0.0123`, `1.23×10⁻⁵`; a dash for None."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    text = f"{value:.{DIGITS}g}"
    if "e" not in text:
        return text.replace("-", "−")
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa.replace('-', '−')}{_power(int(exponent))}"


def told_apart(a: float, b: float) -> tuple[str, str]:
    """Two numbers, with as many digits as it takes to see which is larger: `2.3304`, `2.3312`."""
    texts = number(a), number(b)
    largest = max(abs(a), abs(b))
    if a == b or texts[0] != texts[1] or not math.isfinite(largest):
        return texts
    exponent = _exponent(largest)
    for digits in range(DIGITS + 1, MOST_DIGITS + 1):
        first, second = _fixed((a, b), digits - 1 - exponent, exponent)
        if first != second:
            return first, second
    return texts


def with_error(value: float, sd: float) -> str:
    """A number with as many digits as its standard error has, which has two: `0.11400 ± 0.00016`."""
    largest = max(abs(value), sd)
    if not (math.isfinite(largest) and sd > largest * 10**-MOST_DIGITS):
        return f"{number(value)} ± {number(sd)}"
    exponent = _exponent(largest)
    decimals = 1 - _exponent(float(f"{sd:.1e}"))  # rounded first: 0.0996 is 0.10
    if -5 < exponent < MOST_DIGITS - 1:
        return " ± ".join(_fixed((value, sd), decimals, exponent))
    value_text, sd_text = _fixed((value / 10.0**exponent, sd / 10.0**exponent), decimals + exponent, 0)
    return f"({value_text} ± {sd_text}){_power(exponent)}"


def _exponent(value: float) -> int:
    """The power of ten that a number has in scientific notation."""
    return math.floor(math.log10(value))


def _power(exponent: int) -> str:
    return f"×10{str(exponent).translate(_SUPERSCRIPT)}"


def _fixed(values: Sequence[float], decimals: int, exponent: int) -> list[str]:
    """All to the same digit; as mantissas of the same power of ten where `exponent` is far from zero."""
    suffix = ""
    if not -5 < exponent < MOST_DIGITS - 1:
        values, decimals, suffix = [value / 10.0**exponent for value in values], decimals + exponent, _power(exponent)
    return [f"{value:z.{max(decimals, 0)}f}".replace("-", "−") + suffix for value in values]


def moment(when: datetime) -> str:
    """`2026-01-02 03:04 UTC`."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def count(value: int) -> str:
    """A count with a thin space at the thousands: `12 000`."""
    return f"{value:,}".replace(",", "\u202f")


def share(part: float, whole: float) -> str:
    """A percentage: `2.1%`; one digit after the point below ten."""
    if whole <= 0:
        return "0%"
    percent = 100 * part / whole
    return f"{percent:.1f}%" if 0 < percent < 9.95 else f"{percent:.0f}%"


def steps(value: int) -> str:
    """`1 step`, `12 000 steps`."""
    return f"{count(value)} step" if value == 1 else f"{count(value)} steps"


def age(length: timedelta) -> str:
    """A length of time where there is little room: `1 min` at least, `5 min`, `3 h`, `2 d`."""
    seconds = int(length.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return "1 min"


def ago(length: timedelta) -> str:
    """How long ago something was: `just now`, `5 min ago`."""
    return "just now" if length < timedelta(minutes=1) else f"{age(length)} ago"


def about(seconds: float) -> str:
    """A duration that is known roughly: `12 s`, `3 min`, `2 h 5 min`, `3 d 4 h`."""
    return duration(60 * round(seconds / 60)) if 60 <= seconds < 3_600 else duration(seconds)


def duration(seconds: float) -> str:
    """`12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    for large, small, size, unit in (("d", "h", 86_400, 3_600), ("h", "min", 3_600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            rest = whole % size // unit
            return f"{whole // size} {large}" + (f" {rest} {small}" if rest else "")
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
