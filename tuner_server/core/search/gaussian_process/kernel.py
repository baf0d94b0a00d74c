"""The kernel of the surrogate.

Notation: x, log LR, mapped so that the bounds become 0 and 1; l, a lengthscale; d = sqrt(5) |x1 - x2| / l.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def rate(lengthscale: FloatArray) -> FloatArray:
    """The -d of two points at a distance of 1."""
    result: FloatArray = -math.sqrt(5.0) / lengthscale
    return result


def coefficients(rates: FloatArray) -> FloatArray:
    """What the powers of |x1 - x2|, up to the square, are multiplied by [l, 3]; [l, 1] d of two points 1 apart."""
    result: FloatArray = np.concatenate([np.ones_like(rates), rates, rates * rates / 3.0], 1)
    return result


def matern(minus_d: FloatArray) -> FloatArray:
    """Matern-5/2 correlations: (1 + d + d^2 / 3) exp(-d), Rasmussen and Williams (2006), equation 4.17.

    Args:
        minus_d: -d; it is overwritten.
    """
    value = np.multiply(minus_d, 1.0 / 3.0)
    value -= 1.0
    value *= minus_d
    value += 1.0
    value *= np.exp(minus_d, minus_d)
    return value
