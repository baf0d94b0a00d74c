"""Whether what a server holds has stayed within bounds.

The first quarter of a soak is its warm-up: pools, caches and the free pages of the database fill. From then on a
quantity may not rise: its highest value in the last quarter is at most `GROWTH` times that in the second one, and a
small part that does not depend on time. Beside that stands by how much it rises in an hour, as a line through the
second half has it, with the standard error: what rises for certain is a leak, however far it is from its bound. Caches
keep what is not renewed for ten minutes, so that in the second half of an hour nothing of the start is left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from benchmarks.soak.observation import Sample

GROWTH = 1.1
SLACK = {"memory_mb": 15.0, "descriptors": 20.0, "threads": 6.0, "database_mb": 4.0}
"""What a quantity may rise by whatever it is: the noise between two quarters of an hour."""
TENTHS = 10
LOG_MB_PER_HOUR = 500.0
"""A line of some 300 bytes for each call: 460 calls a second."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One quantity over a soak."""

    quantity: str
    second_quarter: float
    last_quarter: float
    bound: float
    trend: float
    """By how much it rises in an hour."""
    trend_error: float
    """The standard error of that, from averages over tenths of the second half, as samples that follow are alike."""

    @property
    def kept(self) -> bool:
        """Whether it has stayed within its bound."""
        return self.last_quarter <= self.bound


def findings(samples: Sequence[Sample]) -> list[Finding]:
    """How each quantity has gone. At least one sample is in each quarter."""
    end = samples[-1].seconds
    second = [sample for sample in samples if end / 4 <= sample.seconds < end / 2]
    last = [sample for sample in samples if sample.seconds >= 3 * end / 4]
    found = []
    for quantity, slack in SLACK.items():
        before = max(getattr(sample, quantity) for sample in second)
        after = max(getattr(sample, quantity) for sample in last)
        found.append(Finding(quantity, before, after, GROWTH * before + slack, *_trend(samples, quantity)))
    written = 3600 * (last[-1].log_mb - second[0].log_mb) / (last[-1].seconds - second[0].seconds)
    return [*found, Finding("log_mb_per_hour", written, written, LOG_MB_PER_HOUR, 0.0, 0.0)]


def _trend(samples: Sequence[Sample], quantity: str) -> tuple[float, float]:
    """The slope of a line through the second half, in an hour, and its standard error; NaN: too few samples."""
    half = [sample for sample in samples if sample.seconds >= samples[-1].seconds / 2]
    if len(half) < TENTHS:
        return float("nan"), float("nan")
    hours = np.array([part.mean() for part in np.array_split([sample.seconds / 3600 for sample in half], TENTHS)])
    values = np.array([part.mean() for part in np.array_split([getattr(one, quantity) for one in half], TENTHS)])
    hours -= hours.mean()
    slope = float(hours @ values / (hours @ hours))
    left = values - values.mean() - slope * hours
    return slope, float(np.sqrt(left @ left / (TENTHS - 2) / (hours @ hours)))
