"""Forecasters, which say where the loss of a probe leads. Pure functions of the losses.

`ExponentialForecaster` is the method of AutoLRS (Jin et al., ICLR 2021), `PowerLawForecaster` and
`LastValueForecaster` stand beside it. docs/forecasting.md has the formulas and the measurements.
"""

from tuner_server.core.forecast.base import Curve, FloatArray, Forecast, Forecaster, Objective
from tuner_server.core.forecast.exponential import ExponentialCurve, ExponentialForecaster
from tuner_server.core.forecast.last_value import LastValueCurve, LastValueForecaster
from tuner_server.core.forecast.power_law import PowerLawCurve, PowerLawForecaster
from tuner_server.core.forecast.registry import FORECASTERS

__all__ = [
    "FORECASTERS",
    "Curve",
    "ExponentialCurve",
    "ExponentialForecaster",
    "FloatArray",
    "Forecast",
    "Forecaster",
    "LastValueCurve",
    "LastValueForecaster",
    "Objective",
    "PowerLawCurve",
    "PowerLawForecaster",
]
