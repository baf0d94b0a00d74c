"""The edge of the forecasters: what comes in is checked and scaled, what goes out is finite.

Notation:
    values      (n,) the losses divided by `scale`.
    scale       a power of two, 1 for every series that stays within `PEAK`.
    resolution  what cannot be told apart, in scaled units.
"""

import math
from dataclasses import dataclass

import numpy as np

from tuner_server.core.forecast.base import FloatArray, Forecast

# The smoothing of the published method and its tolerances are absolute: they were made for losses
# around 1. No cross-entropy starts above 32 (a uniform guess among e^32 classes). Larger losses,
# say a regression's, are scaled down to it, which also keeps their squares from overflowing.
PEAK = 32.0

# Losses travel as 32-bit floats, so that nothing finer than this is known about them.
RELATIVE_RESOLUTION = float(np.finfo(np.float32).eps)
ABSOLUTE_RESOLUTION = float(np.finfo(np.float32).tiny)

_LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True, eq=False)
class Series:
    """A checked loss series, brought to a magnitude at which the fits are well behaved."""

    values: FloatArray
    scale: float
    resolution: float

    @classmethod
    def of(cls, losses: FloatArray) -> "Series":
        """Checks and scales `losses`, (n,).

        Raises:
            ValueError: `losses` is empty, not one-dimensional or not finite.
        """
        values = np.asarray(losses, dtype=np.float64)
        if values.ndim != 1 or values.size == 0:
            raise ValueError(f"losses must be a non-empty vector, got shape {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError("losses must be finite")
        peak = float(np.abs(values).max())
        # A power of two: division by it is exact.
        exponent = max(0, math.frexp(peak / PEAK)[1])
        scale = math.ldexp(1.0, exponent)
        resolution = max(RELATIVE_RESOLUTION * peak / scale, ABSOLUTE_RESOLUTION)
        return cls(values / scale, scale, resolution)

    def forecast(self, loss: float, sd: float, raw: float) -> Forecast:
        """Brings a scaled prediction back to the job's units, with `sd` no finer than known."""
        sd = max(sd, self.resolution) * self.scale
        return Forecast(self._unscaled(loss), min(sd, _LARGEST), self._unscaled(raw))

    def _unscaled(self, loss: float) -> float:
        return float(np.clip(loss * self.scale, -_LARGEST, _LARGEST))


def check_horizon(horizon: float) -> float:
    """Returns `horizon` as it is.

    Raises:
        ValueError: `horizon` is negative or not finite.
    """
    if not (math.isfinite(horizon) and horizon >= 0.0):
        raise ValueError(f"horizon must be finite and not negative, got {horizon}")
    return float(horizon)
