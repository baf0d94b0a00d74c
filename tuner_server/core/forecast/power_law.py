"""The power-law forecaster.

Notation:
    f(x) = c + a * (x + 1)^-alpha, alpha > 0.
    level = a + c, slope = -a * alpha: the curve and its slope over log(x + 1) at x = 0.

Losses of long runs follow power laws better than the exponential of AutoLRS (Jin et al., ICLR
2021, the section on loss forecasting), which settles too early; see for instance the scaling law
with annealing of Tissue et al. (2024). Alpha is found on a grid, refined by a bounded 1-D search;
level and slope are linear least squares.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.optimize import minimize_scalar

from tuner_server.core.forecast.base import FloatArray, Forecast
from tuner_server.core.forecast.bounds import Bounds
from tuner_server.core.forecast.last_value import LastValueCurve, LastValueForecaster
from tuner_server.core.forecast.profile_likelihood import ProfileLikelihood, linear_fit
from tuner_server.core.forecast.series import Series, check_horizon

# Below 0.02 the curve is log(x + 1) for all that a probe can tell; above 4, nine tenths of it are
# over at x = 1.
_ALPHAS = np.geomspace(0.02, 4.0, 48)

# Three parameters, and one loss that tests them.
_MIN_POINTS = 4


@dataclass(frozen=True, eq=False)
class PowerLawCurve:
    """A fitted power law with its bounds and the likelihood that gives its standard error."""

    series: Series
    level: float
    slope: float
    alpha: float
    bounds: Bounds
    likelihood: ProfileLikelihood

    @property
    def a(self) -> float:
        """Amplitude, in units of the loss."""
        return -self.slope / self.alpha * self.series.scale

    @property
    def c(self) -> float:
        """Asymptote, in units of the loss."""
        return self.level * self.series.scale - self.a

    def predict(self, horizon: float) -> Forecast:
        """Forecasts the loss at x = `horizon`, within the bounds.

        Raises:
            ValueError: `horizon` is negative or not finite.
        """
        phi = _basis(np.asarray(self.alpha), np.asarray(check_horizon(horizon)))
        raw = self.level + self.slope * float(phi)
        sd = min(self.likelihood.sd(horizon, raw), self.bounds.max_sd)
        return self.series.forecast(self.bounds.bounded(raw), sd, raw)


@dataclass(frozen=True)
class PowerLawForecaster:
    """Extrapolates c + a * (x + 1)^-alpha.

    Series too short for it (fewer than four losses) get the last value.
    """

    name: ClassVar[str] = "power_law"

    def fit(self, losses: FloatArray) -> PowerLawCurve | LastValueCurve:
        """Fits the curve.

        Args:
            losses: (n,), n >= 1, finite.

        Raises:
            ValueError: `losses` is empty, not one-dimensional or not finite.
        """
        series = Series.of(losses)
        values = series.values
        if values.size < _MIN_POINTS:
            return LastValueForecaster().fit(losses)
        x = np.arange(values.size, dtype=np.float64)
        likelihood = ProfileLikelihood.of(_basis, _ALPHAS, x, values, series.resolution)
        alpha = _refine(x, values, likelihood)
        phi = _basis(np.asarray(alpha), x)
        fit = linear_fit(phi, values)
        level, slope = float(fit.level), float(fit.slope)
        bounds = Bounds.of(values, level + slope * phi)
        return PowerLawCurve(series, level, slope, alpha, bounds, likelihood)


def _refine(x: FloatArray, values: FloatArray, likelihood: ProfileLikelihood) -> float:
    """Searches between the neighbours of the most likely alpha."""
    alphas = likelihood.thetas
    best = int(np.argmin(likelihood.fits.sse))
    lo = np.log(alphas[max(best - 1, 0)])
    hi = np.log(alphas[min(best + 1, alphas.size - 1)])

    def sse(log_alpha: float) -> float:
        return float(linear_fit(_basis(np.asarray(np.exp(log_alpha)), x), values).sse)

    return float(np.exp(minimize_scalar(sse, bounds=(lo, hi), method="bounded").x))


def _basis(alpha: FloatArray, x: FloatArray) -> FloatArray:
    phi: FloatArray = np.asarray(-np.expm1(-alpha * np.log1p(x)) / alpha)
    return phi
