"""What a surrogate expects at LRs, once it has seen its observations.

Notation and shapes (n observations, m LRs; k settings of the hyperparameters with weights w, g lengthscales among them;
all in loss units):

    c_l  [n, m]   correlations of observations and LRs under the lengthscale l, see `kernel` and `lattice`
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
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tuner_server.core.search.gaussian_process.elimination import einsum
from tuner_server.core.search.gaussian_process.hyperparameters import Grid
from tuner_server.core.search.gaussian_process.kernel import matern

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.intp]
PriorMean = Callable[[FloatArray], FloatArray]
"""Expected loss at each of some log LRs, before any observation."""

_LEAST_VARIANCE = 1e-12
"""The least variance of f, in units of y^2: rounding can take it below zero at an observation without noise."""
_ROUNDING = 1e-8
"""The variance of the mixture is right to this, in units of y^2: with two equal LRs and the least noise, what is
subtracted is some 1e7 times as large as what is left."""


class Moments(NamedTuple):
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


class Fitted(NamedTuple):
    """A surrogate that has seen its observations; made by `Surrogate.fit`."""

    grid: Grid
    """The settings of the hyperparameters of which some were kept."""
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
    """[g, n, n] what is between c' and c in the variance of the mixture: weighted sums of R' R - a a'."""
    level: FloatArray
    """[g, n] weighted sums of -a'."""
    lengthscales: IndexArray
    """[g] which of the grid's lengthscales the kept settings have."""
    starts: Sequence[int]
    """[g] where the settings of a lengthscale begin, which are neighbours."""
    own: FloatArray
    """[n, n, l] correlations of the observations with each other, under every lengthscale of the grid."""

    def outlook(self, x: FloatArray, correlation: FloatArray) -> Outlook:
        """What is expected at LRs [m], in units of the range, with these correlations [g, n, m] to the observations."""
        return Outlook(self, self._offset(x), correlation)

    def posterior(self, log_lr: FloatArray) -> Posterior:
        """The loss to expect at the LRs [m]; mean and variance only, no covariances."""
        x = normalised(log_lr, self.bounds)
        rates = self.grid.rates.take(self.lengthscales)[:, None, None]
        return self.outlook(x, matern(np.abs(self.x[:, None] - x) * rates)).posterior()

    def lowest_mean(self) -> float:
        """The lowest mean at an observed LR, over all settings."""
        n, correlation = len(self.x), self.own.take(self.lengthscales, 2)
        level = correlation.reshape(n, self.level.size).dot(self.level.T.reshape(self.level.size))
        return float(np.minimum.reduce(self._offset(self.x) - level))

    def _offset(self, x: FloatArray) -> FloatArray | float:
        """What was believed beforehand, at the level that the observations have."""
        if self.prior_mean is None:
            return self.centre
        low, high = self.bounds
        return self.centre + self.prior_mean(low + (high - low) * x)


class Outlook(NamedTuple):
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
        fitted, (g, n, m) = self.fitted, self.correlation.shape
        # One lengthscale is multiplied after the other, in shapes that don't depend on other searches.
        explained = einsum("gnm,gnm->m", np.matmul(fitted.summed, self.correlation), self.correlation)
        level = fitted.level.reshape(g * n).dot(self.correlation.reshape(g * n, m))
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
            rows[start * r : stop * r].dot(correlation, products[start * r : stop * r])
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
