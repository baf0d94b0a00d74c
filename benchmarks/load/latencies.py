"""Latencies as HDR histograms: recorded in client processes, merged here.

A histogram keeps every value to three digits, so percentiles of many processes are those of all their values together,
which averages of percentiles are not (Gil Tene's HdrHistogram).
"""

from __future__ import annotations

from collections.abc import Iterable

from hdrh.histogram import HdrHistogram

HIGHEST_US = 600_000_000
"""Ten minutes: above every deadline."""
DIGITS = 3
PERCENTILES = (50.0, 99.0, 99.9)


def histogram() -> HdrHistogram:
    """An empty one, in microseconds."""
    return HdrHistogram(1, HIGHEST_US, DIGITS)


def record(into: HdrHistogram, seconds: float) -> None:
    """Adds a latency."""
    into.record_value(min(max(round(seconds * 1e6), 1), HIGHEST_US))


def merged(encoded: Iterable[bytes]) -> HdrHistogram:
    """One histogram of all values in several."""
    whole = histogram()
    for part in encoded:
        whole.decode_and_add(part)
    return whole


def percentile_ms(of: HdrHistogram, percentile: float) -> float | None:
    """Milliseconds; None where nothing was recorded."""
    if of.get_total_count() == 0:
        return None
    return float(of.get_value_at_percentile(percentile)) / 1e3
