"""What a surrogate expects at LRs, once it has seen its observations.

Notation and shapes (n observations, m LRs; k settings of the hyperparameters with weights w, g lengthscales among them;
all in loss units):

    c_l  [n, m]   correlations of observations and LRs under the lengthscale l
    R_i  [n, n]   s^2 D^-1/2 L^-1 of a setting i: |R_i c|^2 is the variance that the observations explain
    a_i  [n]      s^2 K^-1 y of a setting: a_i' c is the mean, above what was believed beforehand

The mean and the variance of the mixture need no loop over the settings. Those with one lengthscale share their c, so

    mean      = sum over l of (sum of w_i a_i)' c_l
    variance  = sum of w_i s_i^2 - sum over l of c_l' (sum of w_i (R_i' R_i - a_i a_i')) c_l - mean^2

by the law of total variance, where the inner sums go over the settings that have the lengthscale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tuner_server.core.search.elimination import einsum
from tuner_server.core.search.kernel import matern

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.intp]
PriorMean = Callable[[FloatArray], FloatArray]
"""Expected loss at each of some log LRs, before any observation."""

_LEAST_VARIANCE = 1e-12
"""The least variance of f, in units of y^2: rounding can take it below zero at an observation without noise."""
_ROUNDING = 1e-8
"""The variance of the mixture is right to this, in units of y^2: with two equal LRs and the least noise, what is
subtracted is some 1e7 times as large as what is left."""


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """Mean and variance of the noise-free loss at m LRs, over all settings of the hyperparameters, in loss units.

    Attributes:
        mean: [m] the mean.
        variance: [m] the variance.
        rounding: How far rounding may have taken the variance from the true one.
    """

    mean: FloatArray
    variance: FloatArray
    rounding: float = 0.0


@dataclass(frozen=True, eq=False)
class Posterior:
    """A mixture of k Gaussians at each of m LRs, in loss units.

    Attributes:
        mean: [k, m] mean of the noise-free loss under each hyperparameter setting.
        variance: [k, m] its variance.
        weight: [k] weight of each setting; they add up to 1.
    """

    mean: FloatArray
    variance: FloatArray
    weight: FloatArray

    @cached_property
    def mixture_mean(self) -> FloatArray:
        """The mean over the settings [m]."""
        return self.weight @ self.mean

    @cached_property
    def mixture_variance(self) -> FloatArray:
        """The variance over the settings [m], by the law of total variance."""
        spread = self.mean - self.mixture_mean
        spread *= spread
        spread += self.variance
        return self.weight @ spread

    @property
    def moments(self) -> Moments:
        """The mean and the variance over the settings."""
        return Moments(self.mixture_mean, self.mixture_variance)


@dataclass(frozen=True, eq=False, slots=True)
class Fitted:
    """A surrogate that has seen its observations; made by `Surrogate.fit`."""

    bounds: tuple[float, float]
    """Natural logarithms of the lowest and the highest LR of the search."""
    prior_mean: PriorMean | None
    centre: float
    scale: float
    weight: FloatArray
    """[k] weights of the settings that were kept."""
    x: FloatArray
    """[n] log LR of the observations, in units of the range."""
    variance: FloatArray
    """[k, 1] s^2, of f before any observation."""
    rows: FloatArray
    """[k, n + 1, n] R, and a' as the last row."""
    summed: FloatArray
    """[g, n + 1, n] what is between c' and c in the variance of the mixture, and as the last row -a', weighted sums."""
    rates: FloatArray
    """[g, 1, 1] the kernel's rate for each lengthscale."""
    starts: Sequence[int]
    """[g] where the settings of a lengthscale begin, which are neighbours."""

    def distances(self, x: FloatArray) -> FloatArray:
        """[n, m] how far observations and LRs [m] are apart, in units of the range."""
        distance = self.x[:, None] - x
        return np.abs(distance, distance)

    def outlook(self, x: FloatArray, distances: FloatArray) -> Outlook:
        """What is expected at LRs [m], in units of the range, so far from the observations."""
        # One lengthscale is multiplied after the other, in shapes that don't depend on other searches.
        return Outlook(self, self._offset(x), matern(distances * self.rates))

    def posterior(self, log_lr: FloatArray) -> Posterior:
        """The loss to expect at the LRs [m]; mean and variance only, no covariances."""
        x = normalised(log_lr, self.bounds)
        return self.outlook(x, self.distances(x)).posterior()

    def _offset(self, x: FloatArray) -> FloatArray | float:
        """What was believed beforehand, at the level that the observations have."""
        if self.prior_mean is None:
            return self.centre
        low, high = self.bounds
        return self.centre + self.prior_mean(low + (high - low) * x)


@dataclass(frozen=True, eq=False, slots=True)
class Outlook:
    """What a fitted surrogate expects at m LRs.

    Attributes:
        fitted: The surrogate.
        offset: [m] what was believed beforehand, at the level that the observations have; one number if it is the same
            everywhere.
        correlation: [g, n, m] correlations of observations and LRs.
    """

    fitted: Fitted
    offset: FloatArray | float
    correlation: FloatArray

    def moments(self) -> Moments:
        """Mean and variance over all settings."""
        fitted, n = self.fitted, len(self.fitted.x)
        products = np.matmul(fitted.summed, self.correlation)
        level = np.add.reduce(products[:, n], 0)
        explained = einsum("gnm,gnm->m", products[:, :n], self.correlation)
        explained += level * level
        unit = fitted.scale**2
        variance = np.subtract(fitted.weight @ fitted.variance, explained, explained)
        np.maximum(variance, _LEAST_VARIANCE * unit, out=variance)
        return Moments(np.subtract(self.offset, level, level), variance, _ROUNDING * unit)

    def at(self, places: IndexArray) -> Outlook:
        """What is expected at the LRs with these indices."""
        offset = self.offset if isinstance(self.offset, float) else self.offset.take(places)
        return Outlook(self.fitted, offset, self.correlation.take(places, 2))

    def posterior(self) -> Posterior:
        """What each setting by itself expects."""
        fitted, (_, n, m) = self.fitted, self.correlation.shape
        k, r = len(fitted.weight), n + 1
        rows, products = fitted.rows.reshape(k * r, n), np.empty((k * r, m))
        # One lengthscale is multiplied after the other, in shapes that don't depend on other searches.
        for correlation, start, stop in zip(self.correlation, fitted.starts, [*fitted.starts[1:], k], strict=True):
            np.matmul(rows[start * r : stop * r], correlation, products[start * r : stop * r])
        products = products.reshape(k, r, m)
        explained = einsum("knm,knm->km", products[:, :n], products[:, :n])
        variance = np.subtract(fitted.variance, explained, explained)
        np.maximum(variance, _LEAST_VARIANCE * fitted.scale**2, out=variance)
        return Posterior(products[:, n] + self.offset, variance, fitted.weight)


def normalised(log_lr: FloatArray, bounds: tuple[float, float]) -> FloatArray:
    """Log LRs in units of the range: the bounds become 0 and 1."""
    low, high = bounds
    result: FloatArray = (log_lr - low) / (high - low)
    return result
