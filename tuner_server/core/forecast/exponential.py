"""The exponential forecaster of AutoLRS, made robust.

Notation:
    f(x) = a * exp(b * x) + c, b < 0; x = 0, 1, ..., n - 1 over the probe.
    q = log(-b), the parameter that is searched.
    level = a + c, slope = a * b: the curve and its slope at x = 0.

Source: AutoLRS (Jin et al., ICLR 2021, the section on loss forecasting) and its published code.
The point forecast is the published one; the form of the least squares, the bounds and the standard
error are ours (docs/forecasting.md).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tuner_server.core.forecast.base import FloatArray, Forecast, Objective
from tuner_server.core.forecast.bounds import Bounds
from tuner_server.core.forecast.denoise import MIN_POINTS, denoise
from tuner_server.core.forecast.last_value import LastValueCurve, LastValueForecaster
from tuner_server.core.forecast.nelder_mead import minimise_from_zero
from tuner_server.core.forecast.profile_likelihood import ProfileLikelihood, linear_fit
from tuner_server.core.forecast.series import Series, check_horizon

# Slower than exp(-30) a step the curve is a straight line to rounding for every horizon below
# 1e6; faster than exp(5) it has settled before x = 1.
_MIN_Q, _MAX_Q = -30.0, 5.0

# The tolerance of the published code.
_TOLERANCE = 1e-5

# Rates of the standard error's grid. Slowest: 1% of a time constant over the data, which no data
# can tell from a line; fastest: e^-3 after one step, so that one loss makes the whole transient.
_SLOWEST_SPAN = 0.01
_FASTEST_RATE = 3.0
_N_RATES = 48


@dataclass(frozen=True)
class Exponential:
    """a * exp(b * x) + c, kept as level + slope * expm1(b * x) / b."""

    level: float
    slope: float
    b: float

    @property
    def a(self) -> float:
        """Amplitude; huge and meaningless for near-straight series."""
        return self.slope / self.b

    @property
    def c(self) -> float:
        """Asymptote; huge and meaningless for near-straight series."""
        return self.level - self.a

    def __call__(self, x: float) -> float:
        """Evaluates the curve, without the cancellation of a * exp(b * x) + c."""
        return self.level + self.slope * math.expm1(self.b * x) / self.b


def fit_exponential(values: FloatArray) -> Exponential:
    """Fits a * exp(b * x) + c, b < 0, by Nelder-Mead over log(-b) around linear least squares.

    Args:
        values: (n,), n >= 3, at x = 0, ..., n - 1; finite and of magnitude up to about 1e2.
    """
    x = np.arange(values.size, dtype=np.float64)

    deviations = values - values.mean()
    power = float(deviations @ deviations)

    def sse(q: float) -> float:
        # `linear_fit(...).sse` without its generality: this runs some seventy times a fit. The
        # spread of phi is never 0, because even the fastest rate leaves x = 0 apart.
        phi = np.expm1(_rate(q) * x)
        total = float(phi.sum())
        spread = float(phi @ phi) - total * total / values.size
        return power - float(phi @ deviations) ** 2 / spread

    b = _rate(minimise_from_zero(sse, _TOLERANCE))
    fit = linear_fit(_basis(np.asarray(b), x), values)
    return Exponential(level=float(fit.level), slope=float(fit.slope), b=b)


@dataclass(frozen=True, eq=False)
class ExponentialCurve:
    """A fitted exponential with its bounds and the likelihood that gives its standard error."""

    series: Series
    curve: Exponential
    bounds: Bounds
    likelihood: ProfileLikelihood

    @property
    def a(self) -> float:
        """Amplitude of the raw fit, in units of the loss."""
        return self.curve.a * self.series.scale

    @property
    def b(self) -> float:
        """Rate of the raw fit, per unit of x, negative."""
        return self.curve.b

    @property
    def c(self) -> float:
        """Asymptote of the raw fit, in units of the loss."""
        return self.curve.c * self.series.scale

    def predict(self, horizon: float) -> Forecast:
        """Forecasts the loss at x = `horizon`, within the bounds.

        Raises:
            ValueError: `horizon` is negative or not finite.
        """
        raw = self.curve(check_horizon(horizon))
        # The distance is taken from the raw fit: a forecast that was moved is no surer for it.
        sd = min(self.likelihood.sd(horizon, raw), self.bounds.max_sd)
        return self.series.forecast(self.bounds.bounded(raw), sd, raw)


@dataclass(frozen=True)
class ExponentialForecaster:
    """Extrapolates a * exp(b * x) + c, fitted to the losses after outlier removal.

    Series too short for it (fewer than four losses) get the last value.
    """

    objective: Objective
    name: ClassVar[str] = "exponential"

    def fit(self, losses: FloatArray) -> ExponentialCurve | LastValueCurve:
        """Fits the curve.

        Args:
            losses: (n,), n >= 1, finite.

        Raises:
            ValueError: `losses` is empty, not one-dimensional or not finite.
        """
        series = Series.of(losses)
        values = series.values
        if values.size < MIN_POINTS:
            return LastValueForecaster().fit(losses)
        denoised = denoise(values, self.objective)
        # A small validation series may have lost one of its four points.
        kept = denoised.kept if denoised.kept.size >= MIN_POINTS else np.arange(values.size)
        rates = -np.geomspace(_SLOWEST_SPAN / values.size, _FASTEST_RATE, _N_RATES)
        return ExponentialCurve(
            series=series,
            curve=fit_exponential(denoised.smooth),
            bounds=Bounds.of(values, denoised.smooth),
            likelihood=ProfileLikelihood.of(_basis, rates, kept.astype(np.float64), values[kept], series.resolution),
        )


def _rate(q: float) -> float:
    return -math.exp(min(max(q, _MIN_Q), _MAX_Q))


def _basis(b: FloatArray, x: FloatArray) -> FloatArray:
    phi: FloatArray = np.expm1(b * x) / b
    return phi
