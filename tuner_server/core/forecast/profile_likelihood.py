"""Loss curves that are linear in all but one parameter, and the standard error of their forecasts.

Notation:
    theta  the nonlinear parameter (a rate, an exponent).
    phi    basis(theta, x), with phi = 0 at x = 0.
    f      level + slope * phi, the curve; level and slope are least squares given theta.
    sse    sum of squared residuals of f.
    k      number of thetas on the grid; (k, n) is thetas by points.

The curve that AutoLRS (Jin et al., ICLR 2021, the section on loss forecasting) fits,
a * exp(b * x) + c, is level + slope * expm1(b * x) / b. In this form the limit b -> 0, a straight
line, is an ordinary point, where a and c run off to infinity and the published least squares loses
its rank.

Standard error. On a grid of theta with equal prior weight, the likelihood with level, slope and
noise variance profiled out is proportional to sse^(-(m - 2) / 2), m being the effective number of
independent residuals. The mean squared distance of these curves from the forecast, plus the
least-squares variance of each, is the squared standard error. Unlike the delta method it stays
finite for straight series, and it contains the bias of a forecast that was fitted otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tuner_server.core.forecast.base import FloatArray

Basis = Callable[[FloatArray, FloatArray], FloatArray]
"""(theta, x) -> phi, with broadcasting."""

# The parameters of a curve: level, slope, theta.
_PARAMETERS = 3

# Residuals of a misfit are alike over long stretches; beyond this lag-1 correlation (19 losses
# worth one) a series of a hundred points cannot tell.
_MAX_CORRELATION = 0.9


# Relative weight below which a theta counts as ruled out: some four standard deviations away.
_NEGLIGIBLE = 1e-4


@dataclass(frozen=True, eq=False)
class LinearFit:
    """Least squares of y on (1, phi), for a batch of phi; the fields have the batch's shape."""

    slope: FloatArray
    mean_phi: FloatArray
    mean_y: float
    spread_phi: FloatArray
    """Sum of squared deviations of phi from its mean."""
    residuals: FloatArray
    """The batch's shape and n."""
    sse: FloatArray

    @property
    def level(self) -> FloatArray:
        """The curve where phi is 0."""
        return self.mean_y - self.slope * self.mean_phi


def linear_fit(phi: FloatArray, y: FloatArray) -> LinearFit:
    """Fits y = level + slope * phi in closed form; a constant phi gets slope 0.

    Args:
        phi: (..., n).
        y: (n,).
    """
    mean_phi = phi.mean(axis=-1)
    centred = phi - mean_phi[..., None]
    mean_y = float(y.mean())
    deviations = y - mean_y
    spread_phi = np.einsum("...n,...n->...", centred, centred)
    slope = _ratio(centred @ deviations, spread_phi)
    residuals = deviations - slope[..., None] * centred
    sse = np.einsum("...n,...n->...", residuals, residuals)
    return LinearFit(slope, mean_phi, mean_y, spread_phi, residuals, sse)


@dataclass(frozen=True, eq=False)
class ProfileLikelihood:
    """Curves over a grid of k thetas, weighted by how well they fit; arrays are (k,)."""

    basis: Basis
    thetas: FloatArray
    fits: LinearFit
    weights: FloatArray
    variances: FloatArray
    """The noise variance, times the number of losses that one independent loss is worth."""
    n: int
    """Number of losses fitted."""

    @classmethod
    def of(
        cls, basis: Basis, thetas: FloatArray, x: FloatArray, y: FloatArray, resolution: float
    ) -> "ProfileLikelihood":
        """Weighs the curves by the losses y, (n,), n > 3, at x, (n,).

        Args:
            basis: (theta, x) -> phi.
            thetas: (k,), evenly spaced in the logarithm, of one sign.
            x: (n,).
            y: (n,).
            resolution: size of the smallest residual that means anything, > 0.
        """
        coarse = cls._on_grid(basis, thetas, x, y, resolution)
        # Precise data tell neighbours of the grid apart, and none of them is the truth: a second
        # grid covers what the first one left possible.
        (possible,) = np.nonzero(coarse.weights > _NEGLIGIBLE * coarse.weights.max())
        first = max(int(possible[0]) - 1, 0)
        last = min(int(possible[-1]) + 1, thetas.size - 1)
        fine = np.geomspace(thetas[first], thetas[last], thetas.size)
        return cls._on_grid(basis, fine, x, y, resolution)

    @classmethod
    def _on_grid(
        cls, basis: Basis, thetas: FloatArray, x: FloatArray, y: FloatArray, resolution: float
    ) -> "ProfileLikelihood":
        fits = linear_fit(basis(thetas[:, None], x), y)
        sse = fits.sse + y.size * resolution**2
        best = int(np.argmin(sse))
        worth = _losses_per_independent_loss(fits.residuals[best], resolution)
        effective = max(y.size / worth, _PARAMETERS + 1.0)
        weights = (sse / sse[best]) ** (-0.5 * (effective - 2.0))
        variances = sse / (y.size - _PARAMETERS) * worth
        return cls(basis, thetas, fits, weights / weights.sum(), variances, y.size)

    def sd(self, horizon: float, forecast: float) -> float:
        """Root mean square distance of the loss at `horizon` from `forecast`."""
        fits = self.fits
        beyond = self.basis(self.thetas, np.asarray(horizon)) - fits.mean_phi
        distance = fits.mean_y + fits.slope * beyond - forecast
        leverage = 1.0 / self.n + _ratio(beyond**2, fits.spread_phi)
        return float(np.sqrt(self.weights @ (distance**2 + self.variances * leverage)))


def _ratio(numerator: FloatArray, spread: FloatArray) -> FloatArray:
    # Without spread (a transient that is over before the first kept loss) phi stays at its mean.
    spread = np.asarray(spread)
    return np.divide(numerator, spread, out=np.zeros(spread.shape), where=spread > 0.0)


def _losses_per_independent_loss(residuals: FloatArray, resolution: float) -> float:
    # (1 + r) / (1 - r): variance of the mean of an AR(1) series over that of white noise.
    power = float(residuals @ residuals) + residuals.size * resolution**2
    correlation = float(residuals[1:] @ residuals[:-1]) / power
    correlation = min(max(correlation, 0.0), _MAX_CORRELATION)
    return (1.0 + correlation) / (1.0 - correlation)
