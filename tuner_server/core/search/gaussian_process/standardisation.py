"""Losses in units in which the surrogate's prior holds.

Notation and shapes (n observations):

    y  [n]  loss less the prior mean, winsorised and standardised: (loss - prior_mean - centre) / scale
    v  [n]  the observation's own noise variance, in units of y^2
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

MAX_LOSS = 1e100
"""A larger loss (or noise deviation) is refused: its square, a variance, would come near the end of float64."""
MAX_NOISE_SD = 1e4
"""A deviation, in units of y, that says nothing any more. A larger one would cost the factor its accuracy."""
_WINSOR_REACH = 3.0
"""Losses count up to this many times as far above the median as the best lies below it: past what a bowl does."""
_LOWEST_THRESHOLD = -1e3
"""A level in units of y, more than a hundred times the largest output scale below the centre."""


class Standardised(NamedTuple):
    """The losses of a search in units of y.

    Attributes:
        centre: The loss, above the prior mean, where y is 0.
        scale: The loss that a y of 1 is.
        target: [n] y; where censored, the threshold.
        noise_var: [n] v.
    """

    centre: float
    scale: float
    target: FloatArray
    noise_var: FloatArray


def standardise(residual: FloatArray, noise_var: FloatArray, censored: BoolArray | None) -> Standardised:
    """Standardises the losses less the prior mean; `censored` is None where none is.

    Only those that were seen say where the losses lie, unless there are none.
    """
    if not len(residual):
        return Standardised(0.0, 1.0, residual, noise_var)
    # Of a dozen numbers, lists are faster than arrays.
    residuals, variances = residual.tolist(), noise_var.tolist()
    some = None if censored is None or censored.all() else ~censored
    seen = residuals if some is None else residual[some].tolist()
    noise = variances if some is None else noise_var[some].tolist()
    ordered = sorted(seen)
    lowest, median, worst = ordered[0], _median(ordered), ordered[-1]
    # For a threshold this is a weaker statement and still true: "at least t" implies "at least the worst seen"
    # where that is lower. How far above everything it was is then no number that matters.
    highest = _highest(lowest, median, worst)
    scale = _scale([min(value, highest) for value in seen] if highest < worst else seen, noise)
    target = [(min(value, highest) - median) / scale for value in residuals]
    # Only a threshold can lie far below the rest, and there it says nothing.
    if censored is not None:
        target = [max(value, _LOWEST_THRESHOLD) for value in target]
    most, unit = (MAX_NOISE_SD * scale) ** 2, scale**2
    return Standardised(median, scale, np.array(target), np.array([min(value, most) / unit for value in variances]))


def _highest(lowest: float, median: float, worst: float) -> float:
    """The level at which losses are winsorised, or the worst of them if that is lower.

    A high LR can cost any amount, and no stationary kernel follows a cliff and a shallow optimum beside it. That such
    an LR is bad is all that the search needs. On curves with a cliff it took the mean regret after ten probes from 0.09
    to 0.04 (log expected improvement; the curve falls by 0.15 for each e-fold of the LR, up to the cliff).
    """
    # The second term keeps worse losses apart from the others where most of them are equal.
    reach = max(median - lowest, 0.02 * (worst - median))
    return min(median + _WINSOR_REACH * reach, worst)


def _scale(residual: list[float], noise_var: list[float]) -> float:
    """The standard deviation, with floors that keep it away from 0."""
    mean = math.fsum(residual) / len(residual)
    return max(
        math.sqrt(math.fsum([(value - mean) ** 2 for value in residual]) / len(residual)),
        math.sqrt(_median(sorted(noise_var))),  # differences below the noise are noise
        1e-12 * max(max(residual), -min(residual)),  # constant losses, but for rounding
        1.0 / MAX_LOSS,  # all zero
    )


def _median(ordered: list[float]) -> float:
    # The module `statistics` takes five times as long over a dozen numbers.
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])
