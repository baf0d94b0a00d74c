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

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

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

    def outlook(self, x: FloatArray) -> Outlook:
        """What is expected at LRs [m], in units of the range."""
        distance = self.x[:, None] - x
        np.abs(distance, distance)
        # One lengthscale is multiplied after the other, in shapes that don't depend on other searches.
        return Outlook(self, x, distance, matern(distance * self.rates))

    def posterior(self, log_lr: FloatArray) -> Posterior:
        """The loss to expect at the LRs [m]; mean and variance only, no covariances."""
        return self.outlook(normalised(log_lr, self.bounds)).posterior(np.arange(len(log_lr)))


@dataclass(frozen=True, eq=False, slots=True)
class Outlook:
    """What a fitted surrogate expects at m LRs.

    Attributes:
        fitted: The surrogate.
        x: [m] log LR, in units of the range.
        distance: [n, m] how far observations and LRs are apart, in units of the range.
        correlation: [g, n, m] their correlations.
    """

    fitted: Fitted
    x: FloatArray
    distance: FloatArray
    correlation: FloatArray

    def moments(self) -> Moments:
        """Mean and variance over all settings."""
        fitted, n, m = self.fitted, len(self.fitted.x), len(self.x)
        rows = len(fitted.rates) * n
        correlation = self.correlation.reshape(rows, m)
        level = fitted.summed[:, n].reshape(rows) @ correlation
        terms = np.matmul(fitted.summed[:, :n], self.correlation)
        terms *= self.correlation
        variance = np.add.reduce(terms.reshape(rows, m), 0)
        variance += level * level
        unit = fitted.scale**2
        np.subtract(fitted.weight @ fitted.variance, variance, variance)
        np.maximum(variance, _LEAST_VARIANCE * unit, out=variance)
        return Moments(self._offset(self.x) - level, variance, _ROUNDING * unit)

    def posterior(self, places: IndexArray) -> Posterior:
        """What each setting by itself expects at the LRs with these indices."""
        fitted, n, m = self.fitted, len(self.fitted.x), len(places)
        correlation = self.correlation.take(places, 2)
        products = np.empty((len(fitted.weight), n + 1, m))
        for i, (start, stop) in enumerate(itertools.pairwise([*fitted.starts, len(products)])):
            rows = fitted.rows[start:stop].reshape((stop - start) * (n + 1), n)
            np.matmul(rows, correlation[i], products[start:stop].reshape((stop - start) * (n + 1), m))
        explained = products[:, :n]
        explained *= explained
        variance = fitted.variance - np.add.reduce(explained, 1)
        np.maximum(variance, _LEAST_VARIANCE * fitted.scale**2, out=variance)
        return Posterior(products[:, n] + self._offset(self.x[places]), variance, fitted.weight)

    def _offset(self, x: FloatArray) -> FloatArray | float:
        """What was believed beforehand, at the level that the observations have."""
        fitted, (low, high) = self.fitted, self.fitted.bounds
        return fitted.centre if fitted.prior_mean is None else fitted.centre + fitted.prior_mean(low + (high - low) * x)


def normalised(log_lr: FloatArray, bounds: tuple[float, float]) -> FloatArray:
    """Log LRs in units of the range: the bounds become 0 and 1."""
    low, high = bounds
    result: FloatArray = (log_lr - low) / (high - low)
    return result
