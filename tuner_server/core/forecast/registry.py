"""The forecasters by name: a new one is a file beside this one, and a line here."""

from __future__ import annotations

from collections.abc import Callable

from tuner_server.core.forecast.base import Forecaster, Objective
from tuner_server.core.forecast.exponential import ExponentialForecaster
from tuner_server.core.forecast.last_value import LastValueForecaster
from tuner_server.core.forecast.power_law import PowerLawForecaster

FORECASTERS: dict[str, Callable[[Objective], Forecaster]] = {
    ExponentialForecaster.name: ExponentialForecaster,
    PowerLawForecaster.name: lambda _: PowerLawForecaster(),
    LastValueForecaster.name: lambda _: LastValueForecaster(),
}
"""What makes each for losses of a kind; most are the same for either."""
