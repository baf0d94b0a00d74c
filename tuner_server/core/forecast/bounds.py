"""What an extrapolation may claim.

Notation:
    values  (n,) losses seen.
    trend   (n,) the same without noise: a fit or a smoothed series.
    lo, hi  least and largest loss that a forecast may name.

A curve a * exp(b * x) + c with b < 0 cannot leave the data faster than a straight line, and at
ten times the length of the data (tau = 10 * tau' in AutoLRS, Jin et al., ICLR 2021) a line has
moved by ten times what was seen. So the bounds change nothing at that horizon but forecasts below
zero, and tame farther ones.
"""

from dataclasses import dataclass

import numpy as np

from tuner_server.core.forecast.base import FloatArray

# How often the observed change may be repeated outside the observed range: tau / tau' of AutoLRS.
REACH = 10.0


@dataclass(frozen=True)
class Bounds:
    """The interval that a forecast has to stay in."""

    lo: float
    hi: float

    @classmethod
    def of(cls, values: FloatArray, trend: FloatArray) -> "Bounds":
        """Derives the bounds from what was seen.

        A falling loss may fall by another `REACH` times its observed fall, a rising one rise
        likewise; neither may turn round and leave the observed range on the other side. A loss
        that was never negative is not forecast to be: most losses cannot be.

        Args:
            values: (n,).
            trend: (n,).
        """
        lo, hi = float(values.min()), float(values.max())
        reach = REACH * float(np.ptp(trend))
        if trend[-1] > trend[0]:
            return cls(lo, hi + reach)
        return cls(max(lo - reach, 0.0) if lo >= 0.0 else lo - reach, hi)

    def bounded(self, loss: float) -> float:
        """Moves `loss` into the bounds."""
        return min(max(loss, self.lo), self.hi)

    @property
    def max_sd(self) -> float:
        """Largest standard deviation of anything within the bounds (Popoviciu's inequality)."""
        return (self.hi - self.lo) / 2.0
