"""Where the losses of a probe lead, over the steps that may be committed at its LR.

A curve counts in what its losses are apart: steps of a training loss, intervals between validations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner_server.core.forecast import Curve, FloatArray, Forecast, Forecaster
from tuner_server.core.messages import Extrapolation

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
    """The same, in what the losses are apart."""
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
