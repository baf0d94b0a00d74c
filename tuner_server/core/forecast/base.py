"""What every loss forecaster is and gives.

Notation:
    n        number of losses seen.
    losses   (n,), losses[i] is the loss at x = i; in the units of the job's own loss.
    x        steps of the probe for training loss, evaluations of the probe for validation loss.
    horizon  the x at which the loss is wanted, in the units of x.

The idea of judging a learning rate by a forecast of its loss is that of AutoLRS
(Jin et al., ICLR 2021, the section on loss forecasting).
"""

import enum
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class Objective(enum.Enum):
    """Which loss a series holds; the two are cleaned of outliers differently."""

    TRAINING = "training"
    VALIDATION = "validation"


@dataclass(frozen=True)
class Forecast:
    """A predicted loss and how far it is to be trusted.

    Attributes:
        loss: expected loss at the horizon; the noise of single batches is not part of it.
        sd: standard error of `loss`, same units, positive and finite.
        raw: the same before any bound, however wild. It ranks forecasts that a bound made equal.

    Raises:
        ValueError: `loss` or `raw` is not finite, or `sd` is not finite and positive.
    """

    loss: float
    sd: float
    raw: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.loss):
            raise ValueError(f"loss must be finite, got {self.loss}")
        if not math.isfinite(self.raw):
            raise ValueError(f"raw must be finite, got {self.raw}")
        if not (math.isfinite(self.sd) and self.sd > 0.0):
            raise ValueError(f"sd must be finite and positive, got {self.sd}")


class Curve(Protocol):
    """A fitted loss curve."""

    def predict(self, horizon: float) -> Forecast:
        """Forecasts the loss at x = `horizon`.

        Raises:
            ValueError: `horizon` is negative or not finite.
        """
        ...


class Forecaster(Protocol):
    """A family of loss curves that can be fitted to a series."""

    @property
    def name(self) -> str:
        """What options and decisions call it."""
        ...

    def fit(self, losses: FloatArray) -> Curve:
        """Fits a curve to losses at x = 0, 1, ..., n - 1.

        Args:
            losses: (n,), n >= 1, finite.

        Raises:
            ValueError: `losses` is empty, not one-dimensional or not finite. A diverged probe is
                the caller's to handle: it has no forecast.
        """
        ...
