"""The forecaster that has losses fall by the same amount whenever the steps double.

Notation:
    t  log(x + 1).
    f  level + slope * t, least squares.
    s  standard deviation of the residuals.

The squared standard error of f at a horizon is s^2 * (1 / n + (t(horizon) - mean t)^2 / sum (t - mean t)^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tuner_server.core.forecast.base import Curve, FloatArray, Forecast
from tuner_server.core.forecast.bounds import Bounds
from tuner_server.core.forecast.last_value import LastValueForecaster
from tuner_server.core.forecast.profile_likelihood import LinearFit, linear_fit
from tuner_server.core.forecast.series import Series, check_horizon

MIN_POINTS = 4
"""Two make a line, the others say how far to trust it."""


@dataclass(frozen=True, eq=False)
class LogLinearCurve:
    """A line over t, within what may be claimed of the series."""

    series: Series
    fit: LinearFit
    bounds: Bounds

    def predict(self, horizon: float) -> Forecast:
        """Forecasts the loss at x = `horizon`.

        Raises:
            ValueError: `horizon` is negative or not finite.
        """
        t = math.log1p(check_horizon(horizon))
        n = self.series.values.size
        raw = float(self.fit.level + self.fit.slope * t)
        variance = float(self.fit.sse) / (n - 2) * (1.0 / n + (t - self.fit.mean_phi) ** 2 / self.fit.spread_phi)
        return self.series.forecast(self.bounds.bounded(raw), min(math.sqrt(variance), self.bounds.max_sd), raw)


@dataclass(frozen=True)
class LogLinearForecaster:
    """Extrapolates the line; a series of fewer than four losses gets the last value."""

    name: ClassVar[str] = "log_linear"

    def fit(self, losses: FloatArray) -> Curve:
        """Fits the line.

        Args:
            losses: (n,), n >= 1, finite.

        Raises:
            ValueError: `losses` is empty, not one-dimensional or not finite.
        """
        series = Series.of(losses)
        values = series.values
        if values.size < MIN_POINTS:
            return LastValueForecaster().fit(losses)
        t = np.log1p(np.arange(values.size, dtype=np.float64))
        fit = linear_fit(t, values)
        return LogLinearCurve(series, fit, Bounds.of(values, fit.level + fit.slope * t))
