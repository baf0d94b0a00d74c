"""The LRs that are compared, evenly spaced in log LR, and how they correlate with observations.

Notation and shapes (m LRs, n observations, l lengthscales of which g are asked for):

    x     [m]  the LRs, mapped so that the bounds become 0 and 1
    x_i   [n]  the observations, mapped likewise; they may lie outside
    d     [n, m]  |x - x_i|
    r     [l]  the rate at which the exponential of the kernel falls under a lengthscale

The correlations are (1 + r d + (r d)^2 / 3) exp(-r d), see `kernel`. Exponentials take longer than all else of them,
and an exponential of a sum is a product: with e_x = exp(r (x - 1/2)) and e_i likewise, exp(-r d) is the smaller one of
e_x / e_i and e_i / e_x. So there is one exponential for each LR, which is kept, and one for each observation.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tuner_server.core.search.gaussian_process.elimination import einsum
from tuner_server.core.search.gaussian_process.hyperparameters import Grid
from tuner_server.core.search.gaussian_process.kernel import coefficients

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.intp]

_LARGEST_EXPONENT = 600.0
"""Where an observation lies far outside, the larger product must not overflow; the smaller one is 0 then."""


class Lattice(NamedTuple):
    """LRs from one bound to the other.

    Attributes:
        x: [m] the LRs, in units of the range.
        rates: [2, l, 1] r and -r.
        factors: [2, l, m] e_x and 1 / e_x.
        coefficients: [l, 3] of the powers of d in the kernel.
    """

    x: FloatArray
    rates: FloatArray
    factors: FloatArray
    coefficients: FloatArray

    def correlations(self, observed: FloatArray, lengthscales: IndexArray) -> FloatArray:
        """[g, n, m] correlations of observations [n] and the LRs, under lengthscales [g]."""
        n, m, g = len(observed), len(self.x), len(lengthscales)
        exponent = self.rates.take(lengthscales, 1) * (0.5 - observed)
        observed_factors, factors = np.exp(np.minimum(exponent, _LARGEST_EXPONENT)), self.factors.take(lengthscales, 1)
        result: FloatArray = einsum("gn,gm->gnm", observed_factors[0], factors[0])
        np.minimum(result, einsum("gn,gm->gnm", observed_factors[1], factors[1]), out=result)
        # The product's shape doesn't depend on other searches.
        polynomial = np.matmul(self.coefficients.take(lengthscales, 0), self._powers(observed).reshape(3, n * m))
        result *= polynomial.reshape(g, n, m)
        return result

    def _powers(self, observed: FloatArray) -> FloatArray:
        """[3, n, m] 1, d and its square."""
        powers = np.empty((3, len(observed), len(self.x)))
        distance = powers[1]
        powers[0] = 1.0
        np.abs(np.subtract(observed[:, None], self.x, distance), distance)
        np.multiply(distance, distance, powers[2])
        return powers

    def near(self, observed: FloatArray, separation: float) -> list[tuple[int, int]]:
        """Where the LRs that are closer than this to an observation begin, and where they end: n pairs of places."""
        last = len(self.x) - 1
        return [
            (max(math.floor((x - separation) * last) + 1, 0), max(math.ceil((x + separation) * last), 0))
            for x in observed.tolist()
        ]

    def farthest(self, observed: FloatArray) -> int:
        """The place of the LR that is farthest from any observation."""
        return int(np.minimum.reduce(np.abs(observed[:, None] - self.x), 0).argmax())


@functools.lru_cache(maxsize=16)
def lattice(size: int, grid: Grid) -> Lattice:
    """So many LRs, with what the lengthscales of the grid need."""
    x = np.linspace(0.0, 1.0, size)
    rates = -grid.rates[:, None]
    both = np.stack([rates, -rates])
    return Lattice(x, both, np.exp(both * (x - 0.5)), coefficients(rates))
