"""The forecaster that extrapolates nothing.

Notation:
    w        number of losses in the window, min(window, n).
    t        log(x + 1): loss curves are nearer to straight in it than in x.
    k        slope of the loss over t in the later half of the series.

The forecast is the mean of the last w losses. It is the baseline that the extrapolation of AutoLRS
(Jin et al., ICLR 2021, the section on loss forecasting) has to beat. Its squared standard error is
that of the mean plus (k^2 + var k) * (t(horizon) - t(window))^2: what the trend, were it to
go on, would still change.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tuner_server.core.forecast.base import FloatArray, Forecast
from tuner_server.core.forecast.profile_likelihood import linear_fit
from tuner_server.core.forecast.series import Series, check_horizon

# Two points make a slope, a third says how far to trust it.
_MIN_TREND_POINTS = 3


@dataclass(frozen=True, eq=False)
class LastValueCurve:
    """A constant, with the doubt that the trend casts on it."""

    series: Series
    level: float
    level_variance: float
    position: float
    """Mean t of the window."""
    squared_trend: float
    """k^2 + var k."""

    def predict(self, horizon: float) -> Forecast:
        """Forecasts the loss at x = `horizon`.

        Raises:
            ValueError: `horizon` is negative or not finite.
        """
        distance = math.log1p(check_horizon(horizon)) - self.position
        variance = self.level_variance + self.squared_trend * distance**2
        return self.series.forecast(self.level, math.sqrt(variance), self.level)


@dataclass(frozen=True)
class LastValueForecaster:
    """Predicts the mean of the last `window` losses.

    Raises:
        ValueError: `window` is less than 1.
    """

    window: int = 10
    name: ClassVar[str] = "last_value"

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")

    def fit(self, losses: FloatArray) -> LastValueCurve:
        """Averages the end of the series.

        Args:
            losses: (n,), n >= 1, finite.

        Raises:
            ValueError: `losses` is empty, not one-dimensional or not finite.
        """
        series = Series.of(losses)
        values = series.values
        t = np.log1p(np.arange(values.size, dtype=np.float64))
        recent = values[-self.window :]
        level = float(recent.mean())
        if values.size == 1:
            # Nothing is known of the noise or the trend: the loss's own size stands in.
            return LastValueCurve(series, level, level**2, 0.0, 0.0)
        n_trend = max(values.size - values.size // 2, min(_MIN_TREND_POINTS, values.size))
        squared_trend, noise = _trend(t[-n_trend:], values[-n_trend:])
        # A window of one has no scatter of its own.
        scatter = float(recent.var(ddof=1)) if recent.size > 1 else noise
        position = float(t[-self.window :].mean())
        return LastValueCurve(series, level, scatter / recent.size, position, squared_trend)


def _trend(t: FloatArray, values: FloatArray) -> tuple[float, float]:
    """Returns k^2 + var k, and the variance of the residuals."""
    fit = linear_fit(t, values)
    noise = float(fit.sse) / max(values.size - 2, 1)
    return float(fit.slope**2 + noise / fit.spread_phi), noise
