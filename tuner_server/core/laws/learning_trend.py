"""The learning trend: where a learning curve leads, and from when on that can be believed.

Vilares Ferro, Darriba Bilbao, Ribadas Pena 2017, "Modeling of learning curves with applications to POS tagging",
Computer Speech & Language, arXiv 2402.02515. A quality y that grows with a size x (steps, data) is described by the
power family

    A(x) = c - a x^-b,    a, b > 0

The *learning trend* A_i is its fit to the first i observations. The sequence of trends is the *learning trace*, that of
their asymptotes c_i the *asymptotic backbone*. From the *working level* on the backbone no longer jumps; from the
*prediction level* on its asymptotes are possible ones, too, and the *layer of convergence* |A_i(x_i) - c_i| bounds what
is still to be gained. A loss is described by its negative. All levels count observations, and begin with 3.

For a given b the family is linear in c and a, so a fit is a search over one number, and never fails.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FEWEST = 3
"""Observations of the first trend: the family has three parameters."""
STEEPEST, FLATTEST = 8.0, 0.01
"""Limits of b: above, a curve is a jump to its asymptote; below, it can't be told from a logarithm, which has none."""
GRID = 48
"""Values of b that are tried before the best one is refined."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trend:
    """One power law c - a x^-b.

    Attributes:
        a: how much there is to gain at x = 1; 0 where nothing is.
        b: how fast it is gained.
        c: the asymptote.
    """

    a: float
    b: float
    c: float

    def at(self, x: float) -> float:
        """The quality at a size."""
        return self.c - self.layer(x)

    def layer(self, x: float) -> float:
        """The layer of convergence: how far the quality at a size is from the asymptote."""
        return self.a * math.pow(x, -self.b)


def fit(x: Sequence[float], y: Sequence[float], anchor: float | None = None) -> Trend:
    """The trend of some observations, by least squares.

    Args:
        x: sizes, positive and ascending, three or more.
        y: the quality at each.
        anchor: the former asymptote, as one more observation at infinity; None: there is none. It steadies a trend
            whose observations are distorted.
    """
    from scipy import optimize  # a server that fits nothing need not wait for it

    sizes, values = np.asarray(x, float), np.asarray(y, float)
    if not len(sizes) == len(values) >= FEWEST:
        raise ValueError(f"x, y: {len(sizes)} sizes and {len(values)} observations; give as many of both, 3 or more")
    largest = float(sizes[-1])
    relative = sizes / largest  # all numbers are as large as the observations then
    if anchor is not None:
        relative, values = np.append(relative, np.inf), np.append(values, anchor)

    def error(log_b: float) -> float:
        return _linear(relative, values, float(np.exp(log_b)))[2]

    grid = np.linspace(np.log(FLATTEST), np.log(STEEPEST), GRID)
    best = int(np.argmin([error(log_b) for log_b in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    refined = optimize.minimize_scalar(error, bounds=(low, high), method="bounded", options={"xatol": 1e-10})
    b = float(np.exp(refined.x if refined.fun <= error(grid[best]) else grid[best]))
    c, gain, _ = _linear(relative, values, b)
    return Trend(a=gain * largest**b, b=b, c=c)


def trace(x: Sequence[float], y: Sequence[float], *, anchored_from: int | None = None) -> dict[int, Trend]:
    """The learning trace: the trend of each level.

    Args:
        x: sizes, positive and ascending.
        y: the quality at each.
        anchored_from: the level above which each trend is anchored at the asymptote of the one before (the working
            level, in the paper); None: none is.
    """
    trends: dict[int, Trend] = {}
    for level in range(FEWEST, len(x) + 1):
        anchored = anchored_from is not None and level > anchored_from and level - 1 in trends
        anchor = trends[level - 1].c if anchored else None
        trends[level] = fit(x[:level], y[:level], anchor)
    return trends


def working_level(
    x: Sequence[float], trends: dict[int, Trend], *, nu: float = 2e-5, slowdown: float = 1.0, look_ahead: int = 5
) -> int | None:
    """The first level from which on the backbone no longer jumps; None: it is not reached yet.

    That is the first level i such that for k = i .. i + look_ahead

        |c_(k+1) - c_k| / (x_(k+1) - x_k)  <=  nu^(1/slowdown) / (1 - nu)

    Args:
        x: sizes.
        trends: the trace.
        nu: the verticality threshold, in units of the quality per size.
        slowdown: above 1 it makes the threshold larger.
        look_ahead: how many further levels have to keep it.
    """
    limit = nu ** (1.0 / slowdown) / (1.0 - nu)
    quiet = 0
    for level in sorted(trends)[:-1]:
        jump = abs(trends[level + 1].c - trends[level].c) / (x[level] - x[level - 1])
        quiet = quiet + 1 if jump <= limit else 0
        if quiet > look_ahead:
            return level - look_ahead
    return None


def prediction_level(trends: dict[int, Trend], working: int | None, ceiling: float = 100.0) -> int | None:
    """The first level, from the working level on, whose asymptote is possible; None: it is not reached yet.

    Args:
        trends: the trace.
        working: the working level.
        ceiling: the highest quality that there can be.
    """
    if working is None:
        return None
    return next((level for level in sorted(trends) if level >= working and trends[level].c <= ceiling), None)


def first_level_within(x: Sequence[float], trends: dict[int, Trend], from_level: int, tau: float) -> int | None:
    """The first level, from another one on, at which no more than tau is to be gained; None: there is none yet."""
    levels = (level for level in sorted(trends) if level >= from_level)
    return next((level for level in levels if trends[level].layer(x[level - 1]) <= tau), None)


def _linear(relative: NDArray[np.float64], values: NDArray[np.float64], b: float) -> tuple[float, float, float]:
    """For a given b: the asymptote, what there is to gain at x = 1 (not negative), and the sum of squared errors."""
    power = relative**-b
    centred, deviations = power - power.mean(), values - values.mean()
    gain = max(-float(centred @ deviations) / max(float(centred @ centred), 1e-300), 0.0)
    errors = deviations + gain * centred
    return float(values.mean() + gain * power.mean()), gain, float(errors @ errors)
