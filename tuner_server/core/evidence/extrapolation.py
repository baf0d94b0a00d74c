"""Where the losses of a probe lead, over the steps that may be committed at its LR.

A curve counts in what its losses are apart: steps of a training loss, intervals between validations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner_server.core.forecast import Curve, FloatArray, Forecast, Forecaster, LastValueForecaster
from tuner_server.core.messages import Extrapolation, Report

CURVE_POINTS = 33
"""Points of a curve that are kept: it is smooth."""


@dataclass(frozen=True, eq=False)
class FittedProbe:
    """A curve that was fitted to the losses of a probe."""

    forecaster: str
    curve: Curve
    n_steps: int
    """Steps that may be committed."""
    horizon: float
    """Those steps in the unit of the curve: steps of a training loss, intervals between validations."""
    forecast: Forecast
    """The loss after those steps."""

    @classmethod
    def of(cls, forecaster: Forecaster, losses: FloatArray, n_steps: int, interval: float) -> FittedProbe:
        """Fits the curve.

        Args:
            forecaster: says which one.
            losses: (n,) of the whole probe, finite.
            n_steps: steps that may be committed.
            interval: steps from one loss to the next.

        Raises:
            ValueError: there are no losses, or they are not finite.
        """
        curve, horizon = forecaster.fit(losses), n_steps / interval
        return cls(forecaster.name, curve, n_steps, horizon, curve.predict(horizon))

    def extrapolation(self) -> Extrapolation:
        """The curve, as it is kept."""
        xs = np.linspace(0.0, self.horizon, CURVE_POINTS).tolist()
        losses = tuple(self.curve.predict(x).loss for x in xs)
        return Extrapolation(forecaster=self.forecaster, horizon=self.n_steps, losses=losses)


def fit_probe(forecaster: Forecaster, report: Report, n_steps: int, *, validated: bool, risen: bool) -> FittedProbe:
    """The curve that leads to the loss after `n_steps` at a probe's LR.

    A fall is not extrapolated if the loss rose before it. Then the last value counts, as far as it goes.

    Args:
        forecaster: what is fitted.
        report: on the probe, which was completed.
        n_steps: steps that may be committed.
        validated: whether the validations are fitted, and not the training losses.
        risen: whether the training losses rose above where the probe began.
    """
    losses, interval = np.array(report.losses), 1.0
    if validated:
        losses = np.array([validation.loss for validation in report.validations])
        interval = report.n_steps / len(losses)
    fitted = FittedProbe.of(forecaster, losses, n_steps, interval)
    if not risen:
        return fitted
    last = FittedProbe.of(LastValueForecaster(), losses, n_steps, interval)
    return last if fitted.forecast.loss < last.forecast.loss else fitted
